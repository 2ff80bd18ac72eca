import ast
import errno
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest

import loupe
from loupe import errors
from loupe.cli.main import main
from loupe.errors import counted, enumerated, sentences

SOURCE = Path(loupe.__file__).parent


@pytest.mark.parametrize(
    ("count", "noun", "plural", "text"),
    [
        (0, "image", None, "0 images"),
        (1, "epoch", None, "1 epoch"),
        (2, "epoch", None, "2 epochs"),
        (1234, "image", None, "1,234 images"),
        (2, "class", None, "2 classes"),
        (2, "box", None, "2 boxes"),
        (2, "batch", None, "2 batches"),
        (1, "copy", "copies", "1 copy"),
        (2, "copy", "copies", "2 copies"),
    ],
)
def test_a_number_and_its_noun_agree(count, noun, plural, text):
    assert counted(count, noun, plural) == text


@pytest.mark.parametrize(
    ("items", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")],
)
def test_items_are_enumerated(items, text):
    assert enumerated(items) == text


def test_an_enumeration_says_how_many_are_left_out():
    assert enumerated(["a", "b", "c"], conjunction="or", most=3) == "a, b or c"
    assert enumerated(["a", "b", "c", "d"], most=2) == "a, b and 2 more"


def test_sentences_end_in_one_full_stop():
    assert sentences("the class a has none.", "", "Others have 3") == "the class a has none. Others have 3."


def noise(count=80):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8), np.uint8), np.arange(count) % 2


def train(data, **given):
    return lambda folder: loupe.train(data, output=folder, device="cpu", quiet=True, **given)


@pytest.mark.parametrize(
    ("call", "kind", "named"),
    [
        (train("no/such/folder"), loupe.DataError, "no/such/folder"),
        (train((noise()[0], [0, 1])), loupe.DataError, "80 images"),
        (train(noise(), recipe="resnet"), loupe.ConfigError, "resnet"),
        (train(noise(), settings=["stages.0.lrr=1"]), loupe.ConfigError, "lrr"),
        (lambda folder: loupe.train(noise(), device="tpu", output=folder), loupe.ConfigError, "tpu"),
        (train(noise(), name="a/b"), loupe.ConfigError, "a/b"),
        (lambda folder: loupe.resume("absent", output=folder), loupe.RunStateError, "absent"),
        (lambda folder: loupe.load(folder), loupe.RunStateError, "recipe.yaml"),
    ],
)
def test_the_class_of_an_error_says_what_has_to_be_put_right(call, kind, named, tmp_path):
    with pytest.raises(kind, match=named):
        call(tmp_path)


def test_every_class_is_a_loupe_error_and_can_be_imported_from_the_package():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 8
    for kind in kinds:
        assert issubclass(kind, errors.LoupeError)
        if kind is not errors.StoppedError:  # between the parts of a run alone
            assert getattr(loupe, kind.__name__) is kind
    assert issubclass(loupe.DamagedImages, loupe.DataError)
    assert {name for name in loupe.__all__ if getattr(loupe, name) is None} == set()


def test_an_image_error_names_the_image_also_after_a_process_has_sent_it():
    error = pickle.loads(pickle.dumps(loupe.ImageError("a/b.png", "cut off")))
    assert (type(error), error.path, error.reason) == (loupe.ImageError, "a/b.png", "cut off")
    assert isinstance(error, loupe.DataError)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_cannot_be_written_is_a_disk_error(number):
    error = errors.disk_error(OSError(number, "why", "/here"), "/elsewhere", "go on")
    assert type(error) is loupe.DiskError
    assert "/here" in str(error)
    assert errors.disk_error(OSError(errno.EIO, "why"), "/here", "go on") is None


@pytest.mark.parametrize("kind", [MemoryError, RuntimeError])
def test_memory_that_runs_out_is_an_error_of_its_own(kind):
    with pytest.raises(loupe.NotEnoughMemoryError, match="--batch-size 2"), errors.memory_remedy("--batch-size 2"):
        raise kind("CUDA out of memory")


def test_the_base_class_stands_only_for_a_missing_package_or_an_error_that_cannot_be_sent():
    bare = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "LoupeError"
    ]
    sent = ["cluster/worker.py", "ranks.py"]
    assert sorted(bare) == sorted(
        ["explain/cam.py", "labels/confident.py", "serve/evidence.py", "tuning/study.py", *sent]
    )


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (errors.InterruptedRunError("stopped and saved."), 130, "stopped and saved.\n"),
        (errors.InterruptedRunError("stopped and saved.", signal.SIGTERM), 143, "stopped and saved.\n"),
        (errors.ConfigError("unknown \x1b[2J"), 1, "error: unknown \\x1b[2J\n"),
    ],
)
def test_the_command_line_shows_an_error_by_its_class(monkeypatch, capsys, error, code, shown):
    def fail(**_):
        raise error

    monkeypatch.setattr("loupe.cli.main.app", fail)
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code, capsys.readouterr().err) == (code, shown)
