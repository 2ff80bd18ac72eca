"""`loupe evaluate` and `loupe predict` in several processes: the figures and files of one process."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest

import loupe
from builders import save_photos, without_slow_parts

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="signals and loopback of POSIX")]

DAMAGED = ("1.jpg", "250.jpg", "99.jpg")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 42 photographs, of which some are for validation and for testing, that predicts in OpenVINO."""
    with pytest.MonkeyPatch.context() as patch:
        without_slow_parts(patch)
        patch.delitem(sys.modules, "openvino")
        photos = save_photos(tmp_path_factory.mktemp("photos"), ("cat", "dog"), each=21)
        settings = {"split.validation": 0.2, "split.test": 0.3, "input.size_px": 32, "input.load_px": 36}
        output = tmp_path_factory.mktemp("runs")
        return loupe.train(
            photos,
            recipe="small-images",
            epochs=1,
            settings=settings,
            output=output,
            open_test=False,
            device="cpu",
            quiet=True,
        )


def command(*words, folder=None):
    """Exit code, standard output and standard error of a command, with one thread for each process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "loupe", *map(str, words)],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_evaluate_has_the_figures_of_one_process_and_one_look(run):
    looks = run.path.parent / "test_looks.jsonl"
    figures = []
    for processes in (1, 2):
        code, out, err = command("evaluate", run.path, "--split", "test", "--json", "--processes", processes)
        assert code == 0, err
        figures.append(json.loads(out))
        assert len(looks.read_text(encoding="utf-8").splitlines()) == processes
    assert [one.pop("test_looks") for one in figures] == [1, 2]
    assert figures[0]["images"] > 0
    assert figures[0] == figures[1]


def test_predict_writes_the_bytes_of_one_process(run, real_data, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(real_data / "cats_vs_dogs_unlabeled", photos)
    number = len([*photos.iterdir()])
    for name in DAMAGED:
        (photos / name).write_bytes((photos / name).read_bytes()[:300])
    for processes in (1, 3):
        given = ("--top", 2, "--processes", processes, "--to", f"{processes}.csv")
        code, out, err = command("predict", run.path, photos, "--skip-damaged", *given, folder=tmp_path)
        assert code == 0, err
        assert out.count("3.csv") == processes // 3
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "3.csv").read_bytes()
    with (tmp_path / "3.csv").open(encoding="utf-8", newline="") as file:
        rows = [row["path"] for row in csv.DictReader(file)]
    assert len(rows) == len(set(rows)) == number - len(DAMAGED)

    code, out, err = command("predict", run.path, photos, "--processes", 2, "--to", "none.csv", folder=tmp_path)
    assert (code, out) == (1, "")
    assert err.count("error:") == 1
    for name in DAMAGED:
        assert err.count(f"{name}:") == 1
    assert not (tmp_path / "none.csv").exists()
