"""Where in an image the evidence for a class lies: class activation maps.

A map is the rectified sum of a layer's channels, each weighted by the gradient of the class's logit. Grad-CAM
(Selvaraju et al. 2017) takes a channel's mean gradient, HiResCAM (Draelos and Carin 2020) the gradient of each place.
Where average pooling and one linear layer follow, both are the map of Zhou et al. (2016). Where the map is flattened, a
place counts by its own weights: there the mean may put evidence where the network does not look; HiResCAM does not.
A vision transformer's map are its patches' tokens; `layouts` says of which layers.

Captum computes them; it is an extra dependency, and slow to import, so it is loaded when the first map is made.
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
    """The method of that name; LoupeError, with the known ones, where there is none."""
    for method in METHODS:
        if method == name:
            return method
    raise unknown_name("method", name, METHODS)


def class_maps(model: Classifier, x_BCHW: Tensor, class_B: Tensor, layer: MapLayer, method: Method = DEFAULT) -> Tensor:
    """Where the evidence for a class lies in each image, float32 [B, H, W]: 1 where most of it is, 0 where none is.

    Each map is divided by its maximum; that of an image in which nothing speaks for the class is 0 all over. The model
    is evaluated in full precision, and left as it was.

    Args:
        x_BCHW: images as the network gets them.
        class_B: int64, the class to explain in each.
        layer: one of the model's `layouts.map_layers`; its map is enlarged to the size of the image, linearly between
            its points.
        method: what weighs the channels.

    Raises:
        LoupeError: captum is not installed.
    """
    was_training = model.training
    model.eval()
    try:
        raw_B1HW = _attribute(model, layer, x_BCHW, class_B, method).relu()
    finally:
        model.train(was_training)
    fine_BHW = F.interpolate(raw_B1HW, x_BCHW.shape[2:], mode="bilinear")[:, 0]
    peak_B11 = fine_BHW.amax(dim=(1, 2), keepdim=True)
    return torch.where(peak_B11 > 0, fine_BHW / peak_B11.clamp_min(torch.finfo(torch.float32).tiny), 0.0)


class _AsMap(nn.Module):
    """A layer's output as [B, C, H, W], which is where captum, for whom channels come first, takes the gradient."""

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
    as_map = _AsMap(layer)

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
    """Where a map's evidence lies, as fractions of the picture: its strongest point, from the top and from the left.

    `half` is the smallest share of the picture that holds half of the evidence: a few percent in one spot, 0.5 where it
    is spread evenly.
    """

    row: float
    column: float
    half: float

    @property
    def place(self) -> str:
        """One of nine, such as `top left` and `centre`."""
        vertical = ("top", "", "bottom")[min(int(3 * self.row), 2)]
        horizontal = ("left", "", "right")[min(int(3 * self.column), 2)]
        return f"{vertical} {horizontal}".strip() or "centre"


def evidence(map_HW: np.ndarray) -> Evidence | None:
    """Where the evidence of a map lies; None where there is none."""
    weight_HW = map_HW.astype(np.float64)
    total = weight_HW.sum()
    if total <= 0:
        return None
    row, column = np.argwhere(weight_HW == weight_HW.max()).mean(axis=0) + 0.5  # the middle of several
    height, width = weight_HW.shape
    falling = np.cumsum(np.sort(weight_HW, axis=None)[::-1])
    half = (np.searchsorted(falling, total / 2) + 1) / weight_HW.size
    return Evidence(float(row / height), float(column / width), float(half))
