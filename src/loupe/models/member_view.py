"""View of a member of a blend: from the input of all members to the size, channels and normalisation of its own.

All steps are linear: a crop, or a resizing by two matrices with the coefficients of Pillow's filter; the grey of ITU-R
601; an affine map of each channel. So every engine and export computes them. A resized view differs a little from the
pixels that the member was trained with, which were resized from the file in one step.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from loupe.config.recipe import Interpolation, Preprocessing
from loupe.config.size import Size
from loupe.errors import ConfigError

SAME = ("resize", "range", "pixel_definition")  # keys that all members have in common
GREY = (0.299, 0.587, 0.114)
FILTERS: dict[Interpolation, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
Span = tuple[float, float]  # begin and end on one side of the input, in pixels


def shared_input(names: Sequence[str], given: Sequence[Preprocessing]) -> Preprocessing:
    """Preprocessing of a blend: the resolution of the finest member, and a crop that holds the views of all.

    Normalisation is that of the first member.

    Args:
        names: names of the members, for errors.
        given: their preprocessing.

    Raises:
        ConfigError: a view cannot be made from an input that others can use.
    """
    first = given[0]
    for name, other in zip(names[1:], given[1:], strict=True):
        for key in SAME:
            mine, theirs = getattr(first, key), getattr(other, key)
            if mine != theirs:
                raise ConfigError(
                    f"the runs of a blend read one input, and these differ in input.{key}: {names[0]} has {mine}, "
                    f"{name} has {theirs}. Train one of them again with --set input.{key}={mine}"
                )
        if first.load_size.height_px * other.load_size.width_px != first.load_size.width_px * other.load_size.height_px:
            raise ConfigError(
                f"the runs of a blend read one input, and these have other shapes: {names[0]} reads images of "
                f"{first.load_size} px, {name} of {other.load_size} px. Train one of them again with --set "
                f"input.size_px={first.size_px}"
            )
    finest = max(given, key=lambda one: one.load_size.height_px)
    margins = [_margin(given, finest.load_size, side) for side in (0, 1)]
    size = Size(*(around - 2 * margin for around, margin in zip(finest.load_size, margins, strict=True)))
    shared = {"size_px": size.given, "load_px": finest.load_px, "interpolation": finest.interpolation}
    channels = {"channels": max(one.channels for one in given)}
    made = Preprocessing.model_validate({**first.model_dump(), **shared, **channels})
    for name, one in zip(names, given, strict=True):
        if one.load_size != made.load_size and one.interpolation not in FILTERS:
            raise ConfigError(
                f"{name} resizes by input.interpolation {one.interpolation}, and the blend reads images of "
                f"{made.load_size} px, which cannot be resized in this way to its {one.load_size} px. Train it again "
                "with --set input.interpolation=bilinear"
            )
    return made


def _margin(given: Sequence[Preprocessing], load: Size, side: int) -> int:
    """Pixels at either end of a side that no member sees."""
    spans = [_span(one.size[side], one.load_size[side], load[side]) for one in given]
    return int(max(0, min(min(begin, load[side] - end) for begin, end in spans)))


def _span(size_px: int, load_px: int, shared_load_px: int) -> Span:
    """Pixels of the resized image of the blend that a member sees on one side."""
    scale, begin = shared_load_px / load_px, (load_px - size_px) // 2
    return begin * scale, (begin + size_px) * scale


def view(own: Preprocessing, shared: Preprocessing) -> nn.Sequential:
    """Layers from the input of a blend to that of a member; without any where they are the same."""
    layers: list[nn.Module] = []
    spans = []
    for side in (0, 1):
        offset = (shared.load_size[side] - shared.size[side]) // 2
        begin, end = _span(own.size[side], own.load_size[side], shared.load_size[side])
        spans.append((begin - offset, end - offset))
    if (own.channels, own.mean, own.std) != (shared.channels, shared.mean, shared.std):
        layers.append(Renormalise(own, shared))  # first: OpenVINO 2026.4 cannot compile it behind a product of matrices
    if own.load_size != shared.load_size:
        layers.append(Resample(spans, own.size, shared.size, own.interpolation))
    elif own.size != shared.size:
        layers.append(Crop(int(spans[0][0]), int(spans[1][0]), own.size))
    return nn.Sequential(*layers)


class Crop(nn.Module):
    """Part of the images, [B, C, H, W] to [B, C, h, w]."""

    def __init__(self, top: int, left: int, size: Size) -> None:
        super().__init__()
        self.rows, self.columns = slice(top, top + size.height_px), slice(left, left + size.width_px)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW[:, :, self.rows, self.columns]


class Resample(nn.Module):
    """Part of the images in another resolution, [B, C, H, W] to [B, C, h, w].

    Args:
        spans: rows and columns of the part.
        size: size of the result.
        of: size of the images.
        interpolation: name of Pillow's filter.
    """

    rows_hH: Tensor
    columns_Ww: Tensor

    def __init__(self, spans: Sequence[Span], size: Size, of: Size, interpolation: Interpolation) -> None:
        super().__init__()
        rows_hH, columns_wW = (_coefficients(spans[side], size[side], of[side], interpolation) for side in (0, 1))
        self.register_buffer("rows_hH", torch.tensor(rows_hH.tolist()))
        self.register_buffer("columns_Ww", torch.tensor(columns_wW.T.tolist()))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.rows_hH @ (x_BCHW @ self.columns_Ww)


def _coefficients(span: Span, outputs: int, inputs: int, interpolation: Interpolation) -> np.ndarray:
    """Matrix of Pillow's filter on one side, [outputs, inputs], float32: it resizes the columns of the identity."""
    box = (0.0, max(0.0, span[0]), float(inputs), min(float(inputs), span[1]))
    image = Image.fromarray(np.eye(inputs, dtype=np.float32))
    return np.asarray(image.resize((inputs, outputs), FILTERS[interpolation], box=box))


class Renormalise(nn.Module):
    """Affine map of each channel, from the normalisation of the blend to that of a member; grey where it has one."""

    scale_1C11: Tensor
    offset_1C11: Tensor

    def __init__(self, own: Preprocessing, shared: Preprocessing) -> None:
        super().__init__()
        self.is_grey = own.channels < shared.channels
        mean_C, std_C, own_mean_C, own_std_C = (
            np.array(rgb[: shared.channels]) for rgb in (shared.mean, shared.std, own.mean, own.std)
        )
        scale_C, offset_C = std_C / own_std_C, (mean_C - own_mean_C) / own_std_C
        if self.is_grey:  # their sum is the grey, as the weights add up to 1
            scale_C, offset_C = GREY * scale_C, GREY * offset_C
        self.register_buffer("scale_1C11", torch.tensor(scale_C.tolist()).view(1, -1, 1, 1))
        self.register_buffer("offset_1C11", torch.tensor(offset_C.tolist()).view(1, -1, 1, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        own_BCHW = x_BCHW * self.scale_1C11 + self.offset_1C11
        return own_BCHW.sum(dim=1, keepdim=True) if self.is_grey else own_BCHW
