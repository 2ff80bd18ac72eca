"""Networks as data: small convolutional ones, layer by layer, and pretrained backbones with a new head."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from loupe.config.base import Count, Fraction, Frozen, Positive


class ConvBlock(Frozen):
    """Convolutions, one for each entry of `filters`, then normalisation, max-pooling and dropout, in that order.

    `norm`: `each` puts batch normalisation after every convolution's activation, `block` once, before the pool.
    `pool_px` 1: no pool.
    """

    filters: tuple[Count, ...]
    kernel_px: Count = 3
    padding: Literal["same", "valid"] = "same"
    activation: Literal["relu", "none"] = "relu"
    norm: Literal["none", "each", "block"] = "none"
    pool_px: Count = 2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Dense(Frozen):
    """A hidden fully connected layer with ReLU, then dropout."""

    units: Count
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class CnnSpec(Frozen):
    """A small convolutional network: blocks, then hidden layers, then one output for each class.

    Batch normalisation has Keras's epsilon; `norm_momentum` is PyTorch's (1 minus Keras's). `init`: `glorot` is Keras's
    default for weights (uniform, biases 0), `uniform` its RandomUniform(-0.05, 0.05), `he` is Kaiming-normal for ReLU.
    """

    name: str
    blocks: tuple[ConvBlock, ...]
    pooling: Literal["flatten", "average"] = "flatten"
    hidden: tuple[Dense, ...] = ()
    norm_momentum: Fraction = 0.01
    norm_epsilon: Positive = 1e-3
    init: Literal["glorot", "uniform", "he"] = "glorot"


class BackboneSpec(Frozen):
    """A network of timm with a new head: pooling, hidden layers, one output for each class.

    `backbone` is its timm name (`resnet50.a1_in1k`), or `mobilenetv1_075` and its like, widths that timm has not.
    `weights`: `timm` for those of timm's hub, which stay on this machine after the first time; `none` for random ones;
    else a file, an `hf-hub:` name or a `local-dir:` one. `pooling`: `own` ends as the backbone's own classifier begins,
    `average` and `flatten` take its last feature map, as Keras's `include_top=False` does.
    """

    backbone: str
    weights: str = "timm"
    pooling: Literal["own", "average", "flatten"] = "own"
    hidden: tuple[Dense, ...] = ()

    @property
    def name(self) -> str:
        return self.backbone


def _kind(value: Any) -> str:
    keys = value if isinstance(value, Mapping) else type(value).model_fields if isinstance(value, Frozen) else ()
    return "backbone" if "backbone" in keys else "cnn"


Network = Annotated[Annotated[CnnSpec, Tag("cnn")] | Annotated[BackboneSpec, Tag("backbone")], Discriminator(_kind)]
