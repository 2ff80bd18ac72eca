"""What a run was made of: hashes that follow content and labels, and nothing else."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from loupe import provenance
from loupe.config.network import BackboneSpec
from loupe.data.splits import split_file
from loupe.data.splits.split import Split
from loupe.data.table import ImageTable, make_rows
from loupe.errors import DataError
from loupe.models.timm import weights
from loupe.provenance import Hashes, RunEnvironment, environment, environment_file
from loupe.rundir import RunDirectory

CONTENT = ("aa", "bb", "cc", "dd")


def table(labels, paths="wxyz", classes=("cat", "dog")) -> ImageTable:
    rows = make_rows(n=4, data=[b"x"] * 4, path=list(paths), label=labels)
    return ImageTable(rows, classes, "pets")


def parts(train, val, test) -> Split:
    return Split(*(np.array(rows, np.int64) for rows in (train, val, test)))


def test_the_hashes_are_those_of_sorted_lines():
    made = provenance.hashes(table([0, 1, 1, None]), CONTENT, parts([0], [1], [2]))
    assert made.data == sha256(b"aa cat\nbb dog\ncc dog\n").hexdigest()
    assert made.split == sha256(b"aa train\nbb val\ncc test\n").hexdigest()
    assert made.weights is None


def test_order_names_and_the_numbers_of_classes_do_not_matter():
    first = provenance.hashes(table([0, 1, 1, None]), CONTENT, parts([0], [1], [2]))
    turned = table([None, 0, 0, 1], paths="abcd", classes=("dog", "cat"))
    assert provenance.hashes(turned, CONTENT[::-1], parts([3], [2], [1])) == first


@pytest.mark.parametrize(
    ("labels", "content", "split", "changed"),
    [
        ([0, 1, 0, None], CONTENT, ([0], [1], [2]), {"data"}),
        ([0, 1, 1, None], ("aa", "bb", "ce", "dd"), ([0], [1], [2]), {"data", "split"}),
        ([0, 1, 1, None], CONTENT, ([0], [2], [1]), {"split"}),
        ([0, 1, 1, None], ("aa", "bb", "cc", "de"), ([0], [1], [2]), set()),  # in no split, and not labelled
    ],
)
def test_labels_contents_and_parts_matter(labels, content, split, changed):
    first = provenance.hashes(table([0, 1, 1, None]), CONTENT, parts([0], [1], [2]))
    other = provenance.hashes(table(labels), content, parts(*split))
    one, two = first.to_json(), other.to_json()
    assert {key for key in one if one[key] != two[key]} == changed


def test_a_run_is_made_of_its_images_without_the_damaged_ones(tmp_path):
    run, whole = RunDirectory(tmp_path), table([0, 1, 1, None])
    split, rows = parts([0], [1], []), [0, 1, 3]
    left, content = whole.select(rows), [CONTENT[row] for row in rows]  # the third one is damaged
    RunEnvironment(hashes=provenance.hashes(left, content, split)).write(environment_file(run))
    split_file.write(run.file("split.csv"), left, content, split)
    for damaged, images, given, same in (
        (1, whole, CONTENT, True),
        (0, left, content, True),
        (1, left, content, False),  # it is gone, or can be read now
        (0, whole, CONTENT, False),  # it was added
        (1, table([1, 1, 1, None]), CONTENT, False),
        (1, whole, ("aa", "b!", "cc", "dd"), False),
    ):
        assert provenance.made_of(run, images, given, damaged) == same
    RunEnvironment().write(environment_file(run))
    assert provenance.made_of(run, table([1, 1, 1, 1]), CONTENT, 0), "an older run, which does not say"


def test_a_command_is_recorded_without_the_credentials_of_addresses(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/bin/loupe", "train", "http://user:PW@host/p.tar?sig=X", "--name", "a"])
    recorded = environment("cpu", None, 1).command
    assert recorded == ("loupe", "train", "http://host/p.tar?sig=…", "--name", "a")


@pytest.mark.parametrize(
    ("recorded", "lacks"),
    [
        ({}, False),
        ({"data": "pets"}, False),
        ({"data": "https://host/p.tar"}, False),
        ({"data": "https://host/p.tar", "credentials": True}, True),
        ({"data": "https://host/p.tar?sig=…"}, True),  # of a run before it was recorded
    ],
)
def test_an_address_that_was_given_with_credentials_is_asked_for_again(tmp_path, recorded, lacks):
    found = RunEnvironment(**recorded)
    assert found.lacks_credentials == lacks
    assert found.data_word == ("DATA" if lacks or not recorded else recorded["data"])
    if lacks:
        with pytest.raises(DataError, match=r"https://host/p\.tar"):
            provenance.check_credentials(found, RunDirectory(tmp_path), "Give it.")
    else:
        provenance.check_credentials(found, RunDirectory(tmp_path), "Give it.")


def test_the_sources_are_hashed_by_name_and_content(tmp_path):
    def sources(**files: bytes) -> str:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        for name, text in files.items():
            path = folder / f"{name.replace('_', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
        (folder / "note.txt").write_text(folder.name)
        return provenance.of_sources(folder)

    first = sources(a=b"x = 1\n", b_c=b"")
    assert sources(b_c=b"", a=b"x = 1\r\n") == first
    others = {sources(a=b"x = 2\n", b_c=b""), sources(a=b"x = 1\n", b_d=b""), sources(a=b"", b_c=b"x = 1\n")}
    assert len({first, *others}) == 4
    assert provenance.of_sources(provenance.SOURCES) == provenance.of_sources(Path(provenance.__file__).parent)


def test_pretrained_weights_are_hashed_by_the_bytes_of_their_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    spec = BackboneSpec(backbone="resnet18", weights=str(tmp_path / "model.safetensors"))

    def made(network: BackboneSpec) -> Hashes:
        images = table([0, 1, 1, None])
        return provenance.hashes(
            images, CONTENT, parts([0], [1], [2]), [path] if (path := weights.weights_file(network)) else []
        )

    for network in (spec, spec.model_copy(update={"weights": f"local-dir:{tmp_path}"})):
        assert made(network).weights == sha256(b"weights").hexdigest()
    assert made(spec.model_copy(update={"weights": "none"})).weights is None


def test_the_file_of_a_hub_is_the_one_that_timm_takes(tmp_path, monkeypatch):
    """A cache of the hub as huggingface_hub keeps it, with one or both of the files that timm knows."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def cached(repository: str, revision: str, name: str) -> Path:
        folder = tmp_path / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / revision).write_text("c" * 40)
        path = folder / "snapshots" / ("c" * 40) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        return path

    spec = BackboneSpec(backbone="resnet18.a1_in1k", weights="timm")
    assert weights.weights_file(spec) is None
    old = cached("timm/resnet18.a1_in1k", "main", "pytorch_model.bin")
    assert weights.weights_file(spec) == old
    assert weights.weights_file(spec) == old
    safe = cached("timm/resnet18.a1_in1k", "main", "model.safetensors")
    assert weights.weights_file(spec) == safe
    other = spec.model_copy(update={"weights": "hf-hub:me/old@v2"})
    assert weights.weights_file(other) is None
    assert cached("me/old", "v2", "pytorch_model.bin") == weights.weights_file(other)
    assert weights.weights_file(BackboneSpec(backbone="mobilenetv1_075", weights="timm")) is None


@pytest.mark.parametrize(
    ("program", "typed"), [("/a/bin/loupe", ["loupe"]), ("/a/loupe/__main__.py", ["python", "-m", "loupe"])]
)
def test_the_recorded_command_can_be_typed(monkeypatch, program, typed):
    monkeypatch.setattr("sys.argv", [program, "train", "digits"])
    assert environment("cpu", None, 1).command == (*typed, "train", "digits")
