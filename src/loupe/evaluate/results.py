"""Results of a run: the content of results.json, on which scripts rely.

Fractions, not percent; seconds; an undefined figure is null and has a `why`. A key is never renamed, and a file written
by an earlier version is read as it is: what it lacks has a default here.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from loupe.evaluate.blend_results import BlendVerdict
from loupe.evaluate.confidence_results import Calibration, Probability, Selective
from loupe.evaluate.estimate import Estimate
from loupe.evaluate.history import StageResult, read_stages
from loupe.provenance import MadeOf, ParentRun
from loupe.recipes.published.publication import Published
from loupe.records import Part, Quantity, Record, Seconds, Whole
from loupe.rundir import RunDirectory

FILE = "results.json"


class ClassScores(Part):
    """Scores of one class; None where there is nothing to divide by, and `why` then says so.

    Attributes:
        recall_low, recall_high: 95 % interval of the recall.
        support: the images of the class.
    """

    name: str = Field(alias="class")
    precision: Probability | None
    recall: Probability | None
    f1: Probability | None
    recall_low: Probability | None = None
    recall_high: Probability | None = None
    support: Whole
    why: str | None = None


class GroupAccuracy(Part):
    """Accuracy on the images of one group."""

    group: str
    images: Whole
    accuracy: Estimate


class GroupsLeftOut(Part):
    """Groups of too few images, and how many images these are."""

    groups: Whole
    images: Whole


class GroupAccuracies(Part):
    """Accuracy by group; `rows` is None where there is nothing to show, and `why` says so."""

    rows: tuple[GroupAccuracy, ...] | None
    left_out: GroupsLeftOut | None = None
    why: str | None = None


class Calibrated(Part):
    """Log loss and calibration error at the model's temperature; None without labelled images."""

    temperature: float
    log_loss: float | None
    ece: float | None


class Evaluation(Part):
    """Metrics of one split. A metric that is added to METRICS stands in it under its key, and in `metric(key)`.

    Attributes:
        confusion_matrix: counts, a row for each true class, a column for each predicted one.
        per_group: None in files of before there were groups.
        calibrated, test_looks, tta: of a later evaluation alone, not of results.json. `tta` is the name of its
            test-time augmentation.
    """

    __pydantic_extra__: dict[str, Estimate | Any] = Field(init=False)

    images: Whole
    accuracy: Estimate
    macro_f1: Estimate
    micro_f1: Estimate
    weighted_f1: Estimate
    roc_auc: Estimate
    log_loss: Estimate
    ece: Estimate
    per_class: tuple[ClassScores, ...]
    confusion_matrix: tuple[tuple[Whole, ...], ...]
    per_group: GroupAccuracies | None = None
    calibrated: Calibrated | None = None
    test_looks: Whole | None = None
    tta: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        classes = len(self.per_class)
        if len(self.confusion_matrix) != classes or any(len(row) != classes for row in self.confusion_matrix):
            raise ValueError(f"confusion_matrix must have {classes} rows and columns, as there are classes")
        ends = (self.accuracy.low, self.accuracy.value, self.accuracy.high)
        if self.images and any(end is None or not 0 <= end <= 1 for end in ends):
            raise ValueError("accuracy of some images must have a value and an interval from 0 to 1")
        return self

    def metric(self, key: str) -> Estimate:
        """A metric by its key in METRICS; undefined where the file is older than the metric."""
        found = getattr(self, key, None)
        return found if isinstance(found, Estimate) else Estimate(value=None, why="not measured")

    @property
    def mistakes(self) -> int:
        hits = sum(row[index] for index, row in enumerate(self.confusion_matrix))
        return sum(map(sum, self.confusion_matrix)) - hits


class FoldEvaluation(Evaluation):
    """Metrics of training and validation images, each predicted by a solved head that did not learn from its fold.

    Attributes:
        folds: number of folds.
        l2_strength: of the head of each fold.
        chosen_on: what chose that strength: `validation` images, or the `folds` themselves.
        learned: images that each head learned from, on average.
    """

    folds: Whole
    l2_strength: Quantity
    chosen_on: Literal["validation", "folds"]
    learned: Whole


class RefitResult(Part):
    """Head that learned from training and validation images together: their number, and its L2 strength."""

    images: Whole
    l2_strength: Quantity


class ImageCounts(Part):
    """Images of each split."""

    train: Whole
    val: Whole
    test: Whole

    @property
    def counts(self) -> dict[Literal["train", "val", "test"], int]:
        return {"train": self.train, "val": self.val, "test": self.test}


class Parameters(Part):
    """Parameters of the network."""

    total: Whole
    trainable: Whole
    non_trainable: Whole


class Layer(Part):
    """One row of the layer table; `output` is the shape without the batch."""

    name: str
    type: str
    output: tuple[Whole, ...]
    parameters: Whole
    trainable: bool


