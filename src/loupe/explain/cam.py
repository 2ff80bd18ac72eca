"""Class activation maps: the evidence for a class at each position of an image.

A map is the rectified sum of a layer's channels, each weighted by the gradient of the class logit. Grad-CAM (Selvaraju
et al. 2017) weights by a channel's mean gradient, HiResCAM (Draelos and Carin 2020) by the gradient at each position.
If average pooling and one linear layer follow, both equal the map of Zhou et al. (2016). If the map is flattened, each
position has its own weights: Grad-CAM may then show evidence where the network does not use it; HiResCAM does not. The
map of a vision transformer consists of its patch tokens; `feature_maps` selects the layers.

Captum computes the maps. It is an optional dependency and slow to import, so it is imported with the first map.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loupe.errors import LoupeError, unknown_name
from loupe.explain.feature_maps import MapLayer
from loupe.models.classifier import Classifier

Method = Literal["grad-cam", "hires-cam"]
METHODS: tuple[Method, ...] = ("grad-cam", "hires-cam")
DEFAULT: Method = "hires-cam"


def choose_method(name: str) -> Method:
    """Method of that name.

    Raises:
        LoupeError: the name is unknown.
    """
    for method in METHODS:
        if method == name:
            return method
    raise unknown_name("method", name, METHODS)


def class_maps(model: Classifier, x_BCHW: Tensor, class_B: Tensor, layer: MapLayer, method: Method = DEFAULT) -> Tensor:
    """Class activation map of each image, enlarged to it by linear interpolation.

    Args, Raises: as for `coarse_maps`.

    Returns:
        Float32 [B, H, W] from 0 to 1: each map is divided by its maximum. A map without evidence is 0.
    """
    coarse_BHW = coarse_maps(model, x_BCHW, class_B, layer, method)
    fine_BHW = F.interpolate(coarse_BHW[:, None], x_BCHW.shape[2:], mode="bilinear")[:, 0]
    peak_B11 = fine_BHW.amax(dim=(1, 2), keepdim=True)
    return torch.where(peak_B11 > 0, fine_BHW / peak_B11.clamp_min(torch.finfo(torch.float32).tiny), 0.0)


def coarse_maps(
    model: Classifier, x_BCHW: Tensor, class_B: Tensor, layer: MapLayer, method: Method = DEFAULT
) -> Tensor:
    """Class activation map of each image in the size of the layer's map, unscaled: float32 [B, h, w], at least 0.

    The model is evaluated in full precision; its training mode is restored.

    Args:
        model: network.
        x_BCHW: inputs of the network.
        class_B: int64, class to explain in each image.
        layer: one of `feature_maps.map_layers(model)`.
        method: weighting of the channels.

    Raises:
        LoupeError: captum is not installed.
    """
    was_training = model.training
    model.eval()
    try:
        return _attribute(model, layer, x_BCHW, class_B, method).relu()[:, 0]
    finally:
        model.train(was_training)


class _ChannelsFirst(nn.Module):
    """Output of a layer as [B, C, H, W], the layout in which captum takes gradients."""

    def __init__(self, layer: MapLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, output: Tensor) -> Tensor:
        return self.layer.as_map(output)


def _attribute(model: Classifier, layer: MapLayer, x_BCHW: Tensor, class_B: Tensor, method: Method) -> Tensor:
    try:
        from captum.attr import LayerGradCam, LayerGradientXActivation
    except ImportError:
        raise LoupeError("class activation maps need captum. Install it with: pip install captum") from None
    as_map = _ChannelsFirst(layer)

    def through_map(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return layer.as_output(as_map(output), output)

    hook = model.get_submodule(layer.name).register_forward_hook(through_map)
    try:
        if method == "grad-cam":
            raw_B1HW: Tensor = LayerGradCam(model, as_map).attribute(x_BCHW, target=class_B)
        else:
            product_BCHW = LayerGradientXActivation(model, as_map).attribute(x_BCHW, target=class_B)
            raw_B1HW = product_BCHW.sum(dim=1, keepdim=True)
    finally:
        hook.remove()
    return raw_B1HW.detach().float()


@dataclass(frozen=True)
class Evidence:
    """Position and concentration of the evidence in a map.

    Attributes:
        row: position of the maximum from the top, as a fraction of the height.
        column: position of the maximum from the left, as a fraction of the width.
        half: smallest fraction of the image that contains half of the evidence; 0.5 if it is spread evenly.
    """

    row: float
    column: float
    half: float

    @property
    def region(self) -> str:
        """Region of the maximum, one of nine such as `top left` and `centre`."""
        vertical = ("top", "", "bottom")[min(int(3 * self.row), 2)]
        horizontal = ("left", "", "right")[min(int(3 * self.column), 2)]
        return f"{vertical} {horizontal}".strip() or "centre"


def evidence(map_HW: np.ndarray) -> Evidence | None:
    """Evidence in a map [H, W]; None if the map is 0."""
    weight_HW = map_HW.astype(np.float64)
    total = weight_HW.sum()
    if total <= 0:
        return None
    row, column = np.argwhere(weight_HW == weight_HW.max()).mean(axis=0) + 0.5  # the mean of equal maxima
    height, width = weight_HW.shape
    falling = np.cumsum(np.sort(weight_HW, axis=None)[::-1])
    half = (np.searchsorted(falling, total / 2) + 1) / weight_HW.size
    return Evidence(float(row / height), float(column / width), float(half))
