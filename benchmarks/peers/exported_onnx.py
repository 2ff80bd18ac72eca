"""Handler that the other servers share: the decoder of Loupe, and ONNX Runtime on an ONNX export of Loupe.

It imports no more of Loupe than its decoder, by PYTHONPATH.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from loupe.config.recipe import Preprocessing
from loupe.data.pixels.decode import in_colour, load, settings_of


class ExportedOnnx:
    """ONNX export that answers for image files.

    Args:
        folder: folder of the export.
        threads: threads that ONNX Runtime computes with, and that decode the images of a batch.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        manifest = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        own = Preprocessing.model_validate(manifest["preprocessing"])
        self._classes = manifest["classes"]
        self._settings = settings_of(own)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        path = str(folder / manifest["model"])
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._pool = ThreadPoolExecutor(threads)
        self.answers([np.zeros((*own.load_size, 3), np.uint8)])  # the first pass fills caches

    def pixels(self, data: bytes) -> np.ndarray:
        """Prepared pixels of an image file, uint8 [H, W, 3]."""
        return in_colour(load(data, "image", **self._settings))

    def decoded(self, files: Sequence[bytes]) -> list[np.ndarray]:
        """Prepared pixels of several image files, by so many threads."""
        return list(self._pool.map(self.pixels, files)) if len(files) > 1 else [self.pixels(data) for data in files]

    def answers(self, pixels: Sequence[np.ndarray]) -> list[dict[str, str | float]]:
        """Class and probability for each image."""
        [probabilities_NK] = self._session.run(["probabilities"], {"images": np.stack(pixels)})
        return [{"label": self._classes[k_K.argmax()], "probability": float(k_K.max())} for k_K in probabilities_NK]
