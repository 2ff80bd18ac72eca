"""Heads of a search: judged out of fold on ever more images, of which each round keeps the better half."""

from dataclasses import dataclass, field
from typing import Any

from loupe.search.candidate import Candidate, parts
from loupe.search.candidates import Candidates
from loupe.search.evidence import Evidence, is_ahead, ranked

FEATURES = 1280  # of a backbone, for the estimate of its head
SOLVE_SECONDS = 6e-8  # of a head in all L2 strengths, for each image, feature and class
DECODING_SHARE = 0.5  # of the time of a backbone for one image, with its decoding
JUDGE_SECONDS = 2.0  # of a head beside the pass of the images: conversion of its backbone, and solving


@dataclass
class Heads:
    """Rounds over the heads on frozen features.

    Attributes:
        core: candidates that are trained.
        chosen: head whose backbone is trained further; at first the cheapest, then the best.
        judge_seconds: time of a head beside its pass, as the last one has shown.
    """

    core: Candidates
    chosen: Candidate | None = field(init=False)
    judge_seconds: float = JUDGE_SECONDS

    def __post_init__(self) -> None:
        self.chosen = self.core.found.heads[0] if self.core.found.heads else None

    def judge(self, share: float) -> bool:
        """Judge heads out of fold, from cheap to expensive, then the better half on more images.

        Args:
            share: share of the time that is left. With all of it, only heads are judged that could be trained as well,
                and those on several backbones too.

        Returns:
            True where more is known than before, and in the first round.
        """
        core, bank = self.core, self.core.bank
        until = core.clock.spent + share * max(0.0, core.seconds_left())
        known = bank.judgements
        for rung in range(len(bank.rungs)):
            for head in self._candidates(rung, share):
                if bank.rung_of(head.name) >= rung:
                    continue
                each = self.scaled_pass(head)
                expected = each * bank.images_at(rung, head.name) + self.judge_seconds
                after = self.seconds(head, each) if share == 1.0 else 0.0
                if core.is_over() or (bank.judgements and core.clock.spent + expected + after > until):
                    core.record.note(head.name, expected_seconds=expected)
                    continue
                self._judge(head, rung)
        return share < 1.0 or bank.judgements > known

    def _candidates(self, rung: int, share: float) -> list[Candidate]:
        """Heads to judge on a rung: all of them, or the better half of those that are on the rung before."""
        heads = [*self.core.found.heads, *(self.core.found.joint if share == 1.0 else ())]
        if rung == 0:
            return heads
        before = ranked(self.core.bank.evidence_at(rung - 1))
        kept = [one.name for one in before[: (len(before) + 1) // 2]]
        return sorted((head for head in heads if head.name in kept), key=lambda head: kept.index(head.name))

    def _judge(self, head: Candidate, rung: int) -> None:
        """Judge one head out of fold on the images of a rung."""
        core, bank = self.core, self.core.bank
        began, images = core.clock.spent, bank.images_at(rung, head.name)
        evidence = bank.judge(head, rung)
        spent = core.clock.spent - began
        self.judge_seconds = max(JUDGE_SECONDS, spent - self.scaled_pass(head) * images)
        row = core.record.rows[head.name]
        values: dict[str, Any] = {
            "subset": evidence.judged,
            "round": max(1, row.round),
            "seconds": (row.seconds or 0.0) + spent,
        }
        if row.status != "finished":
            values |= {"status": "finished", "began_seconds": began}
        if row.run is None:
            values["training_images"] = len(bank.rungs[rung].rows_N)
        core.say(core.record.change(head.name, **values), on_subset=True)

    def scaled_pass(self, head: Candidate) -> float:
        """Seconds of a backbone for one image: measured, or scaled by its arithmetic from the largest that was.

        Reading and preparing an image takes the same time for all, so that this is too much rather than too little.
        """
        if head.members:
            return sum(self.scaled_pass(one) for one in head.members)
        pass_seconds = self.core.bank.pass_seconds
        key = (head.network, head.size_px)
        if key in pass_seconds:
            return pass_seconds[key]
        of_flop = {(one.network, one.size_px): one.flop for one in self.core.found.heads}
        largest = max(
            (known for known in pass_seconds if known in of_flop), key=lambda known: of_flop[known], default=None
        )
        return 0.0 if largest is None else pass_seconds[largest] / of_flop[largest] * head.flop

    def seconds(self, head: Candidate, each: float, part: int | None = None) -> float:
        """Expected seconds of a head that learns from all training images, or from a part of them.

        A training decodes all images, also those that it does not learn from.

        Args:
            each: seconds of its backbone for one image.
        """
        counts, classes = self.core.found.counts(), len(self.core.found.images.table.classes)
        train = counts["train"] if part is None else part
        solving = SOLVE_SECONDS * train * FEATURES * max(1, len(head.members)) * classes
        decoded = DECODING_SHARE * (counts["train"] - train)
        return each * (train + counts["val"] + counts["test"] + decoded) + solving + self.core.overhead_seconds

    def train_best(self) -> None:
        """Train the best head on all images, or the next best one if the time is short."""
        core, bank = self.core, self.core.bank
        heads = {head.name: head for head in (*core.found.heads, *core.found.joint)}
        for evidence in self._ranked():
            head = heads[evidence.name]
            if core.record.rows[head.name].run is not None:  # by all images
                self.chosen = head
                return
            each = self.scaled_pass(head)
            left = core.seconds_left(each)
            fitting = [part for part in parts(len(core.found.split.train)) if self._improves(head, part)]
            part = next((part for part in fitting if self.seconds(head, each, part) <= left), False)
            if core.is_too_large(head) or part is False:
                core.record.note(head.name, expected_seconds=self.seconds(head, each))
                continue
            of_heads = core.best is None or core.best.candidate.kind == "features"
            judged = len(bank.rungs[bank.rung_of(head.name)].rows_N) if of_heads else 0
            if core.train(core.of_part(head, part), self.seconds(head, each, part), judged_images=judged):
                self.chosen = head
                return

    def _ranked(self) -> list[Evidence]:
        """Judged heads, the best one first; those that were judged on more images precede the others."""
        bank, order, names = self.core.bank, list[Evidence](), set[str]()
        for rung in reversed(range(len(bank.rungs))):
            found = [one for one in ranked(bank.evidence_at(rung)) if one.name not in names]
            order += found
            names |= {one.name for one in found}
        return order

    def _improves(self, head: Candidate, part: int | None) -> bool:
        """True unless the best candidate is a head that learned from more images and is not clearly worse.

        Where both were judged on the same few images, a difference above its standard error is clear.
        """
        best = None if self.core.best is None else self.core.best.candidate
        if best is None or best.kind != "features" or part is None:
            return True
        most = best.training_images or len(self.core.found.split.train)
        if part < most:
            return self._is_ahead(head, best)
        return (best.network, best.size_px, most) != (head.network, head.size_px, part)

    def _is_ahead(self, head: Candidate, best: Candidate) -> bool:
        """True if a head was more accurate than that of the best candidate, on the same images, by more than chance."""
        names = {(one.network, one.size_px): one.name for one in self.core.found.heads}
        name, bank = names.get((best.network, best.size_px)), self.core.bank
        if name is None:
            return False
        rung = min(bank.rung_of(head.name), bank.rung_of(name))
        return rung >= 0 and is_ahead(bank.evidence[rung][name], bank.evidence[rung][head.name])
