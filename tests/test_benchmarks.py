"""Every benchmark runs at a toy size, on images and weights made here, so that none rots unnoticed.

Their figures mean nothing at this size: what is tested is that each runs to its end and reports what it measured.
"""

import csv
import importlib.util
import io
import json
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

import loupe
import web_pages
from loupe.export import web_gate
from loupe.models.timm.networks import create_network
from loupe.offline import VARIABLES
from simulated_gpu import simulated_gpu

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# Imported by the others, run by nobody.
SERVING = {"load", "servers", "serving_bench", "serving_loads", "peers/exported_onnx"}
SHARED = SERVING | {
    "best_in_time_page",
    "gpu_jobs",
    "gpu_plain",
    "growth_steps",
    "setting",
    "simulated",
    "subsets",
    "peers/measure",
}
SCRIPTS = sorted(
    name
    for path in BENCHMARKS.rglob("*.py")
    if (name := path.relative_to(BENCHMARKS).with_suffix("").as_posix()) not in SHARED
)
OTHER_ENVIRONMENTS = {
    "peers/keras_deep_cnn": "keras",
    "peers/keras_transfer": "keras",
    "peers/fastai_transfer": "fastai",
    "peers/litserve_server": "litserve",
    "peers/bentoml_server": "bentoml",
}
WEIGHTS = "tf_efficientnet_lite0.in1k.safetensors"
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SMALL, PHOTOGRAPH = (32, 32), (48, 40)