class SecondsSpent(Part):
    """Seconds of each part of a run.

    Attributes:
        frozen: computing the frozen blocks' activations, or finding them.
        epoch_mean: an epoch, with its validation; None where no stage was trained in steps.
        folds: predicting by folds, and the refit.
        frozen_alone: computing them where nothing is found in the cache; None where that is not known.
    """

    load: Seconds
    frozen: Seconds = 0.0
    frozen_alone: Seconds | None = None
    train: Seconds
    epoch_mean: Seconds | None
    folds: Seconds = 0.0
    evaluate: Seconds
    total: Seconds

    @property
    def by_itself(self) -> float | None:
        """Seconds of a run that finds nothing in the cache, without loading; None where not known.

        Files of before there was `frozen_alone` do not say whether activations were computed or found.
        """
        known = "frozen_alone" in self.model_fields_set or bool(self.frozen)
        alone = self.frozen_alone if known else 0.0
        return None if alone is None else self.total - self.load + alone - self.frozen


class UnreadImages(Part):
    """Number of image files of one class and one format that could not be read; `label` is None without a class."""

    label: str | None
    format: str
    images: Whole


class DiagnosisResult(Part):
    """Diagnosis of the learning curves; `next` is the command that follows its advice."""

    verdict: str | None = None
    epoch: Whole | None = None
    text: str
    settings: tuple[str, ...] = ()
    next: str | None = None


class RunResults(Record):
    """The content of results.json.

    Attributes:
        split_hash: identifies the test images; None without any.
        validation, test: None for a split that is empty or locked.
        folds: out-of-fold evaluation of a head that is the only trained part; None with many images, and in files of
            before there was one.
        refit: None unless the head learned from validation images too. Then `validation` has the part of the folds'
            predictions that is of validation images, and the epochs or L2 strengths are those of the head before.
        calibration, selective: None in files of before there were.
        test_looks: evaluations of these test images in this runs folder.
        epochs: rows of metrics.csv: epochs, and the L2 strengths of a solved head.
        best_epoch: the row of the weights that were kept.
        stages: epochs or L2 strengths of each stage; empty in files of before there were.
        stopped: why training ended before its last planned epoch.
        images_per_second: None where no stage was trained in steps.
        parent: trained classifier from whose weights the run started, if any.
        made_of: runs that it was made of without training; empty for all that were trained.
        blend: verdict on a run that was made of others.
        distilled: verdict on a run that learned from a teacher, beside it.
        damaged: images that were left out.
        unread: image files that could not be read, and were left out.
        published: published figures of the experiment that the recipe reproduces.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Restore it, train again, or use the version of Loupe that wrote it."

    version: str
    name: str | None = None
    dataset: str
    recipe: str
    network: str | None = None
    seed: Whole
    split_hash: str | None
    classes: tuple[str, ...]
    images: ImageCounts
    validation: Evaluation | None
    test: Evaluation | None
    folds: FoldEvaluation | None = None
    refit: RefitResult | None = None
    calibration: Calibration | None = None
    selective: Selective | None = None
    test_looks: Whole
    parameters: Parameters
    layers: tuple[Layer, ...] = ()
    epochs: Whole
    best_epoch: Whole | None
    stages: tuple[StageResult, ...] = ()
    stopped: str | None = None
    seconds: SecondsSpent
    images_per_second: Annotated[float, Field(ge=0, lt=1e12)] | None
    precision: str
    frozen_precision: str | None = None
    device: str
    parent: ParentRun | None = None
    made_of: tuple[MadeOf, ...] = ()
    blend: BlendVerdict | None = None
    distilled: BlendVerdict | None = None
    damaged: Whole
    unread: tuple[UnreadImages, ...] = ()
    diagnosis: DiagnosisResult | None = None
    published: Published | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for block in (self.validation, self.test, self.folds):
            if block and len(block.per_class) != len(self.classes):
                raise ValueError(f"per_class must have {len(self.classes)} rows, as there are classes")
        return self

    @property
    def splits(self) -> dict[str, Evaluation]:
        """The splits that were evaluated, by name: `validation`, `test`."""
        both = {"validation": self.validation, "test": self.test}
        return {name: block for name, block in both.items() if block}

    @property
    def judged(self) -> dict[str, Evaluation]:
        """Evaluations by the titles of their columns: `validation`, `5 folds`, `test`.

        After a refit, the folds take the place of the validation images, which are a part of them.
        """
        if self.folds is None:
            return self.splits
        kept = {name: block for name, block in self.splits.items() if name != "validation"}
        before = {} if self.refit or self.validation is None else {"validation": self.validation}
        return {**before, f"{self.folds.folds} folds": self.folds, **kept}


def results_file(run: RunDirectory) -> Path:
    return run.file(FILE)


def results_of(run: RunDirectory) -> RunResults | None:
    """The results of a run; None where it is not finished.

    Raises:
        RecordError: they cannot be read.
    """
    return RunResults.read_if_there(results_file(run))


def stages_of(run: RunDirectory, results: RunResults | None) -> tuple[StageResult, ...]:
    """Stages of a run: those of its results, else from its recipe and metrics.csv; empty where these cannot be read."""
    return results.stages if results and results.stages else read_stages(run)
