"""Similarity of two images: by layout, compared for all pairs, and by detail, compared for similar layouts.

Both use grey images of `SIDE_PX` on a side, so that colour, size and JPEG quality have little effect.

Layout: the lowest frequencies of the discrete cosine transform, as in perceptual hashes (Zauner, "Implementation and
Benchmarking of Perceptual Image Hash Functions", 2010), but as numbers, not bits. Each coefficient is multiplied by the
root of its frequency, because in photographs amplitudes fall with frequency, and the vector is normalised to length 1.
The similarity is the inner product. In a mirrored image, coefficients of odd horizontal frequency change their sign.
So the sum of the inner products of even and odd coefficients compares two images, and their difference compares one
image with the other mirrored.

Detail: local contrast, divided by the contrast in its neighbourhood, so that dark and bright regions have equal weight.
The similarity is the largest normalised cross-correlation over small shifts and small enlargements of either image
(a crop is an enlargement). The lower limit of its 95 % interval is used: two images with a horizon and nothing else
correlate strongly, but at few independent positions. The number of those follows from the autocorrelations of both
images (Bartlett, "Some Aspects of the Time-Correlation Problem in Regard to Tests of Significance", 1935). Photographs
of one scene share the layout; only copies of one photograph share the detail.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter1d

from loupe.data.pixels.decode import UInt8Array

Float32Array = NDArray[np.float32]

SIDE_PX = 32
FREQUENCIES = 6
PLAIN_LEVELS = 2.0
"""Smallest variation of the low frequencies, in grey levels (root mean square), for which an image is compared."""
SHIFT_PX = 4
ZOOMS = (1.06, 1.12)
WORTH_ZOOMING = 0.2
"""Similarity below which enlargements are not tried, because no such pair became a near duplicate in tests."""

_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_NOISE_LEVELS = 3.0  # contrast below this counts as noise of a JPEG
_FINE_PX, _NEARBY_PX = 2.0, 3.0
_INTERVAL = 1.96
_MOST = 0.9999  # Fisher's transform of 1 is infinite


def layouts(pixels_BHWC: UInt8Array) -> Float32Array:
    """Layouts, even and odd parts, float32 [B, 2, 18], with a joint norm of 1, or 0 for a plain image."""
    waves_FH = fft.dct(np.eye(SIDE_PX, dtype=np.float32), axis=0, norm="ortho")[:FREQUENCIES]
    waves_BHW = waves_FH @ (pixels_BHWC @ _GREY) @ waves_FH.T
    waves_BHW[:, 0, 0] = 0
    levels_B = np.linalg.norm(waves_BHW, axis=(1, 2)) / SIDE_PX
    waves_BHW = waves_BHW * _frequency_weights()
    length_B = np.linalg.norm(waves_BHW, axis=(1, 2))
    scale_B = np.where(levels_B < PLAIN_LEVELS, 0, 1 / np.maximum(length_B, 1e-6))
    waves_BHW *= scale_B[:, None, None]
    count = len(pixels_BHWC)
    parts = [waves_BHW[:, :, odd::2].reshape(count, -1) for odd in (0, 1)]
    return np.stack(parts, axis=1).astype(np.float32)


def likeness(first_BHWC: UInt8Array, second_BHWC: UInt8Array, mirrored_B: NDArray[np.bool_]) -> Float32Array:
    """Similarity in detail of pairs of images [B]: 1 for equal images, near 0 for unrelated ones.

    The second image is flipped horizontally where `mirrored_B` is true.
    """
    first_BHW, second_BHW = first_BHWC @ _GREY, second_BHWC @ _GREY
    second_BHW = np.where(mirrored_B[:, None, None], second_BHW[:, :, ::-1], second_BHW)
    first, second = _spectrum(first_BHW), _spectrum(second_BHW)
    correlation_B, spread_B = _correlation(first, second), _spread(first, second)
    rest = np.flatnonzero(_lower_end(correlation_B, spread_B) >= WORTH_ZOOMING)
    for zoom in ZOOMS if len(rest) else ():
        near = _correlation(_spectrum(_enlarged(first_BHW[rest], zoom)), second[rest])
        far = _correlation(first[rest], _spectrum(_enlarged(second_BHW[rest], zoom)))
        correlation_B[rest] = np.maximum(correlation_B[rest], np.maximum(near, far))
    return _lower_end(correlation_B, spread_B)


def _correlation(first: NDArray[np.complex64], second: NDArray[np.complex64]) -> Float32Array:
    """Largest normalised cross-correlation over shifts of up to `SHIFT_PX`, from the spectra of both images."""
    shifted_BHW = fft.irfft2(first.conj() * second, s=(SIDE_PX, SIDE_PX))
    near = np.r_[-SHIFT_PX : SHIFT_PX + 1]
    return np.asarray(shifted_BHW[:, near[:, None], near[None, :]].max(axis=(1, 2)), np.float32)


def _spread(first: NDArray[np.complex64], second: NDArray[np.complex64]) -> Float32Array:
    """Standard deviation of the correlation of unrelated images with these autocorrelations."""
    own_BHW = [fft.irfft2(np.abs(spectrum) ** 2, s=(SIDE_PX, SIDE_PX)) for spectrum in (first, second)]
    return np.asarray(np.sqrt(np.maximum((own_BHW[0] * own_BHW[1]).sum(axis=(1, 2)), 1)) / SIDE_PX, np.float32)


def _lower_end(correlation_B: Float32Array, spread_B: Float32Array) -> Float32Array:
    """Lower limit of the 95 % interval of a correlation, by Fisher's transform."""
    return np.asarray(np.tanh(np.arctanh(np.clip(correlation_B, -_MOST, _MOST)) - _INTERVAL * spread_B), np.float32)


