"""What the filters of a layer respond to: pictures by activation maximisation (Erhan et al. 2009).

From grey noise on, the pixels climb the gradient of a filter's mean response. Left alone the climb ends in noise that
no photograph has; two regularisations of Yosinski et al. (2015, section 3) lead it elsewhere: decay towards grey (L2),
and a Gaussian blur every few steps. All start from the same noise, and pixels stay between black and white.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from loupe.config.recipe import Preprocessing
from loupe.explain.feature_maps import MapLayer, map_layers
from loupe.models.classifier import Classifier
from loupe.models.summary import layer_table

REGULARISATIONS = ("none", "L2", "Gaussian blur")
GREY = 0.5
LARGEST_PX = 96  # convolutions take any size; a larger picture shows more of the same, and takes longer
BATCH_PIXELS = 2**20  # of the images that climb together: some hundred megabytes of activations


@dataclass(frozen=True)
class Ascent:
    """The settings of a climb.

    `rate`: by how much a step changes a pixel, as the root of the mean square over the picture, where white is 1.
    `l2_decay`: the share of a pixel's distance from grey that L2 takes away in every step. `blur_px`: the standard
    deviation of the blur that is made every `blur_steps` steps. `noise`: the standard deviation of the start.
    """

    steps: int = 120
    rate: float = 0.02
    l2_decay: float = 0.08
    blur_px: float = 0.8
    blur_steps: int = 4
    noise: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class Response:
    """One filter's pictures, and its mean response to each, in the order of `REGULARISATIONS`; and to the noise.

    `pixels_RHWC`: uint8.
    """

    layer: str
    filter: int
    pixels_RHWC: np.ndarray
    activation_R: tuple[float, ...]
    noise_activation: float


def default_layers(model: Classifier) -> list[MapLayer]:
    """The first, the middle and the last convolution."""
    found = [layer for layer in map_layers(model).values() if isinstance(model.get_submodule(layer.name), nn.Conv2d)]
    return list(dict.fromkeys(found[place] for place in (0, len(found) // 2, -1))) if found else []


def side_px(model: Classifier) -> int:
    """The size of the pictures: the network's own, or `LARGEST_PX` where that is less and the network takes it."""
    if model.preprocessing.size_px > LARGEST_PX:
        with suppress(RuntimeError, AssertionError):  # some transformers take one size, or whole patches
            layer_table(model, side_px=LARGEST_PX)
            return LARGEST_PX
    return model.preprocessing.size_px


def respond(
    model: Classifier,
    layer: MapLayer,
    filters: Sequence[int],
    ascent: Ascent,
    stepped: Callable[[], None] = lambda: None,
) -> Iterator[Response]:
    """The pictures that each filter of a layer responds to; the model is evaluated, and left as it was.

    `stepped` is called after each of the `ascent.steps` steps of each filter.
    """
    size_px = side_px(model)
    together = max(1, BATCH_PIXELS // (len(REGULARISATIONS) * size_px**2))
    for start in range(0, len(filters), together):
        part = list(filters[start : start + together])
        pixels_FRCHW, activation_FR, noise_F = _climb(model, layer, part, size_px, ascent, stepped)
        grey_FRHWC = (pixels_FRCHW * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu().numpy()
        for place, number in enumerate(part):
            reached = tuple(activation_FR[place].tolist())
            yield Response(layer.name, number, grey_FRHWC[place], reached, float(noise_F[place]))


def _climb(
    model: Classifier, layer: MapLayer, filters: list[int], size_px: int, ascent: Ascent, stepped: Callable[[], None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [F, R, 3, H, W] from 0 to 1, the responses to them [F, R], and those to the noise [F]."""
    kinds = len(REGULARISATIONS)
    device = next(model.parameters()).device
    filter_B = torch.tensor(filters, device=device).repeat_interleave(kinds)
    pixels_BCHW = _noise(size_px, ascent).to(device).repeat(len(filter_B), 1, 1, 1)
    was_training = model.training
    model.eval()
    try:
        noise_B = mean_response(model, layer, pixels_BCHW, filter_B).detach()
        for step in range(1, ascent.steps + 1):
            pixels_BCHW.requires_grad_()
            response = mean_response(model, layer, pixels_BCHW, filter_B).sum()
            (gradient_BCHW,) = torch.autograd.grad(response, pixels_BCHW)
            pixels_BCHW = _step(pixels_BCHW.detach(), gradient_BCHW, ascent, blur=step % ascent.blur_steps == 0)
            for _ in filters:
                stepped()
        reached_B = mean_response(model, layer, pixels_BCHW, filter_B).detach()
    finally:
        model.train(was_training)
    pixels_FRCHW = pixels_BCHW.view(len(filters), kinds, *pixels_BCHW.shape[1:])
    return pixels_FRCHW, reached_B.view(len(filters), kinds), noise_B[::kinds]


def _noise(size_px: int, ascent: Ascent) -> Tensor:
    generator = torch.Generator().manual_seed(ascent.seed)
    noise_1CHW = torch.randn(1, 3, size_px, size_px, generator=generator)
    return (GREY + ascent.noise * noise_1CHW).clamp(0, 1)


def _step(pixels_BCHW: Tensor, gradient_BCHW: Tensor, ascent: Ascent, *, blur: bool) -> Tensor:
    """One step up, then what each of the regularisations does; they take turns along the batch."""
    kinds = len(REGULARISATIONS)
    scale_B111 = gradient_BCHW.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
    pixels_BCHW = pixels_BCHW + ascent.rate * gradient_BCHW / scale_B111
    decayed_BCHW = pixels_BCHW[1::kinds]
    pixels_BCHW[1::kinds] = GREY + (1 - ascent.l2_decay) * (decayed_BCHW - GREY)
    if blur:
        from torchvision.transforms.functional import gaussian_blur  # it takes seconds to import

        side_px = 2 * int(np.ceil(3 * ascent.blur_px)) + 1
        pixels_BCHW[2::kinds] = gaussian_blur(pixels_BCHW[2::kinds], [side_px, side_px], [ascent.blur_px])
    return pixels_BCHW.clamp_(0, 1)


class _Reached(Exception):  # noqa: N818 (it is no error)
    """Ends a forward pass at the layer whose output is wanted."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def mean_response(model: Classifier, layer: MapLayer, pixels_BCHW: Tensor, filter_B: Tensor) -> Tensor:
    """The mean over all places of each image's filter, [B]; layers after it are not computed."""

    def stop(module: nn.Module, inputs: object, output: Tensor) -> None:
        raise _Reached(output)

    hook = model.get_submodule(layer.name).register_forward_hook(stop)
    try:
        model(normalised(pixels_BCHW, model.preprocessing))
    except _Reached as reached:
        return layer.as_map(reached.output)[torch.arange(len(filter_B)), filter_B].mean(dim=(1, 2))
    finally:
        hook.remove()
    raise AssertionError(f"{layer.name} is not part of the forward pass")


def normalised(pixels_BCHW: Tensor, preprocessing: Preprocessing) -> Tensor:
    """As `augment.pixels.normalise`, for pixels from 0 to 1, and so that gradients come back."""
    mean_C11, std_C11 = (
        torch.tensor(channels, device=pixels_BCHW.device)[:, None, None]
        for channels in (preprocessing.mean, preprocessing.std)
    )
    return ((pixels_BCHW - mean_C11) / std_C11).contiguous(memory_format=torch.channels_last)
