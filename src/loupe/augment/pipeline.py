"""Augmentation pipeline of an `AugmentSpec`: uint8 batch to normalised float batch, channels-last.

Steps, for each image:

1. Centre of `size_px`; with random-resized-crop the whole image of `load_px`.
2. Geometry in one sampling: random-resized-crop, rotation @ shift @ shear @ zoom, flips, crop with padding.
3. Brightness, in grey levels.
4. Normalisation, as in evaluation.
5. Cutout, which fills with the mean.
6. Reduction to `resolution`.
7. `mix`: mixup or cutmix of the views that `train` returned for an image and for its partner.

Step 2 reads the pixels once. So it blurs once, and `fill` applies only beyond the image as it was before the step.

Random numbers are drawn on the CPU and depend only on (seed, epoch, image). Pixels are computed on the device that
holds them. Transforms that are off are neither drawn nor computed.
"""

from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from loupe.augment import geometry, pixels, random
from loupe.augment.draws import Draw, Draws
from loupe.config.recipe import AugmentSpec, Preprocessing
from loupe.config.size import Size
from loupe.errors import ConfigError, counted

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Augmenter:
    """Random augmentation of the training images of one stage.

    Raises:
        LoupeError: a setting does not fit the image size, or the seed is out of range.
    """

    spec: AugmentSpec
    preprocessing: Preprocessing
    seed: int

    def __post_init__(self) -> None:
        spec, size = self.spec, self.preprocessing.size
        if spec.cutout_px > min(size):
            raise ConfigError(
                f"cutout_px is {spec.cutout_px}, but the input has {size} px. Set it to at most {min(size)}."
            )
        if spec.crop_padding_px >= min(size):
            raise ConfigError(
                f"crop_padding_px is {spec.crop_padding_px}, but the input has {size} px: a crop could miss the image. "
                f"Set it to at most {min(size) - 1}."
            )
        if spec.fill_value and spec.fill != "constant":
            raise ConfigError(
                f"fill_value {spec.fill_value:g} has no effect with fill {spec.fill!r}. "
                "Set fill to 'constant', or leave fill_value out."
            )
        if not 0 <= self.seed < 2**64:
            raise ConfigError(f"seed must be from 0 to 2**64 - 1; got {self.seed}.")

    def train(self, x_BCHW: Tensor, index_B: Ints, epoch: int) -> Tensor:
        """Augmented, normalised views of a batch for one epoch.

        Args:
            x_BCHW: uint8 [B, 3, H, W] of `load_px`.
            index_B: index of each image in the data set.
            epoch: epoch number, from 0.

        Returns:
            Float32 [B, 3, H, W] of `size_px`, or of a fraction of it with `resolution`, channels-last.
        """
        spec, size = self.spec, self.preprocessing.size
        _check(x_BCHW, index_B, self.preprocessing)
        draws = self._draw(index_B, epoch, self._train_draws)
        if spec.flips == "alternate":
            draws[Draw.HORIZONTAL_FLIP] = self._alternating(index_B, epoch)
        source_BCHW = x_BCHW if spec.random_resized_crop else pixels.centre_crop(x_BCHW, size)
        if self._warps:
            source_BCHW = geometry.warp(
                source_BCHW,
                self._map(draws),
                size_px=size,
                fill=spec.fill,
                fill_value=spec.fill_value,
                whole_pixels=not (spec.random_resized_crop or self._is_affine),
                samples=self._samples,
            )
        if Draw.BRIGHTNESS in draws:
            source_BCHW = pixels.brighten(source_BCHW, _between(spec.brightness, draws[Draw.BRIGHTNESS]))
        normal_BCHW = pixels.normalise(source_BCHW, self.preprocessing.mean, self.preprocessing.std)
        if spec.cutout_px:
            pixels.cut_out(
                normal_BCHW, spec.cutout_px, row_B=draws[Draw.CUTOUT_ROW], column_B=draws[Draw.CUTOUT_COLUMN]
            )
        return normal_BCHW if spec.resolution == 1 else pixels.reduce(normal_BCHW, size.scaled(spec.resolution))

    def partners(self, index_B: Ints, epoch: int, population: Ints) -> Ints:
        """Training image that each image is mixed with, [B], drawn from `population` [N] (row indices).

        The draw depends on the epoch, the image and the population in its order, but not on the batch. An image may
        draw itself.

        Raises:
            ValueError: the population is empty.
        """
        if len(population) == 0:
            raise ValueError("partners need a population of at least one image; got none")
        u_B = random.uniform(self.seed, epoch, index_B, Draw.PARTNER)
        chosen: Ints = np.asarray(population, np.int64)[(u_B * len(population)).astype(np.int64)]
        return chosen

    def mix(self, x_BCHW: Tensor, partner_x_BCHW: Tensor, index_B: Ints, epoch: int) -> tuple[Tensor, Tensor]:
        """Images mixed with their partners, and the weight of each image in its mix.

        Where mixup and cutmix are both on, each image gets one of them, with equal probability.

        Args:
            x_BCHW: views of the images, from `train`.
            partner_x_BCHW: views of their partners, from `train`.
            index_B: index of each image in the data set.
            epoch: epoch number, from 0.

        Returns:
            Mixed images, as `x_BCHW`, and weights, float32 [B]. The partner has the weight 1 - weight.

        Raises:
            ValueError: neither mixup nor cutmix is on.
        """
        spec = self.spec
        if not spec.mixes:
            raise ValueError("nothing to mix: mixup_alpha and cutmix_alpha are 0")
        draws = self._draw(index_B, epoch, self._mix_draws)
        cut_B = (
            draws[Draw.MIX_CHOICE] < 0.5 if Draw.MIX_CHOICE in draws else np.full(len(index_B), spec.cutmix_alpha > 0)
        )
        share_B = np.ones(len(index_B))
        mixed_BCHW = x_BCHW
        if spec.mixup_alpha > 0:
            share_B = np.where(cut_B, 1.0, pixels.beta_quantile(draws[Draw.MIX_WEIGHT], spec.mixup_alpha))
            mixed_BCHW = pixels.blend(x_BCHW, partner_x_BCHW, share_B)
        if spec.cutmix_alpha > 0:
            weight_B = np.where(cut_B, pixels.beta_quantile(draws[Draw.MIX_WEIGHT], spec.cutmix_alpha), 1.0)
            box_B4, kept_B = pixels.cutmix_boxes(
                Size(*x_BCHW.shape[2:]), weight_B, row_B=draws[Draw.CUTMIX_ROW], column_B=draws[Draw.CUTMIX_COLUMN]
            )
            mixed_BCHW = pixels.paste(mixed_BCHW, partner_x_BCHW, box_B4)
            share_B = share_B * kept_B
        return mixed_BCHW, torch.from_numpy(share_B.astype(np.float32)).to(x_BCHW.device)

    @cached_property
    def _is_affine(self) -> bool:
        spec = self.spec
        return bool(
            spec.rotation_degrees or spec.height_shift or spec.width_shift or spec.shear_degrees
        ) or spec.zoom != (1.0, 1.0)

    @cached_property
    def _warps(self) -> bool:
        spec = self.spec
        moves = bool(spec.flips) or spec.vertical_flip or spec.crop_padding_px > 0
        return self._is_affine or moves or spec.random_resized_crop is not None

    @cached_property
    def _samples(self) -> int:
        area, sizes = self.spec.random_resized_crop, self.preprocessing
        return pixels.resized_crop_samples(sizes.load_size, sizes.size, area) if area else 1

    @cached_property
    def _train_draws(self) -> tuple[Draw, ...]:
        """Draws that the specification needs."""
        spec = self.spec
        wanted: dict[Draw, bool] = {
            Draw.ROTATION: spec.rotation_degrees > 0,
            Draw.ROW_SHIFT: spec.height_shift > 0,
            Draw.COLUMN_SHIFT: spec.width_shift > 0,
            Draw.HORIZONTAL_FLIP: spec.flips is True,
            Draw.VERTICAL_FLIP: spec.vertical_flip,
            Draw.SHEAR: spec.shear_degrees > 0,
            Draw.BRIGHTNESS: spec.brightness != (1.0, 1.0),
        }
        wanted |= dict.fromkeys((Draw.ROW_ZOOM, Draw.COLUMN_ZOOM), spec.zoom != (1.0, 1.0))
        wanted |= dict.fromkeys((Draw.CROP_ROW, Draw.CROP_COLUMN), spec.crop_padding_px > 0)
        wanted |= dict.fromkeys((Draw.CUTOUT_ROW, Draw.CUTOUT_COLUMN), spec.cutout_px > 0)
        resized = (Draw.RESIZED_ROW, Draw.RESIZED_COLUMN, Draw.RESIZED_AREA, Draw.RESIZED_RATIO)
        wanted |= dict.fromkeys(resized, spec.random_resized_crop is not None)
        return tuple(draw for draw, needed in wanted.items() if needed)

    @cached_property
    def _mix_draws(self) -> tuple[Draw, ...]:
        cut = (Draw.CUTMIX_ROW, Draw.CUTMIX_COLUMN) if self.spec.cutmix_alpha else ()
        choice = (Draw.MIX_CHOICE,) if self.spec.cutmix_alpha and self.spec.mixup_alpha else ()
        return (Draw.MIX_WEIGHT, *choice, *cut)

    def _draw(self, index_B: Ints, epoch: int, draws: tuple[Draw, ...]) -> Draws:
        """Random numbers of a batch, all in one call."""
        if not draws:
            return {}
        return dict(zip(draws, random.uniform(self.seed, epoch, index_B, draws).T, strict=True))

    def _alternating(self, index_B: Ints, epoch: int) -> Floats:
        """The draw of the flip in the first epoch, and in every second one after it; 1 minus it in the others."""
        first_B = random.uniform(self.seed, 0, index_B, Draw.HORIZONTAL_FLIP)
        return 1 - first_B if epoch % 2 else first_B

    def _map(self, draws: Draws) -> Floats:
        """Composed map of all geometric transforms: source = crop(affine(flip(shift(result))))."""
        spec, sizes = self.spec, self.preprocessing
        maps: list[Floats] = []
        if spec.random_resized_crop:
            maps.append(
                pixels.resized_crop_map(
                    sizes.load_size,
                    sizes.size,
                    spec.random_resized_crop,
                    area_B=draws[Draw.RESIZED_AREA],
                    ratio_B=draws[Draw.RESIZED_RATIO],
                    row_B=draws[Draw.RESIZED_ROW],
                    column_B=draws[Draw.RESIZED_COLUMN],
                )
            )
        if self._is_affine:
            maps.append(self._affine_map(draws))
        if spec.flips or spec.vertical_flip:
            maps.append(self._flip_map(draws))
        if spec.crop_padding_px:
            maps.append(
                pixels.padded_crop_map(
                    spec.crop_padding_px, row_B=draws[Draw.CROP_ROW], column_B=draws[Draw.CROP_COLUMN]
                )
            )
        return reduce(geometry.compose, maps)

    def _affine_map(self, draws: Draws) -> Floats:
        spec, size = self.spec, self.preprocessing.size
        # A transform that is off has no draw; the middle of its range is its identity, 0 or 1.
        middle_B = np.full(len(next(iter(draws.values()))), 0.5)

        def between(low: float, high: float, draw: Draw) -> Floats:
            return _between((low, high), draws.get(draw, middle_B))

        return geometry.keras_map(
            size,
            rotation_degrees_B=between(-spec.rotation_degrees, spec.rotation_degrees, Draw.ROTATION),
            row_shift_px_B=between(-spec.height_shift, spec.height_shift, Draw.ROW_SHIFT) * size.height_px,
            column_shift_px_B=between(-spec.width_shift, spec.width_shift, Draw.COLUMN_SHIFT) * size.width_px,
            shear_degrees_B=between(-spec.shear_degrees, spec.shear_degrees, Draw.SHEAR),
            row_zoom_B=between(*spec.zoom, Draw.ROW_ZOOM),
            column_zoom_B=between(*spec.zoom, Draw.COLUMN_ZOOM),
        )

    def _flip_map(self, draws: Draws) -> Floats:
        never_B = np.ones(len(next(iter(draws.values()))))
        return geometry.flip_map(
            self.preprocessing.size,
            vertical_B=draws.get(Draw.VERTICAL_FLIP, never_B) < 0.5,
            horizontal_B=draws.get(Draw.HORIZONTAL_FLIP, never_B) < 0.5,
        )


