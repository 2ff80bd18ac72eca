"""Blend at the end of a search: the gain that one would bring, and its delivery with --allow-blend if it is better.

It is better if the difference to the best candidate, with shares selected on other images, exceeds chance. The best
candidate was chosen by the same images, which is in its favour.
"""

import shutil
from dataclasses import dataclass

from loupe.errors import LoupeError, counted, enumerated, sentences
from loupe.evaluate.blend_results import SURE
from loupe.evaluate.paired import Difference, difference_of_hits
from loupe.evaluate.search_results import SearchedCandidate
from loupe.log import duration, terminal
from loupe.report import run_page
from loupe.rundir import RunDirectory
from loupe.runs.run import Run
from loupe.search import words
from loupe.search.blend import Library, blend, library
from loupe.search.candidate import Candidate
from loupe.search.candidates import MOST_IN_BLEND, Candidates
from loupe.search.trainings import validation

NAME = "blend"


@dataclass(frozen=True)
class Offer:
    """Blend that greedy selection has found among the candidates.

    Attributes:
        rows: its members.
        shares: share of each run of `known`; 0 for those that are no members.
        difference: accuracy minus that of the best candidate.
    """

    known: Library
    rows: tuple[SearchedCandidate, ...]
    shares: tuple[float, ...]
    difference: Difference

    @property
    def predict_seconds(self) -> float:
        """Expected time of a prediction of one image: the sum of those of its members."""
        return sum(row.predict_seconds or 0.0 for row in self.rows)

    @property
    def is_better(self) -> bool:
        return self.difference.value > 0 and self.difference.p < SURE


def consider(core: Candidates) -> str:
    """Look for a blend of the best candidates, and deliver it if that is allowed and it is better by more than chance.

    Returns:
        Sentences on it; empty where there are too few candidates, or a signal has ended the search.
    """
    rows = core.record.strongest(MOST_IN_BLEND)
    if core.best is None or core.stop.is_sent or len(rows) < 2:
        return ""
    if core.best.candidate.name not in [row.name for row in rows]:
        rows = (core.record.rows[core.best.candidate.name], *rows[:-1])
    try:
        found = _offer(core, rows)
    except LoupeError as error:
        return f"No blend was tried: {error}"
    if found is None:
        return f"No blend of the best {len(rows)} candidates has a lower validation log loss than one of them alone."
    each = core.record.rows[core.best.candidate.name].predict_seconds or found.predict_seconds
    titles = enumerated([row.title for row in found.rows])
    said = words.offered(titles, found.difference, found.predict_seconds / each)
    if not core.restrictions.allow_blend:
        hint = "To deliver a blend where it is better by more than chance: --allow-blend" if found.is_better else ""
        return sentences(said, hint)
    if not found.is_better:
        return sentences(said, "It is not delivered, as that may be chance")
    if problem := core.too_costly(found.predict_seconds, sum(row.weights_bytes or 0 for row in found.rows)):
        return sentences(said, f"It is not delivered: {problem}")
    if (needed := core.blend_seconds(found.rows) + core.reserve.end(found.predict_seconds)) > core.clock.left:
        return sentences(said, f"It is not delivered: that would take {duration(needed)}, beyond the limit")
    _deliver(core, found)
    return sentences(said, "It is delivered")


def _offer(core: Candidates, rows: tuple[SearchedCandidate, ...]) -> Offer | None:
    """Blend of some candidates; None if greedy selection takes one of them alone.

    Raises:
        LoupeError: their inputs cannot be shared, or files of a run cannot be read.
    """
    assert core.best is not None
    device = str(core.found.device)
    known = library([Run(RunDirectory(core.directory.path / str(row.run)), device=device) for row in rows])
    shares = known.shares()
    members = tuple(row for row, share in zip(rows, shares, strict=True) if share > 0)
    if len(members) < 2:
        return None
    best = [row.name for row in rows].index(core.best.candidate.name)
    hits = {
        name: (of_NK.argmax(axis=1) == known.label_N)[None]
        for name, of_NK in ((rows[best].name, known.log_p_MNK[best]), (NAME, known.cross_fitted()))
    }
    return Offer(known, members, shares, difference_of_hits(rows[best].name, NAME, hits))


def _deliver(core: Candidates, found: Offer) -> None:
    """Make the run of the blend, and that of the search."""
    began = core.clock.spent
    folder = core.directory.path / "candidates"
    shutil.rmtree(folder / NAME, ignore_errors=True)  # of a search that was killed here
    device = str(core.found.device)
    with terminal(quiet=True), run_page.left_out():
        made = blend(found.known.runs, output=folder, name=NAME, device=device)
    candidate = Candidate(
        name=NAME,
        kind="blend",
        title=f"blend of {counted(len(found.rows), 'candidate')}",
        recipe=made.recipe,
        flop=sum(row.flop for row in found.rows),
    )
    core.record.plan(candidate)
    evidence = validation(made, NAME)
    verdict = made.results.blend
    core.record.change(
        NAME,
        status="finished",
        round=2,
        began_seconds=began,
        seconds=core.clock.spent - began,
        training_images=max(row.training_images for row in found.rows),
        judged=evidence.judged,
        against_best=found.difference,
        is_better=True,
        predict_seconds=verdict.predict_seconds if verdict else found.predict_seconds,
        weights_bytes=(made.directory.model / "weights.safetensors").stat().st_size,
        run=made.path.relative_to(core.directory.path).as_posix(),
    )
    core.deliver(candidate, made, evidence)
    core.say(core.record.rows[NAME])
