"""LitServe on an ONNX export of Loupe, with Loupe's decoder: a server to compare with.

    python -m venv LITSERVE
    LITSERVE/bin/pip install litserve python-multipart onnxruntime numpy pillow pydantic pyyaml platformdirs rich
    PYTHONPATH=src LITSERVE/bin/python benchmarks/peers/litserve_server.py EXPORT --port 8000 --batch 8 --wait-ms 5

Images are uploaded to /predict, one in a request, in the form field `request`. Its requests go through the process of a
queue to one process that computes. The images of a batch are decoded there by a pool of threads, as LitServe's guide to
batching does it; ONNX Runtime computes with the same number of threads.
"""

import argparse
from pathlib import Path

import litserve
import numpy as np
from exported_onnx import ExportedOnnx
from fastapi import UploadFile


class Classifier(litserve.LitAPI):
    """Classifier behind LitServe's batching."""

    def __init__(self, folder: Path, threads: int, batch: int, wait_ms: float) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=wait_ms / 1e3)
        self._folder, self._threads = folder, threads

    def setup(self, device: str) -> None:
        self._model = ExportedOnnx(self._folder, self._threads)

    def decode_request(self, request: UploadFile) -> bytes:
        return request.file.read()

    def batch(self, inputs: list[bytes]) -> list[np.ndarray]:
        return self._model.decoded(inputs)

    def predict(self, x: list[np.ndarray] | bytes) -> list[dict[str, str | float]]:
        return self._model.answers(self._model.decoded([x]) if isinstance(x, bytes) else x)

    def unbatch(self, output: list[dict[str, str | float]]) -> list[dict[str, str | float]]:
        return output

    def encode_response(self, output: dict[str, str | float] | list[dict[str, str | float]]) -> dict[str, str | float]:
        return output[0] if isinstance(output, list) else output  # a list where a batch has one image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--wait-ms", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--zmq", action="store_true", help="LitServe's faster queue of answers")
    given = parser.parse_args()
    api = Classifier(given.export, given.threads, given.batch, given.wait_ms)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=given.workers, fast_queue=given.zmq)
    server.run(host="127.0.0.1", port=given.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
