"""Images that activate the filters of a layer, by activation maximisation (Erhan et al. 2009).

Gradient ascent on the pixels maximises the mean activation of a filter, starting from grey noise. Without a
regularisation the result is high-frequency noise. Two regularisations of Yosinski et al. (2015, section 3) avoid it:
L2 decay towards grey, and a Gaussian blur every few steps. All start from the same noise, and pixels are clipped.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from loupe.config.recipe import Preprocessing
from loupe.config.size import Size
from loupe.data.pixels.decode import in_colour
from loupe.explain.feature_maps import MapLayer, map_layers
from loupe.models.classifier import Classifier
from loupe.models.summary import layer_table

REGULARISATIONS = ("none", "L2", "Gaussian blur")
GREY = 0.5
LARGEST_PX = 96  # convolutions accept any size; larger images repeat the same pattern and take longer
BATCH_PIXELS = 2**20  # pixels optimised at a time: some hundred megabytes of activations


@dataclass(frozen=True)
class AscentSettings:
    """Settings of the gradient ascent.

    Attributes:
        steps: number of steps.
        rate: root mean square of the change of a pixel in one step, where white is 1.
        l2_decay: fraction of the distance from grey that L2 removes in every step.
        blur_px: standard deviation of the Gaussian blur.
        blur_steps: steps between two blurs.
        noise: standard deviation of the initial noise.
        seed: seed of the noise.
    """

    steps: int = 120
    rate: float = 0.02
    l2_decay: float = 0.08
    blur_px: float = 0.8
    blur_steps: int = 4
    noise: float = 0.05
    seed: int = 0


@dataclass(frozen=True)
class FilterImages:
    """Images that maximise one filter, in the order of `REGULARISATIONS`.

    Attributes:
        layer: name of the layer.
        filter: number of the filter.
        pixels_RHWC: uint8 images.
        activation_R: mean activation for each image.
        noise_activation: mean activation for the initial noise.
    """

    layer: str
    filter: int
    pixels_RHWC: np.ndarray
    activation_R: tuple[float, ...]
    noise_activation: float


def default_layers(model: Classifier) -> list[MapLayer]:
    """First, middle and last convolution."""
    layers = [layer for layer in map_layers(model).values() if isinstance(model.get_submodule(layer.name), nn.Conv2d)]
    return list(dict.fromkeys(layers[number] for number in (0, len(layers) // 2, -1))) if layers else []


def size_of_images(model: Classifier) -> Size:
    """Size of the images: the network's own, or a square of `LARGEST_PX` if that is less and the network accepts it."""
    own, square = model.preprocessing.size, Size.of(LARGEST_PX)
    if square.fits_in(own):
        with suppress(RuntimeError, AssertionError):  # some transformers accept one size, or multiples of a patch
            layer_table(model, size=square)
            return square
    return own


