"""Results of `loupe labels`, its JSON output: labels that look wrong, and the effect of training without them."""

from collections import Counter
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from loupe.config.size import Size, SizePx
from loupe.records import Fraction, OsText, Part, Quantity, TextRecord, Whole

Points = Annotated[float, Field(ge=-1, le=1)]  # a difference of two fractions


class LabelFinding(Part):
    """Label of one image, compared with the out-of-fold prediction.

    Attributes:
        suggested: most likely class other than `label`.
        score: probability of `label`. score_of_suggested: probability of `suggested`.
    """

    path: str
    split: str | None
    label: str
    suggested: str
    score: Fraction
    score_of_suggested: Fraction


class Share(Part):
    """Accuracy with its 95 % interval."""

    value: Fraction
    low: Fraction
    high: Fraction


class AccuracyDifference(Part):
    """Difference of two accuracies on the same images, with its 95 % interval."""

    value: Points
    low: Points
    high: Points


class PairedAccuracy(Part):
    """Accuracy of heads trained with and without the suspects, on the same images.

    Attributes:
        difference: `without` minus `with`.
        gained: number of images that are correct only without the suspects. lost: number of the reverse.
    """

    images: Whole
    with_suspects: Share = Field(alias="with")
    without: Share
    difference: AccuracyDifference
    gained: Whole
    lost: Whole


class LabelEffect(Part):
    """Effect of training without the suspects, evaluated on all images and on those that are not suspects."""

    all: PairedAccuracy
    unsuspected: PairedAccuracy


class LabelResults(TextRecord):
    """Findings about the labels of a data set.

    Attributes:
        strengths: L2 strength of the heads of each fold. left_out: labels left out in each fold.
        examined, suspected: number of labels in each split. doubtful: number of images that are not suspects but have
            another most likely class.
        suspects: the least likely label first.
        unlearned: sentence where the heads are not clearly better than always predicting the most common class; then
            their disagreement with a label says nothing about the label. None where they are, and in older files.
        files: paths of the written files by name.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Run loupe labels again."

    dataset: str
    network: str
    size_px: SizePx
    seed: Whole
    folds: Whole
    strengths: tuple[Quantity, ...]
    left_out: tuple[Whole, ...]
    classes: tuple[str, ...]
    examined: dict[str, Whole]
    suspected: dict[str, Whole]
    doubtful: Whole
    effect: LabelEffect
    suspects: tuple[LabelFinding, ...]
    unlearned: str | None = None
    files: dict[str, OsText] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _examined_labels(self) -> Self:
        if self.images < max(1, len(self.suspects)):
            raise ValueError(f"{self.images} examined labels and {len(self.suspects)} suspects")
        return self

    @property
    def size(self) -> Size:
        """Size of the network's input."""
        return Size.of(self.size_px)

    @property
    def images(self) -> int:
        """Number of examined labels."""
        return sum(self.examined.values())

    @property
    def confused(self) -> list[tuple[str, str, int]]:
        """Number of suspects for each pair of label and suggested class, most frequent first."""
        pairs = Counter((item.label, item.suggested) for item in self.suspects)
        return [(label, suggested, number) for (label, suggested), number in pairs.most_common()]
