"""The target `web`: the page beside its model, of which both are those of the run."""

import json
import re

import pytest

import web_pages
from loupe.errors import DataError
from loupe.export import web, web_target
from loupe.export.export import in_fp32, reference_of, samples_of
from loupe.export.job import Job, Options
from loupe.export.parity import compare

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def options(tmp_path) -> Options:
    return Options(runtime=web_pages.runtime_folder(tmp_path / "runtime"), threshold=0.75)


@pytest.mark.slow
def test_the_model_beside_the_page_has_maps_and_passes(run, options, tmp_path):
    model, folder = in_fp32(run), tmp_path / "web"
    folder.mkdir()
    written = web_target.write(Job(run, model, folder, options))
    session = onnxruntime.InferenceSession(folder / written.model)
    names = {value.name for value in session.get_outputs()}
    assert names >= {"probabilities", "maps"}
    compare("web", written.gates, samples_of(run, None), reference_of(model), "PyTorch, fp32")
    text = (folder / web.PAGE).read_text(encoding="utf-8")
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', text)[1])
    assert facts["classes"] == [*run.classes] and facts["threshold"] == 0.75
    assert facts["size"] == {"width": 20, "height": 20} and facts["load"] == {"width": 24, "height": 24}


def test_without_its_runtime_nothing_is_written(run, tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    with pytest.raises(DataError, match="--runtime"):
        web_target.write(Job(run, in_fp32(run), folder, Options(runtime=tmp_path)))
    assert not [*folder.iterdir()]
