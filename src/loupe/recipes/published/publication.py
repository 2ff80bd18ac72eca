"""Published experiment: its description in a document, and its figures."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from loupe.records import Fraction, Quantity, Seconds, Whole


@dataclass(frozen=True)
class Published:
    """Published experiment: its description in a document, and its figures.

    Attributes:
        network, pixels, training: description in the document's words, shortened.
        accuracy: fraction; with `accuracy_to`, the lower end of a range; None if no figure is given.
        epochs: number of epochs; with early stopping, the most.
        seconds, seconds_per_epoch: time of the whole training, and of one epoch, on the GPU of the document.
        parameters, non_trainable: Keras's counts, in which the running statistics of batch normalisation are
            non-trainable parameters; None if neither printed nor derivable.
        outputs: number of outputs of the network; 1 is a sigmoid for two classes.
        quick_epochs: target for the quick form, one eighth of the epochs.
        quick_epochs_most: upper limit for the quick form.
        weights: pretrained network that training starts from; None: random weights.
        remark: note on the figures.
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
        """Experiment as plain data, as in results.json and `loupe recipes NAME --json`."""
        return asdict(self)
