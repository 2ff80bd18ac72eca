"""Network specifications: small convolutional networks, layer by layer, and pretrained backbones with a new head."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from loupe.config.base import Count, Fraction, Positive, RecipeValue


class ConvBlock(RecipeValue):
    """Convolutions, one for each entry of `filters`, then normalisation, max-pooling and dropout, in that order.

    `norm`: `each` puts batch normalisation after the activation of every convolution, `block` once before the pooling.
    `pool_px`: 1 for no pooling.
    """

    filters: tuple[Count, ...]
    kernel_px: Count = 3
    padding: Literal["same", "valid"] = "same"
    activation: Literal["relu", "none"] = "relu"
    norm: Literal["none", "each", "block"] = "none"
    pool_px: Count = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Dense(RecipeValue):
    """Hidden fully connected layer with ReLU, then dropout."""

    units: Count
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class CnnSpec(RecipeValue):
    """Small convolutional network: blocks, then hidden layers, then one output for each class.

    `norm_momentum` is PyTorch's (1 minus Keras's); `norm_epsilon` is Keras's by default. `init`: `glorot` is Keras's
    default (uniform weights, biases 0), `uniform` is RandomUniform(-0.05, 0.05), `he` is Kaiming-normal for ReLU.
    """

    name: str
    blocks: tuple[ConvBlock, ...]
    pooling: Literal["flatten", "average"] = "flatten"
    hidden: tuple[Dense, ...] = ()
    norm_momentum: Fraction = 0.01
    norm_epsilon: Positive = 1e-3
    init: Literal["glorot", "uniform", "he"] = "glorot"


class BackboneSpec(RecipeValue):
    """timm backbone with a new head: pooling, hidden layers, one output for each class.

    `backbone`: timm name (`resnet50.a1_in1k`), or a width that timm lacks, such as `mobilenetv1_075`. `weights`: `timm`
    downloads pretrained weights once from timm's hub, `none` initialises at random; else a file, an `hf-hub:` name or
    a `local-dir:` name. `pooling`: `own` keeps the backbone's pooling; `average` and `flatten` pool its last feature
    map, as Keras's `include_top=False` does.
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