def evaluation_view(x_BCHW: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Deterministic view for evaluation: the normalised centre crop.

    Args:
        x_BCHW: uint8 [B, 3, H, W] of `load_px`.
        preprocessing: sizes, mean and deviation.

    Returns:
        Float32 [B, 3, H, W] of `size_px`, channels-last.
    """
    _check(x_BCHW, None, preprocessing)
    return pixels.normalise(pixels.centre_crop(x_BCHW, preprocessing.size), preprocessing.mean, preprocessing.std)


def _between(bounds: tuple[float, float], u_B: Floats) -> Floats:
    return bounds[0] + (bounds[1] - bounds[0]) * u_B


def _check(x_BCHW: Tensor, index_B: Ints | None, preprocessing: Preprocessing) -> None:
    channels, size = preprocessing.channels, preprocessing.load_size
    if x_BCHW.dtype != torch.uint8 or x_BCHW.ndim != 4 or x_BCHW.shape[1:] != (channels, *size):
        raise ValueError(
            f"images must be uint8 [B, {channels}, {size.height_px}, {size.width_px}]; got {x_BCHW.dtype} "
            f"{list(x_BCHW.shape)}. Read them with the preprocessing with which they were stored."
        )
    if index_B is not None and np.shape(index_B) != (len(x_BCHW),):
        raise ValueError(f"{counted(len(x_BCHW), 'image')} must have as many indices; got shape {np.shape(index_B)}")
