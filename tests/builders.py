"""Builders that several tests share: predictions, run directories, archives."""

import io
import json
import sys
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image

from loupe.evaluate import metrics
from loupe.evaluate.predictions import Predictions
from loupe.evaluate.results import Evaluation
from loupe.recipes.published.experiments import EXPERIMENTS

VARIED_SIZES = [(96, 80), (80, 96), (33, 120), (200, 40), (64, 64), (31, 31)]


def without_slow_parts(patch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of the time of a tiny run.

    That is report.html, OpenVINO, the timing of precisions, and the search for images that look like training images.
    """
    patch.setattr("loupe.report.run_page.write_page", lambda run: None)
    patch.setattr("loupe.runs.train.near_note", lambda *_: None)
    patch.setitem(sys.modules, "openvino", None)
    patch.setattr("loupe.training.precision.settled", lambda *_: ("fp32", "precision fp32"))
    patch.setattr("loupe.models.engine.has_bf16_matrix_units", lambda device: False)


def predictions(label, logits_NK, classes=None) -> Predictions:
    images, count = logits_NK.shape
    names = tuple(str(i) for i in range(images))
    return Predictions(
        names,
        names,
        np.asarray(label, np.int64),
        logits_NK.astype(np.float32),
        classes or tuple(f"c{i}" for i in range(count)),
    )


def simulated(random, images: int, classes: int, skill: float = 1.5, share=None) -> Predictions:
    label = random.choice(classes, size=images, p=share)
    logits = random.normal(size=(images, classes))
    logits[np.arange(images), label] += skill
    return predictions(label, logits)


def picture(color: int = 0, kind: str = "PNG", side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (color, 90, 160)).save(buffer, kind)
    return buffer.getvalue()


def save_photos(folder: Path, names, each: int, side: tuple[int, int] = (96, 80)) -> Path:
    """Folders of JPEG files, one for each name; later ones are brighter, and no two pictures are alike."""
    random = np.random.default_rng(0)
    for level, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(1, each + 1):
            coarse = random.integers(40 + 90 * level, 120 + 90 * level, (6, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize(side).save(folder / name / f"{number}.jpg")
    return folder


def save_varied(folder: Path, each: int) -> Path:
    """JPEG and PNG files of two classes: tall, wide, small, grey, with alpha, and turned by EXIF."""
    random = np.random.default_rng(0)
    for level, name in enumerate(["dark", "<script>bright"]):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            coarse = random.integers(20 + 110 * level, 100 + 110 * level, (5, 7, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize(VARIED_SIZES[number % len(VARIED_SIZES)])
            if number % 5 == 1:
                exif = Image.Exif()
                exif[ExifTags.Base.Orientation] = 6
                image.save(folder / name / f"{number:02}.jpg", exif=exif)
            elif number % 5 == 2:
                image.putalpha(200)
                image.save(folder / name / f"{number:02}.png")
            elif number % 5 == 3:
                image.convert("L").save(folder / name / f"{number:02}.png")
            else:
                image.save(folder / name / f"{number:02}.jpg")
    return folder


def gallery(path: Path, classes, missed: int = 30) -> None:
    row = {"label": classes[0], "predicted": None, "probability": None, "split": "train", "path": f"{classes[0]}/1.png"}
    rows = [{**row, "image": {"bytes": picture(i), "path": None}, "role": "sample"} for i in range(3)]
    rows += [{**row, "image": {"bytes": picture(9, "WEBP"), "path": None}, "role": "original"}]
    rows += [{**row, "image": {"bytes": picture(i, "JPEG"), "path": None}, "role": "augmented"} for i in range(4)]
    wrong = {"role": "missed", "split": "test", "predicted": classes[-1], "probability": 0.987}
    rows += [
        {**row, **wrong, "path": f"{classes[0]}/miss-{i}.png", "image": {"bytes": picture(i), "path": None}}
        for i in range(missed)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)


def run_results(name: str, classes, block: Evaluation | None, **changes) -> dict[str, Any]:
    """The content of a run's results.json, with these metrics of validation and test images."""
    images = block.images if block else 0
    content = {
        "schema": 1,
        "version": "0.1.0",
        "name": name,
        "dataset": "pets",
        "recipe": "small",
        "seed": 3,
        "split_hash": "ab" * 32,
        "classes": list(classes),
        "images": {"train": 1234, "val": images, "test": images},
        "validation": block,
        "test": block,
        "test_looks": 2,
        "parameters": {"total": 101_898, "trainable": 101_002, "non_trainable": 896},
        "layers": [{"name": "head", "type": "Linear", "output": [len(classes)], "parameters": 650, "trainable": True}],
        "epochs": 4,
        "best_epoch": 3,
        "seconds": {"load": 1.5, "train": 247.0, "epoch_mean": 61.7, "evaluate": 0.05, "total": 250.0},
        "images_per_second": 1282.4,
        "precision": "bf16",
        "device": "cpu",
        "damaged": 0,
        "diagnosis": None,
        "stopped": None,
    } | changes
    return {key: value.to_json() if isinstance(value, Evaluation) else value for key, value in content.items()}


def make_run(folder: Path, classes=("cat", "dog", "frog"), *, missed: int = 30, **changes) -> Path:
    """A run directory as `loupe train` leaves it."""
    folder.mkdir()
    random, count = np.random.default_rng(0), len(classes)
    label = np.arange(20 * count) % count
    logits = random.normal(size=(len(label), count)) + 2 * np.eye(count)[label]
    names = tuple(str(i) for i in range(len(label)))
    block = metrics.evaluate(Predictions(names, names, label, logits.astype(np.float32), tuple(classes)))
    (folder / "results.json").write_text(json.dumps(run_results(folder.name, classes, block, **changes)))
    (folder / "environment.json").write_text(
        json.dumps({"python": "3.11.9", "gpu": None, "command": ["loupe", "train", "my pets", "--epochs", "4"]})
    )
    (folder / "recipe.yaml").write_text("name: small\ndescription: a <b>bold</b> one\n")
    (folder / "metrics.csv").write_text(
        "epoch,stage,lr,train_loss,train_accuracy,val_loss,val_accuracy,val_macro_f1,seconds,images_per_second\n"
        "1,0,0.1,1.5,0.4,1.4,0.41,0.4,61,1200\n2,0,0.1,1.0,0.6,,,,62,1200\n3,1,0.01,0.7,0.7,0.8,0.69,0.6,62,1200\n"
        "4,1,0.01,nan,0.8,0.9,0.68,0.6,62,1200\n"
    )
    gallery(folder / "gallery.parquet", classes, missed)
    return folder


def python2_array(data: np.ndarray) -> bytes:
    """A uint8 array as Python 2 and NumPy 1 pickled it (protocol 2), whatever writes pickles here: str, not bytes."""
    raw = data.tobytes()
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01bt"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"".join(b"J" + n.to_bytes(4, "little") for n in data.shape)
    return head + b"R(K\x01" + shape + b"\x86" + dtype + b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb"


def python2_batch(data: np.ndarray, key: str, labels: list[int]) -> bytes:
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + python2_array(data) + b"U" + bytes([len(key)]) + key.encode() + numbers + b"u."


def cifar_files(kind: int) -> tuple[dict[str, bytes], np.ndarray, list[int]]:
    parts = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    parts = parts if kind == 10 else ["train", "test"]
    data = np.random.default_rng(kind).integers(0, 256, (len(parts), 2, 3072), dtype=np.uint8)
    labels = [k % kind for k in range(2 * len(parts))]
    key = "labels" if kind == 10 else "fine_labels"
    files = {p: python2_batch(data[k], key, labels[2 * k : 2 * k + 2]) for k, p in enumerate(parts)}
    names = [b"class %d" % k for k in range(kind)]
    meta = {b"label_names": names} if kind == 10 else {b"fine_label_names": names}
    listed = b"](" + b"".join(b"U" + bytes([len(name)]) + name for name in names) + b"e"
    key = next(iter(meta))
    files["batches.meta" if kind == 10 else "meta"] = b"\x80\x02}(U" + bytes([len(key)]) + key + listed + b"u."
    return files, data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def pack(path: Path, files: dict[str, bytes], folder: str = "cifar-10-batches-py") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in {**files, "readme.html": b"<html>"}.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def spread_over_seeds(value, ends=None):
    return {"value": value, "low": None, "high": None, "lowest": value, "highest": value} | (ends or {})


def experiment_figures(name: str, accuracy: float, judged_on: str = "test") -> dict:
    spread = {"low": accuracy - 0.01, "high": accuracy + 0.01, "lowest": accuracy - 0.02, "highest": accuracy + 0.02}
    return {
        "runs": [f"{name}-quick-seed{seed}" for seed in range(3)],
        "seeds": [0, 1, 2],
        "judged_on": judged_on,
        "images": 800 if judged_on == "validation" else 10_000,
        "accuracy": spread_over_seeds(accuracy, spread),
        "micro_f1": spread_over_seeds(0.8531),
        "macro_f1": spread_over_seeds(0.8523),
        "roc_auc": spread_over_seeds(0.9876),
        "log_loss": spread_over_seeds(0.4321),
        "parameters": {"total": 309_291, "trainable": 308_395, "non_trainable": 896},
        "epochs": 44 / 3,
        "seconds_per_epoch": 205.1,
        "seconds": 3080.0,
        "test_looks": 0 if judged_on == "validation" else 7,
        "settings": "AdamW 0.01, one-cycle, batch 128",
        "diagnosis": "still improving at the end",
    }


def experiments_content() -> dict:
    """Nineteen experiments: three measured, of which two reach the published accuracy; one stopped; no weights else."""
    rows = [
        {
            "name": name,
            "recipe": None,
            "published": asdict(published),
            "why": "not measured: no weights",
            "measured": None,
            "verdict": None,
        }
        for name, published in EXPERIMENTS.items()
    ]
    by_name = {row["name"]: row for row in rows}
    for name, accuracy, verdict in (
        ("deep-cnn", 0.8534, "reached"),
        ("lecture-cnn", 0.7012, "missed"),
        ("catsdogs-cnn", 0.8125, "reached"),
    ):
        judged_on = EXPERIMENTS[name].judged_on
        by_name[name] |= {
            "recipe": f"{name}-quick",
            "why": None,
            "measured": experiment_figures(name, accuracy, judged_on),
            "verdict": verdict,
        }
    by_name["simple-cnn"]["why"] = "stopped in epoch 3 of 15: the loss is not finite"
    return {
        "schema": 1,
        "version": "0.1.0",
        "budget": "quick",
        "seeds": 3,
        "command": "loupe reproduce --budget quick --seeds 3 --data 'my data'",
        "environment": {"python": "3.11.9", "cores": 2, "gpu": None},
        "rows": rows,
    }


def comparison_content() -> dict:
    """Three candidates, two seeds each, of which one failed; the test is open for the chosen one."""
    accuracy = {"value": 0.9, "low": 0.85, "high": 0.94, "lowest": 0.89, "highest": 0.91}
    metrics_of_split = {
        "images": 200,
        "accuracy": accuracy,
        "macro_f1": spread_over_seeds(0.9),
        "roc_auc": spread_over_seeds(0.98),
        "log_loss": spread_over_seeds(0.3),
        "ece": spread_over_seeds(None),
    }
    figures = {
        "runs": ["small-seed0", "small-seed1"],
        "seeds": [0, 1],
        "network": "small",
        "validation": metrics_of_split,
        "test": metrics_of_split,
        "parameters": {"total": 1000, "trainable": 900, "non_trainable": 100},
        "epochs": 10.0,
        "seconds_per_epoch": 0.5,
        "seconds": 6.0,
        "images_per_second": 4000.0,
        "bytes": 4400,
        "diagnosis": "still improving at the end",
    }
    small = {
        "name": "small",
        "settings": "AdamW 0.01",
        "expected": {"seconds": 5.0, "disk_bytes": 0, "memory_bytes": None},
        "why": None,
        "measured": figures,
    }
    large = small | {"name": "large", "expected": None, "measured": figures | {"test": None, "seconds": 60.0}}
    failed = small | {"name": "failed", "why": "the loss is not finite", "measured": None}
    difference = {
        **{"first": "small", "second": "large", "value": 0.01, "low": -0.02, "high": 0.04, "p": 0.4},
        **{"p_corrected": 0.4, "images": 200, "only_first": 3.0, "only_second": 5.0},
    }
    return {
        "schema": 1,
        "version": "0.1.0",
        "name": "comparison-pets",
        "dataset": "pets",
        "seeds": 2,
        "folds": 0,
        "settings": [],
        "command": "loupe compare DATA --seeds 2",
        "environment": {"processor": "a processor", "cores": 2, "threads": 2, "gpu": None, "device": "cpu"},
        "images": {"train": 700, "val": 200, "test": 100},
        "rows": [small, large, failed],
        "judgement": {
            "best": "large",
            "chosen": "small",
            "differences": [difference],
            "verdicts": {"small": "small: the cheapest; take it", "large": "large: +1.0 points: a tie; take small"},
            "conclusion": "Take small.",
            "macro_f1": [],
        },
        "next": None,
        "test": {"opened": ["small"], "opened_before": [], "looks": 2, "judgement": None},
    }


def differences_content() -> dict:
    """Two runs that differ in each kind of figure."""
    values = {"first": 0.5, "second": None}
    return {
        "schema": 1,
        "first": "runs/first",
        "second": "runs/second",
        "device": "cpu",
        "same": False,
        "compared": {"figures": 13, "epochs": 3, "images": 8},
        "differences": {
            "results": [{"key": "test.accuracy.value", **values}, {"key": "test.ece", "second": 0.1}],
            "curves": [{"key": "epochs", "first": 3, "second": 4}, {"key": "lr", "epoch": 2, "epochs": 2, **values}],
            "split": [{"key": "images in another split, or of another class", "images": 2}],
            "predictions": [
                {"key": "test", "first": "present"},
                {"key": "val: classes", "first": ["cat"], "second": ["cat", "dog"]},
                {
                    **{"key": "val", "images": 4, "of_another_class": 1, "largest_difference": 0.5},
                    "images_of_one_run_alone": 1,
                },
            ],
            "weights": [
                {"key": "head.weight", "values": 6, "unequal": 1, "largest_difference": None},
                {"key": "head.bias", "second": "present"},
            ],
        },
        "circumstances": [{"key": "hashes.code", "first": "01" * 32, "second": "23" * 32}],
    }


def labels_content() -> dict:
    """Three suspects of two splits, of 52 examined labels."""
    share = {"value": 0.9, "low": 0.8, "high": 0.96}
    pair = {
        **{"images": 52, "with": share, "without": share, "gained": 1, "lost": 1},
        "difference": {"value": 0.0, "low": -0.05, "high": 0.05},
    }
    scores = {"label": "light", "suggested": "dark", "score": 0.01, "score_of_suggested": 0.99}
    return {
        "schema": 1,
        "dataset": "photos",
        "network": "test_resnet",
        "size_px": 32,
        "seed": 0,
        "folds": 3,
        "strengths": [1.0, 1.0, 10.0],
        "left_out": [1, 1, 2],
        "classes": ["dark", "light", "mixed"],
        "examined": {"train": 40, "val": 12},
        "suspected": {"train": 2, "val": 1},
        "doubtful": 3,
        "effect": {"all": pair, "unsuspected": {**pair, "images": 49}},
        "suspects": [{"path": f"{split}/light/1.png", "split": split, **scores} for split in ("train", "train", "val")],
        "files": {"labels": "found/labels.csv", "page": "found/labels.html", "kept": "found/kept.csv"},
    }
