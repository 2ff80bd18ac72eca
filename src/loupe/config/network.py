"""Network specifications: small convolutional networks, pretrained backbones with a new head, and blends of both."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from loupe.config.base import RGB, Channels, Count, Fraction, Positive, RecipeValue
from loupe.config.size import SizePx

BETWEEN_MEMBERS = "+"  # in the name of a blend


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
    return "blend" if "members" in keys else "backbone" if "backbone" in keys else "cnn"


class BlendMember(RecipeValue):
    """Network of a blend, with its own weights.

    `size_px`, `load_px`, `interpolation`, `channels`, `mean` and `std`: input that its weights were trained with; null
    for that of the blend. `share`: its share in the mean of the probabilities, relative to the others. `temperature`:
    divisor of its logits before that mean.
    """

    network: "Network"
    size_px: SizePx | None = None
    load_px: SizePx | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    channels: Channels | None = None
    mean: RGB | None = None
    std: RGB | None = None
    share: Positive = 1.0
    temperature: Positive = 1.0


class BlendSpec(RecipeValue):
    """Several networks that read one input, as one network.

    `combine`: `features` concatenates the pooled features of the members before one linear head, and can be trained.
    `probabilities` is the weighted mean of the members' calibrated probabilities, each with a head of its own; its
    outputs are logarithms of probabilities, and it is made of trained runs. `weights`: `none` for the weights that the
    members name; else the folder of a run of the same blend.
    """

    members: Annotated[tuple[BlendMember, ...], Field(min_length=2)]
    combine: Literal["features", "probabilities"] = "features"
    weights: str = "none"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.combine == "features" and any(isinstance(member.network, BlendSpec) for member in self.members):
            raise ValueError("a blend of features has single networks as members; list the members of the inner blend")
        if self.combine == "features" and any(member.size_px or member.load_px for member in self.members):
            raise ValueError("the members of a blend of features have one size; set input.size_px, not that of members")
        return self

    @property
    def name(self) -> str:
        networks = [member.network for member in self.members]
        names = [f"({one.name})" if isinstance(one, BlendSpec) else one.name for one in networks]
        return BETWEEN_MEMBERS.join(names)

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each member; their sum is 1."""
        total = sum(member.share for member in self.members)
        return tuple(member.share / total for member in self.members)

    @property
    def pooling(self) -> Literal["own"]:
        """The members pool."""
        return "own"

    @property
    def hidden(self) -> tuple[Dense, ...]:
        """The head of a blend is linear."""
        return ()


Network = Annotated[
    Annotated[CnnSpec, Tag("cnn")] | Annotated[BackboneSpec, Tag("backbone")] | Annotated[BlendSpec, Tag("blend")],
    Discriminator(_kind),
]
BlendMember.model_rebuild()


def without_weights(network: Network) -> Network:
    """Network that is initialised at random."""
    if isinstance(network, BlendSpec):
        members = [one.model_copy(update={"network": without_weights(one.network)}) for one in network.members]
        return network.model_copy(update={"weights": "none", "members": tuple(members)})
    return network.model_copy(update={"weights": "none"})


def weights_of(network: Network) -> tuple[str, ...]:
    """Weights that a network starts from: one for each member of a blend, unless those of a whole blend are named."""
    if isinstance(network, BlendSpec) and network.weights == "none":
        return tuple(weights for member in network.members for weights in weights_of(member.network))
    return (network.weights,)


def is_random(network: Network) -> bool:
    """True if training starts from random weights alone."""
    return set(weights_of(network)) == {"none"}
