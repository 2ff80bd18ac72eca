"""Network specifications: small convolutional networks, layer by layer, and pretrained backbones with a new head."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from loupe.config.base import Count, Fraction, Positive, RecipeValue


class ConvBlock(RecipeValue):
    """Convolutions, one for each entry of `filters`, then normalisation, max-pooling and dropout, in that order.

    `norm`: `each` puts batch normalisation after the activation of every convolution, `block` once before the pooling.
    `norm_first` puts it before the activation and after the pooling; such a convolution has no bias, which the
    normalisation would remove. `pool_px`: 1 for no pooling. `pool_after`: convolution that the pooling follows.
    """

    filters: tuple[Count, ...]
    kernel_px: Count = 3
    padding: Literal["same", "valid"] = "same"
    activation: Literal["relu", "gelu", "none"] = "relu"
    norm: Literal["none", "each", "block"] = "none"
    norm_first: bool = False
    pool_px: Count = 2
    pool_after: Literal["first", "last"] = "last"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Dense(RecipeValue):
    """Hidden fully connected layer with ReLU, then dropout."""

    units: Count
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class CnnSpec(RecipeValue):
    """Small convolutional network: blocks, then hidden layers, then one output for each class.

    `norm_momentum` is PyTorch's (1 minus Keras's); `norm_epsilon` is Keras's by default. `init`: `glorot` is Keras's
    default (uniform weights, biases 0), `uniform` is RandomUniform(-0.05, 0.05), `he` is Kaiming-normal for ReLU,
    `identity` the same, but the first filters of a convolution pass their input on.

    `whitening_px`: above 0, the first layer is a fixed convolution of that side without padding, with a GELU. Its
    filters are the principal components of patches of the training images, scaled to unit variance, and their
    negatives (Jordan 2024, arXiv:2404.00498). `pooling`: `max` and `average` reduce a map to one value of each channel.
    `weights`: `none` initialises at random; else the folder of a run of the same network, whose weights are taken.
    """

    name: str
    blocks: tuple[ConvBlock, ...]
    whitening_px: Annotated[int, Field(ge=0)] = 0
    pooling: Literal["flatten", "average", "max"] = "flatten"
    hidden: tuple[Dense, ...] = ()
    norm_momentum: Fraction = 0.01
    norm_epsilon: Positive = 1e-3
    init: Literal["glorot", "uniform", "he", "identity"] = "glorot"
    weights: str = "none"


class BackboneSpec(RecipeValue):
    """timm backbone with a new head: pooling, hidden layers, one output for each class.

    `backbone`: timm name (`resnet50.a1_in1k`), or a width that timm lacks, such as `mobilenetv1_075`. `weights`: `timm`
    downloads pretrained weights once from timm's hub, `none` initialises at random; else a file, the folder of a run,
    an `hf-hub:` name or a `local-dir:` name. `pooling`: `own` keeps the backbone's pooling; `average` and `flatten`
    pool its last feature map, as Keras's `include_top=False` does.
    """

    backbone: str
    weights: str = "timm"
    pooling: Literal["own", "average", "flatten"] = "own"
    hidden: tuple[Dense, ...] = ()

    @property
    def name(self) -> str:
        return self.backbone


def _kind(value: Any) -> str:
    keys = value if isinstance(value, Mapping) else type(value).model_fields if isinstance(value, RecipeValue) else ()
    return "backbone" if "backbone" in keys else "cnn"


Network = Annotated[Annotated[CnnSpec, Tag("cnn")] | Annotated[BackboneSpec, Tag("backbone")], Discriminator(_kind)]


def without_weights(network: Network) -> Network:
    """Network that is initialised at random."""
    return network.model_copy(update={"weights": "none"})
