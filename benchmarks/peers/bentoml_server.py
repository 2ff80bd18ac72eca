"""BentoML on an ONNX export of Loupe, with Loupe's decoder: a server to compare with.

    python -m venv BENTOML
    BENTOML/bin/pip install bentoml onnxruntime numpy pillow pydantic pyyaml platformdirs rich
    PYTHONPATH=src BENTOML/bin/python benchmarks/peers/bentoml_server.py EXPORT --port 8000 --batch 32 --latency-ms 1000

Images are uploaded to /predict, one in a request, in the form field `images`. Adaptive batching is on, in the one
worker that a service has by default; its images are decoded by a pool of threads, and ONNX Runtime computes with the
same number of threads. The script starts `bentoml serve` on itself: settings pass through the environment.
"""

import argparse
import os
import sys
from pathlib import Path

import bentoml

sys.path.insert(0, str(Path(__file__).parent))

from exported_onnx import ExportedOnnx

EXPORT, THREADS, BATCH, LATENCY = "EXPORT", "EXPORT_THREADS", "EXPORT_BATCH", "EXPORT_LATENCY_MS"


@bentoml.service(
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    threads=int(os.environ.get(THREADS, "1")),
)
class Classifier:
    """Classifier behind BentoML's adaptive batching."""

    def __init__(self) -> None:
        self._model = ExportedOnnx(Path(os.environ[EXPORT]), int(os.environ[THREADS]))

    @bentoml.api(
        batchable=True,
        batch_dim=0,
        max_batch_size=int(os.environ.get(BATCH, "32")),
        max_latency_ms=int(os.environ.get(LATENCY, "1000")),
    )
    def predict(self, images: list[Path]) -> list[dict[str, str | float]]:
        return self._model.answers(self._model.decoded([path.read_bytes() for path in images]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--latency-ms", type=int, default=1000)
    given = parser.parse_args()
    settings = {EXPORT: given.export, THREADS: given.threads, BATCH: given.batch, LATENCY: given.latency_ms}
    environment = {**os.environ, **{name: str(value) for name, value in settings.items()}, "BENTOML_DO_NOT_TRACK": "1"}
    place = Path(__file__).resolve()
    command = [sys.executable, "-m", "bentoml", "serve", f"{place.stem}:Classifier", "--working-dir", str(place.parent)]
    os.execve(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(given.port)], environment)


if __name__ == "__main__":
    main()
