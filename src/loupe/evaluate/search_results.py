"""Results of `loupe train --time-limit`: the content of search.json, typed. Reports read nothing else of a search."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator

from loupe.evaluate.estimate import Estimate
from loupe.evaluate.paired import Difference
from loupe.records import Part, Quantity, Seconds, TextRecord, Whole

FILE = "search.json"

Flop = Annotated[float, Field(ge=0, lt=1e30)]
Kind = Literal["features", "last-block", "finetune", "from-scratch", "blend", "soup", "distilled"]
Status = Literal["planned", "skipped", "finished", "stopped", "failed"]


class BackboneAtHand(Part):
    """Pretrained backbone whose weights are on this machine."""

    backbone: str
    weights: str
    parameters: Whole


class Restrictions(Part):
    """Limits on what may be delivered; None without a limit.

    Attributes:
        allow_blend: True if several networks may be delivered together.
        predict_within_seconds: longest time of a prediction of one image on this machine.
        size_bytes: largest size of the weights.
    """

    allow_blend: bool = False
    predict_within_seconds: Seconds | None = None
    size_bytes: Whole | None = None


class Judged(Part):
    """Figures of a candidate on the images that it was judged by.

    Attributes:
        evidence: `out-of-fold` predictions of training and validation images, or predictions of `validation` images.
        images: number of these images.
        log_loss: at the temperature that is best on these images.
        macro_f1: where the classes are unbalanced, so that it decides.
    """

    evidence: Literal["out-of-fold", "validation"]
    images: Whole
    accuracy: Estimate
    log_loss: Quantity
    macro_f1: Quantity | None = None


class SearchedCandidate(Part):
    """One candidate of a search, whether it was reached or not.

    Attributes:
        name: unique in the search; the folder of its run in `candidates/`.
        title: settings in words.
        settings: settings by name: backbone, weights, size_px, epochs, precision and so on.
        flop: arithmetic of training it, by which candidates of a kind are ordered; it does not depend on a clock.
        status: `planned`: the time did not reach it. `skipped`: it cannot win or may not be delivered, or a better one
            of its kind was taken. `stopped`: begun, and stopped by the limit or by a signal.
        reason: of a candidate that was skipped, stopped or failed.
        round: 1 for a candidate judged on a subset of the images only, 2 for one judged on all of them.
        training_images: number of images that it learned from.
        expected_seconds: as estimated before it began; None if it was not estimated.
        began_seconds: start of its work, counted from the start of the command.
        seconds: duration of its work.
        subset: figures on the subset of the first round.
        judged: figures on all images.
        against_best: accuracy minus that of the best candidate before it, on the same images, with its interval.
        is_better: True if it then became the best one.
        predict_seconds: time of a prediction of one image, measured; None if it was not measured.
        weights_bytes: size of its weights.
        run: folder of its run, as seen from the folder of search.json; None without a run.
    """

    name: str
    kind: Kind
    title: str
    settings: dict[str, JsonValue]
    flop: Flop
    status: Status
    reason: str | None = None
    round: Whole = 0
    training_images: Whole = 0
    expected_seconds: Seconds | None = None
    began_seconds: Seconds | None = None
    seconds: Seconds | None = None
    subset: Judged | None = None
    judged: Judged | None = None
    against_best: Difference | None = None
    is_better: bool = False
    predict_seconds: Seconds | None = None
    weights_bytes: Whole | None = None
    run: str | None = None


class SpentSeconds(Part):
    """Seconds of the parts of a search, and those that it held back for its end."""

    start: Seconds = 0.0
    candidates: Seconds = 0.0
    end: Seconds = 0.0
    total: Seconds = 0.0
    reserved: Seconds = 0.0


class SearchResults(TextRecord):
    """A search, as search.json holds it; the file is written anew after each candidate.

    Attributes:
        state: `running` until the end, also after a killed process.
        command: command that began the search.
        limit_seconds: time limit, from the start of the command on.
        images: number of images in each split.
        at_hand: pretrained backbones that it could use.
        order: names of the candidates in the order of the plan, from cheap to expensive.
        candidates: in the order in which they were tried, then those that were not reached, in the order of the plan.
        delivered: name of the candidate that the run of this folder is; None before the first one.
        why: reason for it, in sentences.
        meaning: meaning of the validation figures after a choice among so many candidates.
        more: what more time would give, as far as it can be told, in sentences.
        next: recommended command.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Restore it, or start the search under another --name."

    version: str
    name: str
    dataset: str
    command: str
    environment: dict[str, JsonValue]
    state: Literal["running", "finished", "stopped"]
    seed: Whole
    limit_seconds: Seconds
    seconds: SpentSeconds
    images: dict[Literal["train", "val", "test"], Whole]
    classes: Whole
    at_hand: tuple[BackboneAtHand, ...]
    restrictions: Restrictions
    order: tuple[str, ...]
    candidates: tuple[SearchedCandidate, ...]
    delivered: str | None
    why: str
    meaning: str
    more: tuple[str, ...]
    next: str | None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        names = [one.name for one in self.candidates]
        if len(set(names)) != len(names):
            raise ValueError("the names of the candidates must differ")
        if self.delivered is not None and self.delivered not in names:
            raise ValueError(f"the delivered candidate {self.delivered!r} is not among the candidates")
        return self

    @property
    def tried(self) -> Sequence[SearchedCandidate]:
        """Candidates with figures on all images, in the order in which they ended."""
        return [one for one in self.candidates if one.status == "finished" and one.judged]

    @property
    def chosen(self) -> SearchedCandidate | None:
        """Candidate that was delivered."""
        return next((one for one in self.candidates if one.name == self.delivered), None)
