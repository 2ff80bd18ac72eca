"""Networks of timm by name, without a classifier, and the widths of MobileNet v1 that timm lacks.

Importing this module takes seconds, as timm does.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import timm
from timm.models import EfficientNet, VisionTransformer
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from torch import nn

from loupe.errors import unknown_name

# Widths of MobileNet v1 with weights in Keras that timm lacks; layers and constants as in Keras.
KERAS_WIDTHS = {"mobilenetv1_025": 0.25, "mobilenetv1_050": 0.5, "mobilenetv1_075": 0.75}
KERAS_MOBILENET = [
    "dsa_r1_k3_s1_c64",
    "dsa_r2_k3_s2_c128",
    "dsa_r2_k3_s2_c256",
    "dsa_r6_k3_s2_c512",
    "dsa_r2_k3_s2_c1024",
]


def exists(name: str) -> bool:
    """Check for a network of timm, or a width of MobileNet v1 that Keras has weights for."""
    return name in KERAS_WIDTHS or timm.is_model(name)


def names() -> list[tuple[str, bool]]:
    """Names of all networks; the flag is true if timm's hub has weights of any tag."""
    known = {name.partition(".")[0] for name in timm.list_pretrained()}
    return [(name, name in known) for name in timm.list_models()] + [(name, False) for name in KERAS_WIDTHS]


def check_name(name: str, also: Iterable[str] = ()) -> None:
    """Check that timm has the network.

    Args:
        also: other known names, to suggest the nearest from.

    Raises:
        ConfigError: it has not; the error has the nearest known names.
    """
    if not exists(name):
        raise unknown_name("model", name, [*also, *timm.list_models(), *timm.list_pretrained(), *KERAS_WIDTHS])


def create_network(name: str, **options: Any) -> nn.Module:
    """Build the network without its classifier; weights are random unless `options` of timm say otherwise."""
    check_name(name)
    if name in KERAS_WIDTHS:
        return _keras_mobilenet(KERAS_WIDTHS[name])
    return timm.create_model(name, num_classes=0, **options, **options_of(name))


def options_of(name: str) -> dict[str, Any]:
    """Options of timm with which Loupe builds the network, whatever the size of the images."""
    is_vit = timm.model_entrypoint(name).__module__ == VisionTransformer.__module__
    return {"dynamic_img_size": True} if is_vit else {}  # any size; at its own size the same network


def _keras_mobilenet(width: float) -> nn.Module:
    """MobileNet v1 as Keras builds it (Howard et al. 2017): "SAME" padding, ReLU6, an epsilon of 1e-3."""
    return EfficientNet(
        block_args=decode_arch_def([[block] for block in KERAS_MOBILENET]),  # type: ignore[no-untyped-call]
        num_classes=0,
        num_features=0,
        stem_size=32,
        round_chs_fn=partial(round_channels, multiplier=width),
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
        act_layer=nn.ReLU6,
        pad_type="same",
    )
