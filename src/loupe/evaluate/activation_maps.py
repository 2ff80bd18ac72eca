"""Where in an image the evidence for a class lies: class activation maps.

A map is the rectified sum of a layer's channels, each weighted by the gradient of the class's logit. Grad-CAM
(Selvaraju et al. 2017) takes a channel's mean gradient, HiResCAM (Draelos and Carin 2020) the gradient of each place.
Where average pooling and one linear layer follow, both are the map of Zhou et al. (2016). Where the map is flattened, a
place counts by its own weights: there the mean may put evidence where the network does not look; HiResCAM does not.

Captum computes them; it is an extra dependency, and slow to import, so it is loaded when the first map is made.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loupe.errors import LoupeError, unknown_name
from loupe.models.classifier import Classifier
from loupe.models.summary import layer_table

Shape = list[int]
Method = Literal["grad-cam", "hires-cam"]
METHODS: tuple[Method, ...] = ("grad-cam", "hires-cam")
DEFAULT: Method = "hires-cam"


def map_layers(model: Classifier) -> dict[str, Shape]:
    """The layers that make a map of features, by name, each with its [C, H, W], in the order of the forward pass.

    What is one pixel wide no longer holds a place, and is left out.

    Raises:
        LoupeError: the network has none, or works on tokens after its first layers, as vision transformers do.
    """
    rows = layer_table(model)
    places = [number for number, row in enumerate(rows) if _is_map(row["output"])]
    last = places[-1] if places else -1
    if sum(_is_tokens(row["output"]) for row in rows[last + 1 :]) >= last + 1:
        raise LoupeError(
            "this network keeps no map of features up to its head, as convolutional networks do: those of Loupe and of "
            "timm's families efficientnet, mobilenet, resnet, vgg, convnext and their like can be explained; vision "
            "transformers cannot yet."
        )
    return {rows[number]["name"]: rows[number]["output"] for number in places}


def choose_layer(model: Classifier, name: str | None = None) -> str:
    """The layer of that name, or the last that makes a map; LoupeError, with the nearest names, where there is none."""
    known = map_layers(model)
    if name is not None and name not in known:
        raise unknown_name("layer", name, known)
    return name or list(known)[-1]


def choose_method(name: str) -> Method:
    """The method of that name; LoupeError, with the known ones, where there is none."""
    for method in METHODS:
        if method == name:
            return method
    raise unknown_name("method", name, METHODS)


def class_maps(model: Classifier, x_BCHW: Tensor, class_B: Tensor, layer: str, method: Method = DEFAULT) -> Tensor:
    """Where the evidence for a class lies in each image, float32 [B, H, W]: 1 where most of it is, 0 where none is.

    Each map is divided by its maximum; that of an image in which nothing speaks for the class is 0 all over. The model
    is evaluated in full precision, and left as it was.

    Args:
        x_BCHW: images as the network gets them.
        class_B: int64, the class to explain in each.
        layer: one of `map_layers`; its map is enlarged to the size of the image, linearly between its points.
        method: what weighs the channels.

    Raises:
        LoupeError: captum is not installed.
    """
    was_training = model.training
    model.eval()
    try:
        raw_B1HW = _attribute(model, model.get_submodule(layer), x_BCHW, class_B, method).relu()
    finally:
        model.train(was_training)
    fine_BHW = F.interpolate(raw_B1HW, x_BCHW.shape[2:], mode="bilinear")[:, 0]
    peak_B11 = fine_BHW.amax(dim=(1, 2), keepdim=True)
    return torch.where(peak_B11 > 0, fine_BHW / peak_B11.clamp_min(torch.finfo(torch.float32).tiny), 0.0)


def _attribute(model: Classifier, layer: nn.Module, x_BCHW: Tensor, class_B: Tensor, method: Method) -> Tensor:
    try:
        from captum.attr import LayerGradCam, LayerGradientXActivation
    except ImportError:
        raise LoupeError("class activation maps need captum. Install it with: pip install 'loupe[explain]'") from None
    if method == "grad-cam":
        raw_B1HW: Tensor = LayerGradCam(model, layer).attribute(x_BCHW, target=class_B)
    else:
        raw_B1HW = LayerGradientXActivation(model, layer).attribute(x_BCHW, target=class_B).sum(dim=1, keepdim=True)
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


def _is_map(shape: Shape) -> bool:
    """[C, H, W] of a square image; timm's layers with channels last are square in the first two instead."""
    return len(shape) == 3 and shape[1] == shape[2] > 1


def _is_tokens(shape: Shape) -> bool:
    """[N, C], or a map with channels last, [H, W, C]."""
    return (len(shape) == 2 and shape[0] > 1) or (len(shape) == 3 and not _is_map(shape) and shape[0] == shape[1] > 1)
