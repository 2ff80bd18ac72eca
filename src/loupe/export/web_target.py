"""Target `web`: a page for the browser beside the ONNX file that it holds."""

from functools import partial

from loupe.errors import ConfigError
from loupe.export import web, web_gate, web_runtime
from loupe.export.job import TOLERANCE, Check, Job, Written
from loupe.export.onnx_file import onnx_file
from loupe.export.parity import Gate
from loupe.export.program import ImageProgram
from loupe.export.runners import OnnxRuntime
from loupe.log import logger
from loupe.models.classifier import Classifier

USAGE = """
`index.html` classifies photographs in a browser, from disk and without network. Open it, then drop photographs, choose
them or use the camera. It needs no other file. `model.onnx` is the network in it: uint8 [N, H, W, 3] to calibrated
`probabilities`, the resized `pixels` and, where the network has them, class activation `maps`.
"""


def write(job: Job) -> Written:
    """Write the page and its model: the model is compared in ONNX Runtime, and the page in Chromium, if it is there."""
    given = job.options.runtime
    runtime = web_runtime.published() if given is None else web_runtime.of_folder(given)
    model, path = job.model, job.folder / "model.onnx"
    data = onnx_file(_program(model), job.metadata)
    path.write_bytes(data)
    web.write(
        job.folder,
        data,
        classes=model.classes,
        preprocessing=model.preprocessing,
        title=job.run.path.name,
        runtime=runtime,
        threshold=job.options.threshold,
        calibrated=model.temperature != 1.0,
    )
    checks: tuple[Check, ...] = ()
    if web_gate.has_browser():
        checks = (partial(web_gate.compare_if_it_starts, job.folder / web.PAGE),)
    else:
        logger.warning(
            "the page is not compared in a browser, only its model is. For that, install Chromium and Playwright: "
            "pip install playwright"
        )
    return Written(path.name, (Gate(OnnxRuntime(path), TOLERANCE),), USAGE, {"library_name": "onnx"}, checks, web.PAGE)


def _program(model: Classifier) -> ImageProgram:
    """Network with class activation maps, or without where it has none."""
    try:
        return ImageProgram(model, with_maps=True)
    except ConfigError:
        return ImageProgram(model)
