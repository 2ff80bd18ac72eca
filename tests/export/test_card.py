"""Model cards: the figures of the run, front matter that the hub reads, and names that stay what they are."""

import json
import re
import shutil
from collections import defaultdict
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from sklearn.datasets import load_digits

import loupe
from loupe.config.network import BackboneSpec
from loupe.export import timm_target
from loupe.export.card import card, front_matter
from loupe.export.card_facts import CardFacts
from loupe.export.job import Job
from loupe.export.markdown import fenced
from loupe.export.parity import EngineParity, ParityReport
from loupe.log import printable
from loupe.models.pretrained import WeightsOrigin, weights_origin
from loupe.provenance import ParentRun
from loupe.report import texts

pytestmark = pytest.mark.usefixtures("bare")

HOSTILE = (
    "<script>alert(1)</script>",
    "a | b \\| c",
    "`` x ` y",
    "---",
    "# [l](http://x.y) ![i](j)",
    "*b* _i_ ~~s~~ $m$ &amp; \\",
    "2 lines\n\n---\nlicense: mit",
    "\u202egnp.exe",
    "{{ 7 * 7 }} {% raw %}",
    "http://x.y and www.x.y",
)


class Tables(HTMLParser):
    """Tables of the rendered card, and every element in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: defaultdict[str, int] = defaultdict(int)
        self.in_cell = False
        self.feed(MarkdownIt("commonmark").enable("table").render(text.split("\n---\n", 1)[1]))

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_cell:
            self.tables[-1][-1][-1] += data

    def rows(self, title: str) -> list[list[str]]:
        """Rows of the table whose first column has this title, without the header."""
        return next(table[1:] for table in self.tables if table[0][0] == title)

    @property
    def classes(self) -> list[str]:
        return [row[1] for row in self.rows("output")]


def digits() -> tuple[np.ndarray, np.ndarray]:
    bunch = load_digits()
    return (bunch.images[:300] * 15.9375).astype(np.uint8), bunch.target[:300]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> loupe.Run:
    folder = tmp_path_factory.mktemp("runs")
    return loupe.train(
        digits(), recipe="digits", epochs=2, precision="fp32", output=folder, name="d", device="cpu", quiet=True
    )


@pytest.fixture(scope="module")
def facts(run) -> CardFacts:
    return CardFacts.of(run)


def renamed(facts: CardFacts, names) -> CardFacts:
    """The same run with other names of its classes, its data set and itself."""
    content = facts.results.to_json() | {"classes": names, "dataset": names[6]}
    for split in ("validation", "test"):
        rows = content[split]["per_class"]
        content[split]["per_class"] = [row | {"class": name} for row, name in zip(rows, names, strict=True)]
        content[split]["macro_f1"] = {"value": None, "why": f"no image of {names[1]}, {names[4]} and {names[5]}"}
    content.pop("schema")
    return replace(facts, name=names[0], results=type(facts.results).model_validate(content))


def test_the_card_of_a_run_has_its_figures_hashes_and_command(run, facts):
    engine = EngineParity(
        engine="engine 1.2",
        tolerance=1e-4,
        images=30,
        same_top1=30,
        largest_difference=2e-6,
        largest_difference_in_batches=3e-6,
        pixel_values=5760,
        differing_pixel_values=0,
    )
    report = ParityReport(target="onnx", compared_with="PyTorch, fp32", source="/home/somebody/new", engines=(engine,))
    text, results = card(facts, "Call `predict`.", {"library_name": "onnx"}, report), run.results
    shown = Tables(text)
    assert "## Use\n\nCall `predict`." in text and "somebody" not in text
    assert shown.rows("engine") == [["engine 1.2", "30 of 30", "3e-06", "0 of 5,760"]]
    assert shown.classes == list(results.classes)
    test = results.test
    spans = [texts.interval(block.accuracy, as_percent=True) for block in (results.validation, test)]
    [row] = [row for row in shown.rows("metric") if row[0] == "Accuracy"]
    assert [cell.partition(" (")[2].rstrip(")") for cell in row[1:]] == spans
    assert row[2].startswith(texts.percent(test.accuracy.value))
    receipt = dict(shown.rows("fact"))
    hashes = facts.environment.hashes
    assert (receipt["hash of the images"], receipt["hash of the split"]) == (hashes.data, hashes.split)
    assert receipt["hash of the test split"] == results.split_hash
    assert receipt["PyTorch"] == facts.environment.torch
    assert "recorded beside the run: 1." in text and "loupe train DATA --recipe recipe.yaml\n" in text
    [recipe] = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert yaml.safe_load(recipe) == run.recipe.model_dump(mode="json")
    wanted = [texts.percent(row.precision) for row in results.selective.thresholds]
    assert [row[0] for row in shown.rows("wanted precision")] == wanted


def test_the_hub_reads_the_front_matter(facts):
    text = card(facts, "", {"library_name": "timm", "tags": ["timm", "loupe"]})
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag) == ("timm", "image-classification")
    assert data.tags == ["image-classification", "loupe", "timm"] and data.license is None
    test = facts.results.test
    found = {result.metric_type: result for result in data.eval_results}
    assert {kind: result.metric_value for kind, result in found.items()} == {
        "accuracy": test.accuracy.value,
        "f1": test.macro_f1.value,
        "roc_auc": test.roc_auc.value,
    }
    assert {result.dataset_split for result in found.values()} == {"test"}
    assert found["f1"].metric_args == {"average": "macro"}


def test_figures_that_chose_the_model_are_no_result_for_the_hub(facts):
    locked = replace(facts, results=facts.results.model_copy(update={"test": None}))
    text = card(locked, "", {})
    assert "model-index" not in front_matter(locked, {}) and "metrics" not in front_matter(locked, {})
    assert "The test images were not evaluated." in text and "validation images" in text
    without = replace(locked, results=locked.results.model_copy(update={"validation": None}))
    assert Tables(card(without, "", {})).classes == list(facts.results.classes)


@pytest.mark.parametrize("turn", range(len(HOSTILE)))
def test_names_of_classes_data_and_runs_break_neither_markdown_nor_yaml(facts, turn):
    names = (*HOSTILE[turn:], *HOSTILE[:turn])
    text = card(renamed(facts, names), "Usage.", {"library_name": "onnx"})
    shown, plain = Tables(text), Tables(card(facts, "Usage.", {"library_name": "onnx"}))
    assert shown.classes == [printable(" ".join(name.split())) for name in names]
    assert {tag: shown.tags[tag] for tag in plain.tags if tag != "code"} == {
        tag: count for tag, count in plain.tags.items() if tag != "code"
    }
    assert set(shown.tags) == set(plain.tags)
    data = ModelCard(text).data.to_dict()
    assert data["library_name"] == "onnx" and "license" not in data
    [index] = data["model-index"]
    assert index["name"] == printable(" ".join(names[0].split()))
    assert index["results"][0]["dataset"]["name"] == printable(" ".join(names[6].split()))
    assert text.isascii() or all(c.isprintable() or c in "\n\xa0" for c in text)


def test_a_fence_is_longer_than_any_in_its_text():
    [token] = MarkdownIt().parse(fenced("a\n````\n```b", "yaml"))
    assert (token.type, token.info, token.content) == ("fence", "yaml", "a\n````\n```b\n")


def test_folders_of_the_machine_are_not_published(facts):
    paths = {"data": "/home/somebody/pets.csv", "image_folder": "C:\\somebody\\pets", "columns": {"label": "breed"}}
    environment = facts.environment.model_copy(update=paths)
    spec = BackboneSpec(backbone="resnet18", weights="local-dir:/home/somebody/resnet")
    recipe = facts.recipe.model_copy(update={"model": spec})
    parent = ParentRun(name="cats", path="/home/somebody/runs/cats", weights="ab", network="resnet18", head="new")
    environment = environment.model_copy(update={"parent": parent})
    results = facts.results.model_copy(update={"parent": parent})
    text = card(replace(facts, environment=environment, recipe=recipe, results=results), "", {})
    assert dict(Tables(text).rows("fact"))["started from the weights of"] == "cats"
    assert "Training started from the weights of cats. Not all" in text
    assert "somebody" not in text and "weights: local-dir:resnet" in text
    assert "loupe train pets.csv --columns label=breed --images pets --recipe recipe.yaml" in text


def test_later_evaluations_of_the_test_images_count(run, facts):
    run.evaluate("test", digits())
    assert (facts.looks, CardFacts.of(run).looks) == (1, 2)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, {}),
        (WeightsOrigin(), {"license": "unknown"}),
        (WeightsOrigin("timm/x", "apache-2.0"), {"license": "apache-2.0", "base_model": "timm/x"}),
        (
            WeightsOrigin("timm/x", "dinov3-license"),
            {"license": "other", "license_name": "dinov3-license", "base_model": "timm/x"},
        ),
    ],
)
def test_the_licence_is_that_of_the_pretrained_weights(facts, origin, expected):
    matter = front_matter(replace(facts, origin=origin), {})
    assert {key: matter[key] for key in ("license", "license_name", "base_model") if key in matter} == expected
    assert front_matter(replace(facts, origin=origin), {"license": "mit"})["license"] == "mit"


@pytest.mark.parametrize(
    ("weights", "origin"),
    [
        ("none", None),
        ("weights.safetensors", WeightsOrigin()),
        ("timm", WeightsOrigin("timm/vgg16.tv_in1k", "bsd-3-clause")),
        ("hf-hub:timm/vgg16.tv_in1k@main", WeightsOrigin("timm/vgg16.tv_in1k", "bsd-3-clause")),
        ("hf-hub:ann/pets", WeightsOrigin("ann/pets", None)),
    ],
)
def test_origin_of_pretrained_weights(weights, origin):
    assert weights_origin(BackboneSpec(backbone="vgg16.tv_in1k", weights=weights)) == origin


def test_the_recorded_licence_counts_where_the_parent_is_gone(tmp_path):
    settings = {"model.backbone": "test_resnet", "model.weights": "none", "stages.0.epochs": 1}
    settings |= {"input.size_px": 32, "input.load_px": 32}
    options = {"output": tmp_path, "device": "cpu", "precision": "fp32", "quiet": True}
    parent = loupe.train(digits(), recipe="features", settings=settings, name="parent", **options)
    child = loupe.train(digits(), weights=str(parent.path), settings={"stages.0.epochs": 1}, name="child", **options)
    shutil.rmtree(parent.path)
    file = child.path / "environment.json"
    recorded = json.loads(file.read_text())
    recorded["parent"]["licence"] = "cc-by-nc-4.0"
    file.write_text(json.dumps(recorded))
    child = loupe.load(child.path, device="cpu")
    facts, job = CardFacts.of(child), Job(child, child.model, tmp_path / "timm")
    assert front_matter(facts, {})["license"] == "cc-by-nc-4.0" and "stated as `cc-by-nc-4.0`" in card(facts, "", {})
    assert job.licence == "cc-by-nc-4.0" and job.metadata["licence"] == job.licence
    timm_target.write(job)
    assert json.loads((job.folder / "config.json").read_text())["pretrained_cfg"]["license"] == job.licence