def maximise(
    model: Classifier,
    layer: MapLayer,
    filters: Sequence[int],
    settings: AscentSettings,
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[FilterImages]:
    """Compute the images that maximise each filter of a layer; the model's training mode is restored.

    Args:
        model: network.
        layer: layer of the filters.
        filters: numbers of the filters.
        settings: settings of the gradient ascent.
        on_step: called after each step of each filter.
    """
    size = size_of_images(model)
    chunk_size = max(1, BATCH_PIXELS // (len(REGULARISATIONS) * size.area_px))
    for start in range(0, len(filters), chunk_size):
        chunk = list(filters[start : start + chunk_size])
        pixels_FRCHW, activation_FR, noise_F = _ascend(model, layer, chunk, size, settings, on_step)
        grey_FRHWC = (pixels_FRCHW * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).cpu().numpy()
        for f, number in enumerate(chunk):
            activation_R = tuple(activation_FR[f].tolist())
            yield FilterImages(layer.name, number, in_colour(grey_FRHWC[f]), activation_R, float(noise_F[f]))


def _ascend(
    model: Classifier,
    layer: MapLayer,
    filters: list[int],
    size: Size,
    settings: AscentSettings,
    on_step: Callable[[], None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [F, R, 3, H, W] from 0 to 1, their activations [F, R], and the activations of the noise [F]."""
    kinds = len(REGULARISATIONS)
    device = next(model.parameters()).device
    filter_B = torch.tensor(filters, device=device).repeat_interleave(kinds)
    pixels_BCHW = _noise(size, model.preprocessing.channels, settings).to(device).repeat(len(filter_B), 1, 1, 1)
    was_training = model.training
    model.eval()
    try:
        noise_B = mean_activation(model, layer, pixels_BCHW, filter_B).detach()
        for step in range(1, settings.steps + 1):
            pixels_BCHW.requires_grad_()
            activation = mean_activation(model, layer, pixels_BCHW, filter_B).sum()
            (gradient_BCHW,) = torch.autograd.grad(activation, pixels_BCHW)
            pixels_BCHW = _step(pixels_BCHW.detach(), gradient_BCHW, settings, blur=step % settings.blur_steps == 0)
            for _ in filters:
                on_step()
        activation_B = mean_activation(model, layer, pixels_BCHW, filter_B).detach()
    finally:
        model.train(was_training)
    pixels_FRCHW = pixels_BCHW.view(len(filters), kinds, *pixels_BCHW.shape[1:])
    return pixels_FRCHW, activation_B.view(len(filters), kinds), noise_B[::kinds]


def _noise(size: Size, channels: int, settings: AscentSettings) -> Tensor:
    generator = torch.Generator().manual_seed(settings.seed)
    noise_1CHW = torch.randn(1, channels, *size, generator=generator)
    return (GREY + settings.noise * noise_1CHW).clamp(0, 1)


def _step(pixels_BCHW: Tensor, gradient_BCHW: Tensor, settings: AscentSettings, *, blur: bool) -> Tensor:
    """One step of the ascent, followed by the regularisations, which alternate along the batch."""
    kinds = len(REGULARISATIONS)
    scale_B111 = gradient_BCHW.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
    pixels_BCHW = pixels_BCHW + settings.rate * gradient_BCHW / scale_B111
    decayed_BCHW = pixels_BCHW[1::kinds]
    pixels_BCHW[1::kinds] = GREY + (1 - settings.l2_decay) * (decayed_BCHW - GREY)
    if blur:
        from torchvision.transforms.functional import gaussian_blur  # imported lazily: it imports slowly

        side_px = 2 * int(np.ceil(3 * settings.blur_px)) + 1
        pixels_BCHW[2::kinds] = gaussian_blur(pixels_BCHW[2::kinds], [side_px, side_px], [settings.blur_px])
    return pixels_BCHW.clamp_(0, 1)


class _LayerReached(Exception):  # noqa: N818 (not an error)
    """Signal that ends a forward pass at a layer and carries its output."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def mean_activation(model: Classifier, layer: MapLayer, pixels_BCHW: Tensor, filter_B: Tensor) -> Tensor:
    """Mean activation of each image's filter over all positions, [B]; later layers are not computed."""

    def stop(module: nn.Module, inputs: object, output: Tensor) -> None:
        raise _LayerReached(output)

    hook = model.get_submodule(layer.name).register_forward_hook(stop)
    try:
        model(normalised(pixels_BCHW, model.preprocessing))
    except _LayerReached as reached:
        return layer.as_map(reached.output)[torch.arange(len(filter_B)), filter_B].mean(dim=(1, 2))
    finally:
        hook.remove()
    raise AssertionError(f"{layer.name} is not part of the forward pass")


def normalised(pixels_BCHW: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalised pixels, as from `augment.pixels.normalise` but for pixels from 0 to 1 and differentiable."""
    mean_C11, std_C11 = (
        torch.tensor(channels, device=pixels_BCHW.device)[:, None, None]
        for channels in (preprocessing.mean[: preprocessing.channels], preprocessing.std[: preprocessing.channels])
    )
    return ((pixels_BCHW - mean_C11) / std_C11).contiguous(memory_format=torch.channels_last)
