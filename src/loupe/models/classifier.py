"""A network with what it takes to use it: the preprocessing of its input and the classes of its output."""

from torch import Tensor, nn

from loupe.recipe import Preprocessing


class Classifier(nn.Module):
    """A trunk that makes features and a head that makes logits.

    Attributes:
        preprocessing: from a decoded image to the input.
        classes: the class of each logit, in order.
    """

    def __init__(
        self, trunk: nn.Module, head: nn.Module, preprocessing: Preprocessing, classes: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.preprocessing = preprocessing
        self.classes = classes

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits, [B, classes]."""
        logits_BK: Tensor = self.head(self.trunk(x_BCHW))
        return logits_BK
