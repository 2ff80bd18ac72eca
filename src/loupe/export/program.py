"""Exported model as one PyTorch module: from decoded images of any size to calibrated probabilities."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from loupe.augment.pixels import centre_crop
from loupe.errors import ConfigError
from loupe.export.resize import FILTERS, Resizing, resize
from loupe.models.classifier import Classifier
from loupe.models.layers import AveragePool, Flatten

WITHOUT_MAPS = "this network has no class activation maps: between its features and its logits is more than pooling."
GREY = (19595.0, 38470.0, 7471.0)
"""Weights of red, green and blue in Pillow's grey, in 65,536ths (ITU-R 601)."""


class ImageProgram(nn.Module):
    """Resizing, normalisation, network and calibrated softmax, for images [N, H, W, 3] of any one size.

    Images of the size to which the preprocessing resizes keep their pixels. So prepared images are a valid input too.

    Args:
        model: network in evaluation mode, in fp32, on the CPU.
        with_maps: also compute class activation maps.
        resizing: function that resizes, for engines without 64-bit floats `resize_in_fp32`.

    Raises:
        ConfigError: the preprocessing cannot be exported, or the network has no maps.
    """

    scale_1C11: Tensor
    offset_1C11: Tensor

    def __init__(self, model: Classifier, *, with_maps: bool = False, resizing: Resizing = resize) -> None:
        super().__init__()
        preprocessing = model.preprocessing
        if preprocessing.interpolation not in FILTERS:
            raise ConfigError(
                f"input.interpolation {preprocessing.interpolation} cannot be exported. Train again with "
                "--set input.interpolation=bilinear"
            )
        self.model = model
        self.resizing = resizing
        self.maps = ClassMaps(model) if with_maps else None
        mean, std = (np.array(rgb[: preprocessing.channels]) for rgb in (preprocessing.mean, preprocessing.std))
        self.register_buffer("scale_1C11", torch.tensor(1 / (255 * std), dtype=torch.float32)[None, :, None, None])
        self.register_buffer("offset_1C11", torch.tensor(-mean / std, dtype=torch.float32)[None, :, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Probabilities, pixels and maps.

        Args:
            images: uint8 [N, H, W, 3], decoded and upright.

        Returns:
            Calibrated probabilities float32 [N, K]; resized pixels uint8 [N, H, W, channels]; and, if asked for, maps
            float32 [N, K, h, w].
        """
        preprocessing = self.model.preprocessing
        x_NHWC = images if preprocessing.channels == 3 else grey(images)
        sized_NHWC = self.resizing(x_NHWC, preprocessing.load_size, preprocessing.resize, preprocessing.interpolation)
        pixels_NHWC = sized_NHWC.to(torch.uint8)
        x_NCHW = centre_crop(sized_NHWC.permute(0, 3, 1, 2), preprocessing.size)
        logits_NK = self.model(x_NCHW * self.scale_1C11 + self.offset_1C11)
        outputs = torch.softmax(logits_NK / self.model.temperature, dim=1), pixels_NHWC
        return outputs if self.maps is None else (*outputs, self.maps.of_last_input())


def grey(images: Tensor) -> Tensor:
    """Grey of uint8 [N, H, W, 3], as Pillow converts it: whole float32 [N, H, W, 1], exact in 32 bits."""
    red, green, blue = (images[..., channel].float() * weight for channel, weight in enumerate(GREY))
    return torch.floor((red + green + blue + 32768.0) / 65536.0)[..., None]


class ClassMaps:
    """Class activation maps (Zhou et al. 2016): weights of the linear head, times the features at each position.

    The mean of a map over its positions, or its sum if the head flattens, is the logit without its bias.

    Raises:
        ConfigError: the logits are not such a mean or sum.
    """

    def __init__(self, model: Classifier) -> None:
        self._features: list[Tensor] = []
        logits, before = model.head[-1], _before_logits(model)
        if before is None or not isinstance(logits, nn.Linear):
            raise ConfigError(WITHOUT_MAPS)
        self._weight_KM: Tensor = logits.weight
        self._is_flat = isinstance(before, Flatten)
        before.register_forward_pre_hook(self._keep)
        self._check(model, logits.bias)

    def _keep(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = [inputs[0]]

    def of_last_input(self) -> Tensor:
        """Maps, float32 [N, K, h, w], of the images that the network has computed last."""
        features_NCHW = self._features.pop()
        if self._is_flat:  # in the order of loupe.models.layers.Flatten
            _, channels, height, width = features_NCHW.shape
            weight_KHWC = self._weight_KM.view(-1, height, width, channels)
            return torch.einsum("nchw,khwc->nkhw", features_NCHW, weight_KHWC)
        return torch.einsum("nchw,kc->nkhw", features_NCHW, self._weight_KM)

    def _check(self, model: Classifier, bias_K: Tensor) -> None:
        """Compare the logits of noise with those that its maps give: layers between them may not be linear."""
        shape = (2, model.preprocessing.channels, *model.preprocessing.size)
        with torch.no_grad():
            logits_NK = model(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
            try:
                maps_NKHW = self.of_last_input()
            except (IndexError, RuntimeError):  # not a map of features, or not those of the head
                raise ConfigError(WITHOUT_MAPS) from None
        found_NK = maps_NKHW.sum(dim=(2, 3)) if self._is_flat else maps_NKHW.mean(dim=(2, 3))
        if not torch.allclose(found_NK + bias_K, logits_NK, rtol=1e-3, atol=1e-3):
            raise ConfigError(WITHOUT_MAPS)


def _before_logits(model: Classifier) -> nn.Module | None:
    """Layer that pools or flattens the last map of features; None without one."""
    pools = [layer for layer in model.modules() if isinstance(layer, AveragePool | Flatten | nn.AdaptiveAvgPool2d)]
    return pools[-1] if pools else None


def exported(program: nn.Module) -> ExportedProgram:
    """A program with its operations recorded, for any number of images [N, H, W, 3] of any size.

    Raises:
        ConfigError: PyTorch cannot record the network.
    """
    side = torch.export.Dim.DYNAMIC
    example = torch.zeros(2, 61, 83, 3, dtype=torch.uint8)
    try:
        with torch.no_grad():
            return torch.export.export(program, (example,), dynamic_shapes=({0: side, 1: side, 2: side},))
    except Exception as error:  # its tracer raises classes of its own
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"PyTorch cannot export this network ({reason}).") from None