def encoded(random: np.random.Generator, label: int, size: tuple[int, int], kind: str) -> bytes:
    """A noisy picture whose brightness tells its class."""
    buffer = io.BytesIO()
    pixels = random.integers(20 * label, 20 * label + 60, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_cifar(folder: Path, random: np.random.Generator, **each: int) -> Path:
    """Parquet files as those of CIFAR-10, with so many images of each class in each split."""
    folder.mkdir()
    features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": NAMES}}
    for split, images in each.items():
        labels = np.arange(10 * images) % 10
        rows = [{"bytes": encoded(random, label, SMALL, "PNG"), "path": None} for label in labels]
        table = pa.table({"img": rows, "label": labels})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> Path:
    """The folder of data as the benchmarks expect it, with a few images and random weights."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    write_cifar(folder / "cifar10", random, train=10, test=2)
    for split, each in (("train", 12), ("val", 6), ("test", 6)):
        for label, name in ((1, "cat"), (8, "dog")):
            place = folder / "cats_vs_dogs" / split / name
            place.mkdir(parents=True)
            for number in range(each):
                (place / f"{number}.jpg").write_bytes(encoded(random, label, PHOTOGRAPH, "JPEG"))
    torch.manual_seed(0)
    networks = {
        "tf_efficientnet_lite0.in1k": timm.create_model("tf_efficientnet_lite0"),
        "mobilenetv1_075.keras_in1k": create_network("mobilenetv1_075"),
    }
    (folder / "weights").mkdir()
    for name, network in networks.items():
        safetensors.torch.save_file(network.state_dict(), folder / "weights" / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    return loupe.train("digits", epochs=1, precision="fp32", output=output, name="toy", device="cpu", quiet=True).path


@pytest.fixture(scope="session")
def toy_pixels(tmp_path_factory) -> Path:
    """What the peers of train_throughput read."""
    path = tmp_path_factory.mktemp("pixels") / "pixels.npz"
    x = np.random.default_rng(0).integers(0, 256, (512, 32, 32, 3), dtype=np.uint8)
    np.savez(path, x=x, y=np.arange(512) % 10)
    return path


@pytest.fixture
def started(monkeypatch):
    """Runs the `main` of a benchmark with arguments, in this process."""

    def start(name: str, *arguments: object) -> None:
        if (package := OTHER_ENVIRONMENTS.get(name)) and not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed: it has an environment of its own")
        path = BENCHMARKS / f"{name}.py"
        for folder in (BENCHMARKS, BENCHMARKS / "peers"):
            monkeypatch.syspath_prepend(folder)
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        module_name = f"benchmark_{path.stem}"
        spec = importlib.util.spec_from_file_location(module_name, path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, module_name, module)  # dataclasses look themselves up there
        spec.loader.exec_module(module)
        module.main()

    return start


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_can_be_imported_and_says_how_it_is_run(name, started, capsys):
    with pytest.raises(SystemExit) as end:
        started(name, "--help")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


def last_row(text: str) -> dict:
    return json.loads(text.strip().splitlines()[-1])


def test_augmentation(started, capsys):
    started("augmentation", "--side", 8, "--batch", 4, "--rounds", 1, "--threads", 1)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) >= 7 and all(float(row.split()[-1].replace(",", "")) > 0 for row in rows)


def test_cache_checksums(started, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started("cache_checksums", "--images", 70, "--side", 8, "--repeats", 1)
    assert "warm: " in capsys.readouterr().out


@pytest.mark.slow
def test_remote(started, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    started("remote", "--shards", 3, "--megabytes", 0.05, "--latency-ms", 1, "--repeats", 1, "--json", "remote.json")
    found = json.loads(Path("remote.json").read_text(encoding="utf-8"))
    assert found["decoded"]["remote"] > 0 and len(found["read"]["ratios"]) == 1


@pytest.mark.slow
def test_busy(started, capsys):
    asked = ["--works", "head", "--policies", "loupe", "GOMP_SPINCOUNT=7", "--threads", 1]
    started("busy", *asked, "--rounds", 1, "--seconds", 0.01, "--tries", 1)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| head")]
    assert [row[1] for row in rows] == ["loupe", "GOMP_SPINCOUNT=7"]
    assert all(float(row[-1].rstrip(" |")) > 0 for row in rows)


def test_training_step(started, capsys):
    started("training_step", "--recipes", "digits", "--precisions", "fp32", "--threads", 1, "--steps", 1)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    microseconds = {row[0]: float(row[1].replace(",", "")) for row in rows[1:]}
    assert {"convolutions and dense layers", "augmentation", "normalisation", "dropout"} <= microseconds.keys()
    assert microseconds["convolutions and dense layers"] > 0


@pytest.mark.parametrize("work", ["training-bf16", pytest.param("frozen", marks=pytest.mark.slow), "augmentation"])
def test_the_works_of_busy(started, monkeypatch, capsys, work):
    monkeypatch.setattr(sys, "stdin", io.StringIO("0.01\n"))
    started("peers/busy_work", work, "--threads", 1)
    assert last_row(capsys.readouterr().out)["images_per_second"] > 0


@pytest.mark.slow
def test_class_names(started, capsys):
    started("class_names", "--rows", 40, "--classes", 40, "--kinds", "csv")
    assert "csv, 40 rows, 40 classes: " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("script", ["peers/loupe_deep_cnn", "peers/torch_deep_cnn", "peers/keras_deep_cnn"])
def test_peers_train_the_same_network(started, toy_pixels, capsys, script):
    precision = [] if "keras" in script else ["--precision=fp32"]
    started(script, toy_pixels, "--warmup", 1, "--steps", 2, "--threads", 1, *precision)
    outcome = last_row(capsys.readouterr().out)
    assert outcome["parameters"] == 309_290
    assert 0 < outcome["median_step"] <= outcome["best_step"]


@pytest.mark.slow
def test_confidence(started, toy_run, capsys):
    started("confidence", toy_run, "--draws", 2)
    assert capsys.readouterr().out.count("| toy |") > 4


def test_coverage(started, tmp_path):
    started("coverage", "--simulations", 4, "--section", "power", "--output", tmp_path / "statistics.md")
    assert "coverage.py --section power --simulations 4" in (tmp_path / "statistics.md").read_text()


def test_explanations(started, toy_run, capsys):
    started("explanations", toy_run, "--images", 6)
    said = capsys.readouterr().out
    assert "toy: 6 images" in said and "hires-cam minus grad-cam: " in said


@pytest.mark.slow
def test_web_page(started, toy_run, toy_data, tmp_path, capsys):
    pytest.importorskip("playwright")
    if not web_gate.has_browser():
        pytest.skip("no chromium on the PATH")
    page = web_pages.page(tmp_path, NAMES)
    started("web_page", page, toy_data / "cats_vs_dogs" / "val", "--run", toy_run, "--images", 2, "--rounds", 1)
    rows = dict(line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[4:])
    assert rows["refused"] == "0" and rows["pixel values"] == f"{2 * 48 * 40 * 3:,}"
    assert float(rows["one of 12 megapixels, s"]) > 0


@pytest.mark.slow
def test_pages(started, tmp_path, capsys):
    pytest.importorskip("playwright")
    if not shutil.which("chromium"):
        pytest.skip("there is no chromium")
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><title>Toy</title><p>Toy</p>")
    started("pages", page, "--rounds", 1)
    assert f"| {page} |" in capsys.readouterr().out


@pytest.mark.slow
def test_attention_pooling(started, toy_data, tmp_path):
    less = ["--penalties", 1000, 300, "--epochs", 2, "--rates", 1e-3]
    started("attention_pooling", toy_data, "--work", tmp_path, *less)
    found = json.loads((tmp_path / "attention_pooling.json").read_text())
    assert set(found) == {"average", "attention", "validation losses", "gain"}


@pytest.mark.slow
def test_cifar_ablation(started, toy_data, tmp_path):
    started("cifar_ablation", toy_data, "--work", tmp_path, "--models", "mobilenetv1_075", "--sizes", 32)
    rows = json.loads((tmp_path / "cifar_ablation.json").read_text())
    assert len(rows) == 4 and all(0 <= row["test"]["value"] <= 1 for row in rows)


@pytest.mark.slow
def test_shard_order(started, toy_data, tmp_path):
    given = ("--images", 40, "--test-images", 10, "--shards", 4, "--windows", 1, "--seeds", 0, "--epochs", 1)
    started("shard_order", toy_data, "--work", tmp_path, *given)
    rows = json.loads((tmp_path / "shard_order.json").read_text())
    assert [(row["order"], row["window"]) for row in rows] == [("shuffled", 1), ("sorted", 1), ("shuffled", 4)]
    assert all(0 <= value <= 1 for row in rows for value in row["accuracies"])


@pytest.mark.slow
def test_engines(started, toy_data, capsys):
    started("engines", toy_data, "--images", 8, "--rounds", 1)
    assert "| PyTorch fp32 | " in capsys.readouterr().out


@pytest.mark.slow
def test_features(started, toy_data, tmp_path):
    started("features", toy_data, "--precisions", "fp32", "--rounds", 1, "--write", tmp_path)
    assert json.loads((tmp_path / "features.json").read_text())["ratio_to"].keys() == {"plain fp32"}


def test_gpu_check_without_a_gpu(started, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        started("gpu_check")
    assert end.value.code == 3 and "CUDA" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_gpu_check(started, tmp_path, device):
    with simulated_gpu() if device == "cuda" else nullcontext():
        started("gpu_check", "--device", device, "--toy", "--write", tmp_path)
    result = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [row["job"] for row in result["rows"]] == ["deep-cnn", "fast", "features", "last-block", "finetune"]
    assert all(row["Loupe"] > 0 and row["PyTorch"] > 0 for row in result["rows"])
    assert result["gpu"] == ("simulated GPU" if device == "cuda" else None)
    assert torch.cuda.is_available() or result["tests"].keys() == {"skipped"}


def test_growth_of_tables(started, tmp_path, capsys):
    started("growth", "--tables", 500, "--work", tmp_path)
    assert capsys.readouterr().out.count(" s |") == 5 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_growth(started, tmp_path):
    options = ["--rounds", 1, "--work", tmp_path, "--write", tmp_path]
    started("growth", "--sizes", "100,200", "--forms", "files", *options)
    by_size = json.loads((tmp_path / "growth.json").read_text())["steps"]["files"]
    assert by_size.keys() == {"100", "200"}
    for size, steps in by_size.items():
        named = {step["name"]: step for step in steps}
        assert len(named) == len(steps) == 15 and named["listing"]["images"] == int(size)
        assert named["epoch"]["images"] + named["report"]["images"] == int(size)
        assert all(step["seconds"] > 0 for step in steps)
    assert len((tmp_path / "growth.md").read_text().splitlines()) > 20 and not list(tmp_path.glob("**/*.png"))


@pytest.mark.slow
def test_scale_and_scaling(started, toy_run, toy_data, tmp_path, capsys):
    measured, simulated = tmp_path / "scale.json", tmp_path / "scaling.json"
    small = [
        "--processes",
        2,
        "--ranks",
        2,
        3,
        "--rounds",
        1,
        "--each",
        10,
        "--repeats",
        2,
        "--listed",
        20_000,
        "--json",
        measured,
    ]
    options = ["--recipe", "digits-plain", "--epochs", 1, "--precision", "fp32"]
    photos = toy_data / "cats_vs_dogs" / "val"
    started("scale", toy_data / "cifar10", toy_run, photos, *small, "--json", measured, "--options", *options)
    found = json.loads(measured.read_text())
    assert [row["ranks"] for row in found["exchanges"]] == [2, 3]
    assert all(row["seconds"] > 0 for row in found["medians"].values())
    assert "training, 2 processes" in found["medians"]
    started("scaling", "--measured", measured, "--gpus", 1, 8, 512, "--json", simulated)
    for row in json.loads(simulated.read_text())["256 images a GPU"]:
        assert 0 < row["efficiency"] <= 1.001 and sum(row["shares"].values()) == pytest.approx(1)


@pytest.mark.slow
def test_kept_epoch(started, toy_data, tmp_path):
    small = ["--sets", "digits", "--variants", "one-cycle, 3 epochs", "--seeds", 1, "--images", 40]
    started("kept_epoch", toy_data, "--work", tmp_path, "--write", tmp_path, *small)
    rows = list(csv.DictReader((tmp_path / "kept_epoch.csv").read_text().splitlines()))
    assert [row["val"] for row in rows] == ["5", "20", "60"]
    assert all(float(row["last epoch"]) == 3 and 0 <= float(row["best accuracy accuracy"]) <= 1 for row in rows)


@pytest.mark.slow
def test_mirrored(started, toy_data, tmp_path):
    small = ["--sets", "digits", "--seeds", 0, "--images", 40, "--epochs", 1]
    started("mirrored", toy_data, "--work", tmp_path, "--write", tmp_path, *small)
    [row] = csv.DictReader((tmp_path / "mirrored.csv").read_text().splitlines())
    assert row["says"] == "left out" and float(row["high"]) < -0.3
    assert "| digits |" in (tmp_path / "mirrored.md").read_text()


@pytest.mark.slow
def test_folds(started, toy_data, tmp_path, capsys):
    small = ["--sets", "cats and dogs", "--seeds", 1, "--images", 18]
    started("folds", toy_data, "--work", tmp_path, "--write", tmp_path, *small)
    [row] = csv.DictReader((tmp_path / "folds.csv").read_text().splitlines())
    assert [row[f"{name} images"] for name in ("validation", "folds", "test", "refit folds")] == ["2", "18", "24", "18"]
    assert capsys.readouterr().out.count("| cats and dogs |") == 2


def test_exchanges_of_one_rank(started, capsys):
    started("peers/rank_exchanges", "--repeats", 2, "--floats", 10)
    found = last_row(capsys.readouterr().out)
    assert found["ranks"] == 1 and found["tensor_bytes"] == 40 and found["tensor_seconds"] >= 0


def test_a_simulated_cluster_agrees_with_arithmetic(started, capsys, tmp_path):
    measured = {"exchange_base_seconds": 0.0, "exchange_each_seconds": 0.0, "cores": 2, "decoded_per_second": 400}
    measured |= {"predicted_per_second": 100, "listed_per_second": 10_000}
    (tmp_path / "scale.json").write_text(json.dumps({"for_simulation": measured}))
    started("scaling", "--measured", tmp_path / "scale.json", "--gpus", 1, "--machines", 1, 64)
    found = json.loads(capsys.readouterr().out)
    [alone] = found["batch of 1,024"]
    steps = 90 * -(-1_281_167 // 1_024)
    assert alone["hours"] == pytest.approx((steps * 1_024 / 3_660 + 90 * 50_000 / 3 / 3_660) / 3600, rel=0.01)
    one, many = found["CPU, a file for each image"]
    assert one["narrowest"] == "latency of requests" and one["images_per_second"] == 16 / 0.1
    in_shards, _ = found["CPU, shards of 100 MB"]
    assert in_shards["narrowest"] == "network of the model"
    assert in_shards["hours"] == pytest.approx(1e9 / (100 / 2 * 16) / 3600, rel=0.01)
    assert many["narrowest"] == "requests of the store"  # 64 machines ask 10,240 times a second
    assert many["images_per_second"] == 5_500 and many["listing_hours"] == pytest.approx(1e9 / 10_000 / 3600)


@pytest.mark.slow
def test_heads(started, toy_data, capsys):
    started("heads", toy_data, "--images", 5, "--held-out", 30, "--rounds", 1)
    assert capsys.readouterr().out.count("50 images") == 3


@pytest.mark.slow
def test_grid_search(started, toy_data, capsys):
    started("grid_search", toy_data, "--jobs", 1, "--rounds", 1)
    found = json.loads(capsys.readouterr().out)
    assert len(found["accuracy"]) == 10 and found["search_medians"]["1"] > 0


@pytest.mark.slow
def test_label_errors(started, toy_data, tmp_path):
    pytest.importorskip("cleanlab")
    started("label_errors", toy_data, "--work", tmp_path, "--sets", "photographs", "--rates", 0.2, "--seeds", 1)
    [row] = json.loads((tmp_path / "photographs.json").read_text())
    assert row["wrong"] > 0


@pytest.mark.slow
def test_train_throughput(started, tmp_path):
    data = write_cifar(tmp_path / "cifar10", np.random.default_rng(0), train=60, test=1)
    arguments = ["--modes", "plain", "--rounds", 1, "--steps", 2, "--warmup", 1, "--threads", 1, "--write", tmp_path]
    started("train_throughput", data, *arguments)
    result = json.loads((tmp_path / "train_throughput.json").read_text())
    assert all(row["images_per_second"] > 0 for row in result["plain"].values())
    assert set(result["plain"]) == {"Loupe", "PyTorch bf16", "PyTorch fp32"}


@pytest.mark.slow
def test_a_peer_of_the_fast_recipe(started, tmp_path, capsys):
    random = np.random.default_rng(0)
    pixels = {f"x_{name}": random.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8) for name in ("train", "test")}
    np.savez(tmp_path / "pixels.npz", **pixels, **{f"y_{name}": np.arange(24) % 3 for name in ("train", "test")})
    options = ["--epochs", 2, "--batch", 8, "--precision", "fp32", "--threads", 1]
    started("peers/torch_fast_cnn", tmp_path / "pixels.npz", *options)
    row = last_row(capsys.readouterr().out)
    assert all(0 <= row[key] <= 1 for key in ("accuracy", "accuracy_tta")) and 0 < row["train_seconds"] < row["seconds"]


@pytest.mark.slow
def test_fast_recipe(started, toy_data, tmp_path):
    small = ["--set", "stages.0.epochs=1", "--set", "precision=fp32", "--peer-epochs", 1, "--peer-batch", 50]
    options = ["--work", tmp_path / "work", "--threads", 1, "--write", tmp_path]
    started("fast_recipe", toy_data / "cifar10", *options, *small)
    found = json.loads((tmp_path / "fast_recipe.json").read_text())["summary"]
    assert found.keys() == {"PyTorch", "fast"} and found["PyTorch"]["ratio"] == 1
    assert found["fast"]["flip"] >= 0 and found["fast"]["seconds"] > found["fast"]["train_seconds"] > 0
    assert f"| fast | {100 * found['fast']['accuracy']:.2f} | " in (tmp_path / "fast_recipe.md").read_text()


@pytest.mark.slow
def test_transfer(started, toy_data, tmp_path):
    job = "features-augment"  # the peers' last-block is in test_transfer_peers
    chosen = ["--jobs", job, "--only", "loupe", "timm-fp32"]
    started("transfer", toy_data, "--small", "--rounds", 1, "--epochs", 1, *chosen, "--threads", 1, "--write", tmp_path)
    found = json.loads((tmp_path / "transfer_speed.json").read_text())["jobs"][job]["contenders"]
    assert set(found) == {"loupe", "timm-fp32"} and all(row["seconds"] > 0 for row in found.values())


@pytest.mark.slow
def test_transfer_accuracy(started, toy_data, tmp_path):
    started("transfer_accuracy", toy_data, "seeds", "--work", tmp_path, "--seeds", 1)
    rows = json.loads((tmp_path / "seeds.json").read_text())
    assert [row["seed"] for row in rows] == [0, 0, "all"]
    assert rows[-1]["against_features"].keys() == {"value", "low", "high"}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_timm_features(started, toy_data, capsys, precision):
    options = ["--weights", toy_data / "weights" / WEIGHTS, "--precision", precision, "--workers", 0]
    started("peers/timm_features", toy_data / "cats_vs_dogs", *options)
    assert set(last_row(capsys.readouterr().out)) == {"seconds", "val", "test"}


@pytest.mark.slow
@pytest.mark.parametrize("script", ["timm", "fastai", "keras"])
def test_transfer_peers(started, toy_data, capsys, script):
    weights = (
        [] if script == "keras" else ["--weights", toy_data / "weights" / "tf_efficientnet_lite0.in1k.safetensors"]
    )
    options = ["--job", "last-block", "--epochs", 1, "--threads", 1, *weights]
    started(f"peers/{script}_transfer", toy_data / "cats_vs_dogs", *options, *(["--workers", 0] * (script == "timm")))
    assert last_row(capsys.readouterr().out)["train_seconds"] > 0


@pytest.mark.slow
def test_timm_finetune(started, toy_data, tmp_path):
    weights = ["--weights", toy_data / "weights" / WEIGHTS, "--network", "tf_efficientnet_lite0"]
    place = ["--work", tmp_path, "--workers", 0]
    started("peers/timm_finetune", toy_data / "cats_vs_dogs", *weights, *place, "--seconds", 1)  # at least one step
    started("peers/timm_finetune", toy_data / "cats_vs_dogs", *weights, *place, "--predict")
    rows = (tmp_path / "predictions.csv").read_text().splitlines()
    assert rows[0] == "path,predicted" and len(rows) == 13
    assert {row.split(",")[1] for row in rows[1:]} <= {"cat", "dog"}


def test_autogluon_multimodal(started, toy_data, tmp_path):
    pytest.importorskip("autogluon.multimodal", reason="it has an environment of its own")
    weights = ["--weights", toy_data / "weights" / WEIGHTS, "--network", "tf_efficientnet_lite0"]
    started("peers/autogluon_multimodal", toy_data / "cats_vs_dogs", *weights, "--work", tmp_path, "--seconds", 60)
    started("peers/autogluon_multimodal", toy_data / "cats_vs_dogs", *weights, "--work", tmp_path, "--predict")
    assert (tmp_path / "predictions.csv").read_text().startswith("path,predicted")


@pytest.mark.slow
def test_best_in_time(started, toy_data, tmp_path, capsys):
    contest = ["--sets", "digits", "--contenders", "loupe", "features", "timm", "--most-images", 150]
    options = ["--minutes", 0.4, "--seeds", 0, "--backbone", "tf_efficientnet_lite0", "--write", tmp_path / "results"]
    started("best_in_time", toy_data, "--work", tmp_path / "work", *contest, *options)
    found = last_row(capsys.readouterr().out)
    failures = [cell["failure"] for cell in found["cells"] if cell["failure"]]
    assert len(found["cells"]) == 3 and all("a limit of" in failure for failure in failures), "on a crowded machine"
    assert {cell["images"] for cell in found["cells"]} == {360}
    assert {row["other"] for row in found["differences"]} == {"features", "timm"}
    assert "| digits | 0.4 min | Loupe, --time-limit |" in (tmp_path / "results" / "best_in_time.md").read_text()
    assert (tmp_path / "results" / "best_in_time.png").is_file()


def test_every_benchmark_has_a_test_of_its_own():
    source = Path(__file__).read_text(encoding="utf-8")
    tested = {name for name in SCRIPTS if f'"{name}"' in source.split("def last_row", 1)[1]}
    by_name = {"peers/timm_transfer", "peers/fastai_transfer", "peers/keras_transfer"}
    assert tested | by_name | {"peers/litserve_server", "peers/bentoml_server"} == set(SCRIPTS)


def test_bulk(started, toy_run, toy_data, capsys):
    photos = toy_data / "cats_vs_dogs" / "test" / "cat"
    started("bulk", toy_run, photos, "--rounds", "1", "--device", "cpu")
    found = last_row(capsys.readouterr().out)
    assert found["images"] == 6 and found["bulk / bound"] == found["bulk"] / min(found["decoding"], found["engine"])


@pytest.mark.slow
def test_the_memory_of_bulk(started, toy_run, toy_data, capsys):
    photos = toy_data / "cats_vs_dogs" / "test" / "cat"
    started("bulk", toy_run, photos, "--memory", "3", "9", "--device", "cpu")
    assert last_row(capsys.readouterr().out)["MiB with 9 images"] > 0
    started("bulk", toy_run, photos, "--listing", "200")
    assert last_row(capsys.readouterr().out)["MiB with 200 rows"] > 0


@pytest.mark.slow
def test_prediction_is_measured_beside_decoding_and_the_network(started, toy_run, toy_data, capsys):
    before = ("--before", BENCHMARKS.parent / "src", toy_run)
    started("prediction", toy_run, toy_data / "cats_vs_dogs" / "test" / "cat", "--rounds", "1", *before)
    found = last_row(capsys.readouterr().out)
    kinds = {"decoding", "network", *(f"{what}, {when}" for what in ("one", "many") for when in ("before", "after"))}
    assert set(found["seconds"]) == kinds and all(value > 0 for value in found["seconds"].values())
    commands = kinds - {"decoding", "network"}
    assert set(found["megabytes"]) == commands and all(value > 50 for value in found["megabytes"].values())
    pytest.importorskip("openvino")
    networks = ("--networks", "digits-cnn", "test_resnet", "--images", 4, "--rounds", 1)
    started("prediction", toy_run, toy_data / "cats_vs_dogs", *networks)
    assert [row.split()[1] for row in capsys.readouterr().out.splitlines()[2:]] == ["digits-cnn", "test_resnet"]


@pytest.mark.slow
def test_export(started, toy_run, tmp_path, capsys):
    for package in ("onnxruntime", "onnxscript", "openvino"):
        pytest.importorskip(package)
    started(
        "export",
        toy_run,
        "--rounds",
        1,
        "--images",
        4,
        "--compared",
        20,
        "--megapixels",
        0.05,
        "--kinds",
        "onnx",
        "torch",
        "--filters",
        "bilinear",
        "--write",
        tmp_path / "export.md",
    )
    found = last_row(capsys.readouterr().out)
    (rows,) = found["runs"].values()
    assert set(rows) > {"onnx", "torch"}
    for row in rows.values():
        assert min(row[key] for key in ("megabytes", "load", "one_ms", "many_images_per_s")) > 0
    assert set(found["resizing"]) == {"bilinear"}
    assert (tmp_path / "export.md").read_text().count("| onnx |") == 1


@pytest.mark.slow
def test_serving(started, toy_run, toy_data, tmp_path, capsys):
    for package in ("httptools", "starlette", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    sections = ("throughput", "latency", "peers", "overload", "soak")
    photos, tables = toy_data / "cats_vs_dogs" / "test", tmp_path / "serving.md"
    started("serving", toy_run, photos, "--toy", "--sections", *sections, "--write", tables)
    found = last_row(capsys.readouterr().out)
    assert all(min(speeds) > 0 for speeds in found["throughput"]["images_per_second"].values())
    for rounds in (found["latency"], *found["peers"].values()):
        assert rounds[0]["alone_ms"] > 0 and rounds[0]["own"]["poisson"]["p99_ms"] > 0
    assert found["overload"]["requests"] == sum(found["overload"]["statuses"].values()) > 0
    assert set(found["overload"]["statuses"]) <= {"200", "429", "503", "504"}
    assert set(found["soak"]["statuses"]) <= {"200", "422"} and found["soak"]["parts"][0]["processes"] >= 1
    assert tables.read_text().count("\n## ") == len(sections)


@pytest.mark.slow
def test_unbalanced(started, toy_data, tmp_path):
    classes = toy_data / "unbalanced"
    for label in range(3):
        (classes / str(label)).mkdir(parents=True)
        for number in range(12):
            image = encoded(np.random.default_rng(100 * label + number), 3 * label, PHOTOGRAPH, "JPEG")
            (classes / str(label) / f"{number}.jpg").write_bytes(image)
    started("unbalanced", toy_data, "--sets", "unbalanced", "--seeds", 1, "--write", tmp_path)
    rows = json.loads((tmp_path / "unbalanced.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["plain", "weights", "adjusted", "resampled", "focal"]
