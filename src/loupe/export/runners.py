"""Engines that run exported files, from decoded images to probabilities. Nothing here needs PyTorch."""

import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from loupe.data.pixels.decode import UInt8Array
from loupe.data.pixels.limits import MAX_PIXELS
from loupe.errors import ConfigError, DataError
from loupe.models.openvino_import import core, on_threads
from loupe.models.openvino_network import threads

Floats = npt.NDArray[np.float32]


class Runner(Protocol):
    """Engine that runs an exported model; `name` has its library and its version."""

    name: str

    def run(self, images: UInt8Array) -> tuple[Floats, UInt8Array]:
        """Calibrated probabilities [N, K] and resized pixels [N, H, W, C] of decoded images [N, H, W, 3].

        Raises:
            DataError: the engine refuses the images.
        """


class OnnxRuntime:
    """ONNX Runtime on the CPU.

    Args:
        model: ONNX file.
        callers: number of threads that call `run` at a time. Several share the cores with those of the engine, which
            do not spin then while they wait: on two cores, two callers compute twice as many images as one.

    Raises:
        ConfigError: it is not installed.
    """

    def __init__(self, model: Path, callers: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ConfigError("this needs ONNX Runtime: pip install onnxruntime") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = max(1, threads() - callers + 1)
        if callers > 1:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # its errors are raised, and printed again
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self.has_maps = "maps" in {output.name for output in self._session.get_outputs()}

    def run(self, images: UInt8Array) -> tuple[Floats, UInt8Array]:
        probabilities_NK, pixels_NHWC = self._outputs(["probabilities", "pixels"], images)
        return probabilities_NK, pixels_NHWC

    def maps(self, images: UInt8Array) -> Floats:
        """Class activation maps [N, K, h, w] of decoded images; only if `has_maps`.

        Raises:
            DataError: the engine refuses the images.
        """
        maps_NKHW: Floats = self._outputs(["maps"], images)[0]
        return maps_NKHW

    def _outputs(self, names: list[str], images: UInt8Array) -> list[Any]:
        try:
            found: list[Any] = self._session.run(names, {"images": images})
        except Exception as error:  # it raises classes of its own
            raise refused(error) from None
        return found


class OpenVino:
    """OpenVINO on the CPU, in fp32 or bf16, from an ONNX file or a description of its own (.xml).

    Args:
        model: the file.
        precision: of the network.
        callers: number of threads that call `run` at a time.
    """

    def __init__(self, model: Path, precision: str = "f32", callers: int = 1) -> None:
        options = {"INFERENCE_PRECISION_HINT": precision, **on_threads(threads())}
        if callers > 1:
            options["PERFORMANCE_HINT"] = "THROUGHPUT"
        self._compiled: Any = core().compile_model(core().read_model(str(model)), "CPU", options)
        self._of_thread = threading.local()
        self.name = f"openvino {version('openvino')}"

    @property
    def _request(self) -> Any:
        """Request of this thread, which is kept: one computes a single input at a time."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        return self._of_thread.request

    def run(self, images: UInt8Array) -> tuple[Floats, UInt8Array]:
        pixels = int(np.prod(images.shape[1:3], dtype=np.int64))
        if not 0 < pixels <= MAX_PIXELS:  # it has no operator that would make this an error
            raise DataError(f"the exported model takes images of 1 to {MAX_PIXELS:,} pixels, and got {pixels:,}.")
        try:
            outputs = self._request.infer({0: images}, share_inputs=True)
        except Exception as error:  # it raises classes of its own
            raise refused(error) from None
        return outputs[0], outputs[1]


def refused(error: Exception) -> DataError:
    """Error for images that an engine does not take."""
    return DataError(f"the exported model refuses the images: {' '.join(str(error).split())[:300]}")
