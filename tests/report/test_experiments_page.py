"""The page of `loupe reproduce`: the numbers of the JSON, what is missing said in words, and deaf to what names say."""

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from builders import experiments_content as content
from loupe.evaluate.experiment_results import ExperimentResults, ExperimentRow
from loupe.records import RecordError
from loupe.report import figures
from loupe.report.experiments_page import COLUMNS, write_page

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>'",
    "</title></style><h1>",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{$",
    "javascript:alert(1)",
    "../../etc",
    "a" * 300,
)


class Page(HTMLParser):
    """What a browser would find in the page; `rows` are the texts of the table of all figures, cell by cell."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.table = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.table = dict(attrs)["class"]
        if self.table == "plain experiments" and tag == "tr":
            self.rows.append([])
        if self.table == "plain experiments" and tag in ("th", "td"):
            self.rows[-1].append("")
        if tag == "small":
            self.handle_data("|")

    def handle_endtag(self, tag):
        if tag == "table":
            self.table = ""

    def handle_data(self, data):
        self.text += data
        if self.table == "plain experiments" and self.rows and self.rows[-1] and data.strip():
            self.rows[-1][-1] += data.replace("\xa0", " ")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def row(self, name: str) -> dict[str, str]:
        cells = next(row for row in self.rows if row[0].split("|")[0] == name)
        return dict(zip(("Experiment", *COLUMNS), cells, strict=True))

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def show(folder: Path, shown: dict) -> Page:
    path = folder / "experiments.html"
    write_page(path, ExperimentResults.of(json.loads(json.dumps(shown)), folder))
    return Page(path)


def test_the_command_of_the_environment_is_shown_as_it_was_typed(tmp_path):
    shown = content()
    shown["environment"]["command"] = ["loupe", "reproduce", "--data", "my data"]
    words = show(tmp_path, shown).words
    assert "loupe reproduce --data 'my data'" in words
    assert "['loupe'" not in words


def test_the_page_says_what_the_content_holds(tmp_path):
    page = show(tmp_path, content())
    words = page.words.replace("\xa0", " ")
    for said in (
        "The published accuracy is reached in 2 of 3 experiments; 16 not measured.",
        "3 seeds for each experiment. Budget: quick",
        "7 on cifar10; 0 on cats_vs_dogs",
        "AdamW 0.01, one-cycle, batch 128",
        "still improving at the end",
        "309,291, of them 896 not trainable",
        "800 validation images",
        "three blocks of two 3x3 convolutions with BatchNorm",
        "loupe reproduce --budget quick --seeds 3 --data 'my data'",
        "3.11.9",
    ):
        assert said in words, said
    assert "gpu" not in words
    links = {attributes["href"] for attributes in page.all("a")}
    assert "./deep-cnn-quick-seed2/report.html" in links


def test_a_row_holds_the_numbers_of_the_json(tmp_path):
    page = show(tmp_path, content())
    assert len(page.rows) == 20
    assert page.row("deep-cnn") == {
        "Experiment": "deep-cnn|cifar10",
        "Published accuracy": "84.9 %",
        "Measured accuracy": "85.3 %|95 % interval 84.3–86.3 %|seeds 83.3–87.3 %|reached, within the interval",
        "Micro-F1": "0.853",
        "AUC": "0.988",
        "Loss": "0.432",
        "Parameters": "309,291|published 309,290",
        "Epochs, published → measured": "125 → 14.7",
        "Seconds per epoch": "3 min 25 s|published 24.0 s",
        "Total time": "51 min 20 s",
        "Test-set evaluations": "7",
    }
    assert page.row("lecture-cnn")["Measured accuracy"].endswith("|missed")
    assert page.row("lecture-cnn")["Loss"] == "0.432|published 1.130"


def test_what_was_judged_on_validation_says_so(tmp_path):
    page = show(tmp_path, content())
    row = page.row("catsdogs-cnn")
    assert row["Published accuracy"] == "79.0–81.0 %|on validation images"
    assert "|on validation images|" in row["Measured accuracy"]
    assert "validation" not in " ".join(page.row("deep-cnn").values())


def test_what_was_not_measured_has_no_measured_value(tmp_path):
    page = show(tmp_path, content())
    assert page.row("project-vgg16-finetune") == {
        "Experiment": "project-vgg16-finetune|cifar10",
        "Published accuracy": "78.4 %",
        "Measured accuracy": "not measured: no weights",
        "Micro-F1": "–|published 0.784",
        "AUC": "–|published 0.974",
        "Loss": "–|published 0.717",
        "Parameters": "–|published 14,982,730",
        "Epochs, published → measured": "100 → –",
        "Seconds per epoch": "–",
        "Total time": "–",
        "Test-set evaluations": "–",
    }
    assert page.row("simple-cnn")["Measured accuracy"] == "stopped in epoch 3 of 15: the loss is not finite"
    assert "project-vgg16-finetune: published 78.4\xa0%, not measured." in page.source


def test_one_seed_has_no_spread(tmp_path):
    shown = content()
    for row in shown["rows"]:
        if row["measured"]:
            row["measured"]["seeds"] = [0]
    page = show(tmp_path, shown | {"seeds": 1})
    assert page.row("deep-cnn")["Measured accuracy"] == "85.3 %|95 % interval 84.3–86.3 %|reached, within the interval"
    assert "1 seed for each experiment" in page.words


def test_nothing_measured_is_said(tmp_path):
    shown = content()
    for row in shown["rows"]:
        row |= {"measured": None, "verdict": None, "why": "not measured: no weights"}
    page = show(tmp_path, shown)
    assert "No experiment was measured; 19 not measured" not in page.words
    assert "No experiment was measured." in page.words
    assert not re.search(r"measured \d", " ".join(drawing["aria-label"] or "" for drawing in labelled(page)))


def labelled(page: Page) -> list[dict[str, str | None]]:
    return [drawing for drawing in page.all("svg") if "aria-label" in drawing]


def test_both_figures_exist_and_have_words(tmp_path):
    page = show(tmp_path, content())
    words = [drawing["aria-label"].replace("\xa0", " ") for drawing in labelled(page)]
    assert len(words) == 4 and words[0] == words[1] and words[2] == words[3]
    assert "deep-cnn: published 84.9 %, measured 85.3 %." in words[0]
    assert "catsdogs-cnn: published 79.0–81.0 %, measured 81.2 %." in words[0]
    assert "catsdogs-vgg16-bottleneck" not in words[0]
    assert "deep-cnn: published 24.0 s, measured 3 min 25 s." in words[2]
    assert "lecture-cnn: measured 3 min 25 s." in words[2] and "simple-cnn" not in words[2]
    assert page.source.count(">85.3\xa0%</text>") == 2


def test_the_page_stands_alone_and_can_be_read_by_machine(tmp_path):
    page = show(tmp_path, content())
    assert not page.all("script") and not page.all("link") and not page.all("iframe") and not page.all("img")
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ") and "script" not in policy
    for name, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "href", "xlink:href", "action"):
            assert re.fullmatch(r"#.*|\./[\w%.-]+/report\.html", attributes.get(key, "#")), (name, attributes)
    assert not re.search(r"url\((?!#)|@import|https?://", page.source)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {link["href"][1:] for link in page.all("a") if link["href"].startswith("#")}
    named = {attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes}
    assert targets | named <= set(ids) and "experiment-19" in targets
    assert all(header.get("scope") in {"col", "row"} for header in page.all("th"))
    assert all(drawing.get("aria-label") or drawing.get("aria-hidden") for drawing in page.all("svg"))
    assert len(page.all("main")) == len(page.all("h1")) == len(page.all("title")) == 1
    assert page.all("html")[0]["lang"] == "en" and len(page.all("details")) == 19


def test_names_are_text_whatever_they_say(tmp_path):
    plain, hostile = content(), content()
    for shown, names in ((plain, tuple(f"name {i}" for i in range(len(HOSTILE)))), (hostile, HOSTILE)):
        first, second = shown["rows"][1], shown["rows"][0]
        first |= {"name": names[0], "verdict": "reached"}
        first["published"] |= {"network": names[1], "remark": names[2]}
        first["measured"] |= {"runs": list(names), "settings": names[3], "diagnosis": names[2]}
        second |= {"name": names[4], "why": names[0]}
        shown["rows"][2]["name"] = names[7]
        shown |= {"command": names[2], "environment": {names[0]: names[1]}, "version": names[0], "budget": names[2]}
    pages = [show(tmp_path, shown) for shown in (plain, hostile)]
    kinds = [[(tag, sorted(attributes)) for tag, attributes in page.elements if tag != "path"] for page in pages]
    outside = [[kind for kind in page if kind[0] not in {"g", "use", "text"}] for page in kinds]
    assert outside[0] == outside[1]
    assert all(name in pages[1].text for name in HOSTILE)
    links = [link["href"] for link in pages[1].all("a") if not link["href"].startswith("#")]
    assert len(links) == len(HOSTILE) + 6
    assert all(re.fullmatch(r"\./[^/:\\]+/report\.html", link) for link in links)


@pytest.mark.parametrize("found", [{"schema": 2}, {}, [], {"schema": "1"}])
def test_another_schema_is_refused(tmp_path, found):
    with pytest.raises(RecordError) as told:
        ExperimentResults.of(found, tmp_path / "experiments.json")
    assert told.value.path == tmp_path / "experiments.json"


@pytest.mark.parametrize(
    "damage",
    [
        lambda shown: shown.pop("rows"),
        lambda shown: shown.update(rows=[3]),
        lambda shown: shown.update(environment=[]),
        lambda shown: shown["rows"][0].pop("published"),
        lambda shown: shown["rows"][1]["measured"].pop("accuracy"),
        lambda shown: shown["rows"][1]["measured"]["accuracy"].update(value="high"),
        lambda shown: shown["rows"][1]["measured"].update(seconds=float("inf")),
        lambda shown: shown["rows"][1]["published"].update(dataset="another"),
        lambda shown: shown["rows"][1].update(verdict="perhaps"),
    ],
)
def test_damaged_content_is_refused(tmp_path, damage):
    shown = content()
    damage(shown)
    with pytest.raises(RecordError) as told:
        ExperimentResults.of(shown, tmp_path / "experiments.json")
    assert told.value.path == tmp_path / "experiments.json"


def test_the_same_content_gives_the_same_bytes(tmp_path):
    shown = content()
    before = copy.deepcopy(shown)
    assert show(tmp_path, shown).source == show(tmp_path, shown).source
    assert shown == before


@pytest.mark.parametrize("names_above", [False, True])
def test_grouped_bars_are_as_long_as_their_values(names_above):
    bar = figures.Bar
    groups = [("both", bar(4.0, "4"), bar(2.0, "2", 1.0, 3.0)), ("published", bar(1.0, "1"), None)]
    svg = figures.grouped_bars(groups, label="bars", width_px=330, names_above=names_above)
    paths = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="([^"]*)"', svg)
    lengths = [
        (max(xs) - min(xs), "filled" if "fill: var(--first)" in style else "hollow")
        for path, style in paths
        if "z" in path
        for xs in [[float(x) for x in re.findall(r"[ML] ([\d.]+)", path)]]
    ]
    unit = lengths[0][0] / 4
    assert lengths == [
        (pytest.approx(4 * unit), "hollow"),
        (pytest.approx(2 * unit, abs=1e-3), "filled"),
        (pytest.approx(unit, abs=1e-3), "hollow"),
    ]
    whiskers = [re.findall(r"[ML] ([\d.]+)", path) for path, style in paths if "stroke: var(--ink)" in style]
    assert len(whiskers) == 1 and float(whiskers[0][1]) - float(whiskers[0][0]) == pytest.approx(2 * unit, abs=1e-3)
    assert all(f">{name}</text>" in svg for name in ("both", "published", "4", "2", "1"))


@pytest.mark.parametrize(
    ("value", "low", "high", "says"),
    [
        (0.86, 0.852, 0.868, "reached"),
        (0.85, 0.842, 0.858, "reached, within the interval"),
        (0.84, 0.832, 0.852, "missed, within the interval"),
        (0.83, 0.822, 0.838, "missed"),
        (0.9, 0.5, 0.99, "reached, within the interval"),
    ],
)
def test_a_verdict_that_other_images_may_reverse_says_so(value, low, high, says):
    shown = next(row for row in content()["rows"] if row["name"] == "deep-cnn")
    shown["measured"]["accuracy"] |= {"value": value, "low": low, "high": high}
    shown["verdict"] = says.split(",")[0]
    row = ExperimentRow.model_validate(shown)
    assert (row.verdict_text, row.decided) == (says, "," not in says)
