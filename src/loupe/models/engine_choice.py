"""Choice of the engine that a stored model predicts with, settled once, when it is saved.

OpenVINO, for backbones that are large enough to gain from it and for every network of Loupe, if it gives the answers of
PyTorch in fp32: the same class, and probabilities within 0.001, for every validation image that is compared. bf16 where
it is faster on this processor and it keeps to the same bound on all of 200 or more. No choice depends on a clock.
Networks of Loupe are converted in hundredths of a second, and predict without loading PyTorch; backbones take seconds.

The compared images are all of the validation images if PyTorch has evaluated the network on them. They are a few of
them if the network was evaluated on outputs of frozen blocks, which OpenVINO has computed itself; PyTorch then computes
these few, once for each frozen trunk.
"""

from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.special import softmax

from loupe.config.network import BackboneSpec, Network
from loupe.data.pixels.decode import UInt8Array
from loupe.data.pixels.read_ahead import cut
from loupe.devices import Compute, openvino_gains_from_bf16
from loupe.models.bundle import ConvertedNetwork
from loupe.models.bundle_config import StoredEngine, content_digest
from loupe.models.classifier import Classifier
from loupe.models.conversion import Files, convert
from loupe.models.openvino_network import OpenVinoNetwork
from loupe.models.pixel_engine import Array, PixelEngine
from loupe.models.torch_network import TorchNetwork

SMALLEST_FLOP = 3e7  # of a backbone, for one image; results/prediction.md
COMPARED_IMAGES = 32
LARGEST_DIFFERENCE = 1e-3  # of a probability
FEWEST_FOR_BF16 = 200  # validation images

Read = Callable[[np.ndarray], UInt8Array]


def choose_engine(
    model: Classifier,
    spec: Network,
    compute: Compute,
    *,
    read: Read,
    row_N: np.ndarray,
    evaluated_NK: Array | None,
    in_torch: bool,
    cache: Path,
) -> tuple[ConvertedNetwork | None, str]:
    """Network for the engine of prediction, or None for PyTorch; and the reason, if there is one to tell.

    Args:
        model: network with its final weights.
        compute: device and precision that it was trained and evaluated in; all but fp32 on a CPU stay with PyTorch.
        read: decoded pixels of some rows.
        row_N: rows of the validation images.
        evaluated_NK: their logits in fp32; None if they are not known.
        in_torch: True if PyTorch computed the logits from images, and not from cached outputs of frozen blocks.
        cache: folder of converted trunks.
    """
    on_cpu = compute.device.type == "cpu" and compute.precision == "fp32" and find_spec("openvino") is not None
    if not (on_cpu and len(row_N)):
        return None, ""
    was_training = model.training
    model.eval()
    try:
        if isinstance(spec, BackboneSpec) and flop(model) < SMALLEST_FLOP:
            return None, ""
        converted = convert(model, spec, cache)
        network, few_N = OpenVinoNetwork(converted.files, "fp32"), np.arange(len(row_N))
        if not in_torch:
            few_N = np.unique(np.linspace(0, len(row_N) - 1, min(COMPARED_IMAGES, len(row_N)), dtype=np.int64))
        if evaluated_NK is not None and (in_torch or converted.is_known):
            wanted_NK = evaluated_NK[few_N]
        else:
            wanted_NK = _answers(TorchNetwork(model, compute), read, row_N[few_N])
        difference = disagreement(_answers(network, read, row_N[few_N]), wanted_NK)
        if difference > LARGEST_DIFFERENCE:
            return None, f"probabilities of OpenVINO differ from those of PyTorch by up to {difference:.2g}"
        converted.keep()
        engine = _described(converted.files, "fp32", len(few_N), difference)
        if evaluated_NK is not None and openvino_gains_from_bf16(compute.device):
            engine = _in_bf16(converted.files, read, row_N, evaluated_NK) or engine
        return ConvertedNetwork(engine, converted.files), ""
    except Exception as error:  # its converter and its compiler raise classes of their own
        return None, f"OpenVINO cannot run this network ({' '.join(str(error).split())[:200]})"
    finally:
        model.train(was_training)


def _in_bf16(files: Files, read: Read, row_N: np.ndarray, evaluated_NK: Array) -> StoredEngine | None:
    """Engine in bf16, if it keeps to the bound on all validation images, and these are many; else None."""
    if len(row_N) < FEWEST_FOR_BF16:
        return None
    network, difference = OpenVinoNetwork(files, "bf16"), 0.0
    for compared in (COMPARED_IMAGES, len(row_N)):  # a few tell of most networks that they differ
        difference = disagreement(_answers(network, read, row_N[:compared]), evaluated_NK[:compared])
        if difference > LARGEST_DIFFERENCE:
            return None
    return _described(files, "bf16", len(row_N), difference)


def flop(model: Classifier) -> int:
    """Floating point operations of a network in evaluation mode for one image, counted on PyTorch's meta device."""
    from torch.utils.flop_counter import FlopCounterMode  # loads Triton, which small networks do without

    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    abstract = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    x_BCHW = torch.empty(1, model.preprocessing.channels, *model.preprocessing.size, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(model, abstract, x_BCHW)
    return int(counter.get_total_flops())


def disagreement(logits_NK: Array, wanted_NK: Array) -> float:
    """Largest difference of a probability; 1 if the class of an image is another."""
    if (logits_NK.argmax(axis=1) != wanted_NK.argmax(axis=1)).any():
        return 1.0
    difference_NK = softmax(logits_NK.astype(np.float64), axis=1) - softmax(wanted_NK.astype(np.float64), axis=1)
    return float(np.abs(difference_NK).max())


def _answers(engine: PixelEngine, read: Read, row_N: np.ndarray) -> Array:
    return np.concatenate(list(engine.run(read(row_B) for row_B in cut(row_N, engine.batch_images))))


def _described(files: Files, precision: Literal["bf16", "fp32"], images: int, difference: float) -> StoredEngine:
    return StoredEngine(
        library="openvino",
        version=version("openvino"),
        precision=precision,
        network_blake2b=content_digest(*files),
        compared_images=images,
        largest_difference=difference,
    )