def _spectrum(grey_BHW: Float32Array) -> NDArray[np.complex64]:
    """Fourier transform of the detail, windowed towards the borders and normalised to 1."""
    detail_BHW = grey_BHW - _blurred(grey_BHW, _FINE_PX)
    nearby_BHW = _blurred(detail_BHW**2, _NEARBY_PX)
    detail_BHW = detail_BHW / np.sqrt(np.maximum(nearby_BHW, 0) + _NOISE_LEVELS**2) * _window()
    detail_BHW = detail_BHW - detail_BHW.mean(axis=(1, 2), keepdims=True)
    length_B = np.linalg.norm(detail_BHW, axis=(1, 2))
    return np.asarray(fft.rfft2(detail_BHW / np.maximum(length_B, 1e-6)[:, None, None]), np.complex64)


def _blurred(grey_BHW: Float32Array, sigma_px: float) -> Float32Array:
    kernel_HH = gaussian_filter1d(np.eye(SIDE_PX, dtype=np.float32), sigma_px, axis=0, mode="nearest")
    return np.asarray(kernel_HH @ grey_BHW @ kernel_HH.T)


def _enlarged(grey_BHW: Float32Array, zoom: float) -> Float32Array:
    """Centre of the images, enlarged to their size by linear interpolation."""
    centre = (SIDE_PX - 1) / 2
    at = centre + (np.arange(SIDE_PX) - centre) / zoom
    weights_HH = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(SIDE_PX)[None, :])).astype(np.float32)
    return np.asarray(weights_HH @ grey_BHW @ weights_HH.T)


def _window() -> Float32Array:
    fade = np.sqrt(np.hanning(SIDE_PX + 2)[1:-1])
    return np.asarray(np.outer(fade, fade), np.float32)


def _frequency_weights() -> Float32Array:
    vertical, horizontal = np.mgrid[:FREQUENCIES, :FREQUENCIES]
    return np.asarray(np.sqrt(np.hypot(vertical, horizontal)), np.float32)
