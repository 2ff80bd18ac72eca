"""One published experiment: what a document did, and the figures that came out."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from loupe.records import Fraction, Quantity, Seconds, Whole


@dataclass(frozen=True)
class Published:
    """One experiment as a document describes it, and what came out.

    Attributes:
        network, pixels, training: the document's wording, shortened.
        accuracy: a fraction; with `accuracy_to`, the lower end of a range. None where no figure is given.
        epochs: the most that were trained; with early stopping, fewer.
        seconds: of the whole training; seconds_per_epoch: of one epoch; both on the document's machine, a GPU.
        parameters, non_trainable: Keras's counts, in which the running statistics of batch normalisation are
            non-trainable parameters; None where neither printed nor derivable.
        outputs: of the network; 1 stands for a sigmoid between two classes.
        quick_epochs: the target for the quick form, one eighth of the epochs; quick_epochs_most: the bound.
        weights: the pretrained network that it starts from; None: from scratch.
        remark: what a reader of the figure should know.
    """

    name: str
    dataset: Literal["cifar10", "cats_vs_dogs"]
    network: str
    pixels: str
    training: str
    epochs: Whole
    accuracy: Fraction | None = None
    accuracy_to: Fraction | None = None
    judged_on: Literal["test", "validation"] = "test"
    micro_f1: Fraction | None = None
    roc_auc: Fraction | None = None
    log_loss: Quantity | None = None
    seconds: Seconds | None = None
    seconds_per_epoch: Seconds | None = None
    parameters: Whole | None = None
    non_trainable: Whole | None = 0
    derived: bool = False
    outputs: Whole = 10
    weights: str | None = None
    remark: str = ""

    @property
    def quick_epochs(self) -> int:
        return max(1, self.epochs // 8)

    @property
    def quick_epochs_most(self) -> int:
        return self.epochs // (2 if self.epochs <= 10 else 4)

    def to_json(self) -> dict[str, Any]:
        """The row as results.json and `loupe recipes NAME --json` show it."""
        return asdict(self)
