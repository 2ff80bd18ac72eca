"""Layouts of folders, files and columns: what each is understood as. The table in docs/data.md is made of these cases.

`python tests/data/sources/test_layouts.py` writes the table anew (`make layouts`).
"""

import re
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loupe.data.sources.open import open_table
from loupe.data.table import ImageTable
from loupe.errors import DataError

PAGE = Path(__file__).parents[3] / "docs" / "data.md"
BEGIN, END = "<!-- layouts: begin -->", "<!-- layouts: end -->"
REFUSED = "refused: splits or classes?"

# Folders: files in the notation of shells, and what is made of them.
FOLDERS = {
    "{cat,dog}/1.jpg": "classes cat, dog",
    "{train,val,test}/{cat,dog}/1.jpg": "train: cat, dog; val: cat, dog; test: cat, dog",
    "{train,test}/{cat,dog}/1.jpg": "train: cat, dog; test: cat, dog",
    "pets/{Training,Validation}/{cat,dog}/1.jpg": "train: cat, dog; val: cat, dog",
    "{training_set,test_set}/{cats,dogs}/1.jpg": "train: cats, dogs; test: cats, dogs",
    "{seg_train,seg_test}/{sea,street}/1.jpg seg_pred/1.jpg": "train: sea, street; test: sea, street; predict: 1",
    "seg_{train,test}/seg_{train,test}/{sea,street}/1.jpg seg_pred/seg_pred/1.jpg": (
        "train: sea, street; test: sea, street; predict: 1"
    ),
    "{train1,train2,dev}/{cat,dog}/1.jpg": "train: cat, dog; val: cat, dog",
    "{my_train,my_eval}/{cat,dog}/1.jpg": "train: cat, dog; test: cat, dog",
    "{train2017,val2017}/{cat,dog}/1.jpg": "train: cat, dog; val: cat, dog",
    "{TrainSet,hold-out}/{cat,dog}/1.jpg": "train: cat, dog; test: cat, dog",
    "{train,test}/images/{cat,dog}/1.jpg": "train: cat, dog; test: cat, dog",
    "train/{cat,dog}/1.jpg test/test/1.jpg": "train: cat, dog; predict: 1",
    "train/{cat,dog}/1.jpg test/1.jpg": "train: cat, dog; predict: 1",
    "train/{cat,dog}/1.jpg test/unknown/1.jpg": "train: cat, dog; predict: 1",
    "{cat,dog}/1.jpg test/test/1.jpg": "classes cat, dog; predict: 1",
    "{cat,dog}/1.jpg unlabelled/1.jpg": "classes cat, dog; predict: 1",
    "set/{train,val}/{cat,dog}/1.jpg test/test/1.jpg": "train: cat, dog; val: cat, dog; predict: 1",
    "{yes,no,pred}/1.jpg": "classes no, yes; predict: 1",
    "dataset/{training_set,test_set}/{cats,dogs}/1.jpg dataset/single_prediction/1.jpg": (
        "train: cats, dogs; test: cats, dogs; predict: 1"
    ),
    "{cat,dog}/{train,test}/1.jpg": "train: cat, dog; test: cat, dog",
    "{plane,train,car}/1.jpg": "classes car, plane, train",
    "{valid,invalid}/1.jpg": "classes invalid, valid",
    "{test_tube,valley,dev_board}/1.jpg": "classes dev_board, test_tube, valley",
    "{test_tube,beaker}/{left,right}/1.jpg": "classes beaker, test_tube",
    "{steam_train,test_train}/1.jpg": "classes steam_train, test_train",
    "{valid,invalid}/{a,b}/1.jpg": REFUSED,
    "{my_train,extra}/{cat,dog}/1.jpg": REFUSED,
    "{bus,train}/{day,night}/1.jpg car/1.jpg": REFUSED,
    "{cat,dog}_{train,test}/1.jpg": REFUSED,
    "{cat,cat_test,dog,dog_test}/1.jpg": REFUSED,
    "{train,test,other}/1.jpg": REFUSED,
    "{train,test}/1.jpg": "refused: no class folders",
    "cat/{train,test}/1.jpg dog/1.jpg": "refused: splits in some classes only",
    "train/{cat,dog}/1.jpg test/{owl,fox}/1.jpg": "refused: test has no class of train",
}
SHARDS = {
    "{train,validation}-00000-of-00001.parquet": "train: a, b; val: a, b",
    "pets-{train,test}-00000-of-00002.parquet": "train: a, b; test: a, b",
    "{my_train,dev,eval}.parquet": "train: a, b; val: a, b; test: a, b",
    "{train,test}/part=0/0.parquet": "train: a, b; test: a, b",
    "split={train,holdout}/0.parquet": "train: a, b; test: a, b",
    "default/{train,test}/0000.parquet": "train: a, b; test: a, b",
    "crash_test-{train,val}.parquet": "train: a, b; val: a, b",
    "{train,unlabelled}.parquet": "train: a, b; predict: 2",
    "{crash_test_a,crash_test_b}.parquet": "classes a, b",
    "{train,more}.parquet": "refused: a shard without a split",
    "{train_test,val}.parquet": "refused: several splits in a name",
}
COLUMNS = {
    "train, valid, test": "train: a, b; val: a, b; test: a, b",
    "Training, PublicTest, PrivateTest": "train: a, b; test: a, b",
    "train_set, dev, hold-out": "train: a, b; val: a, b; test: a, b",
    "train, eval, unlabelled": "train: a, b; test: a, b; predict: 2",
    "train, fold3": "refused: an unknown split",
}
# Paths in a list without a column `split`; the label is another column, here a and b for each.
PATHS = {
    "{train,valid,test}/{1,2}.jpg": "train: a, b; val: a, b; test: a, b",
    "data/{train,test_images}/set/{1,2}.jpg": "train: a, b; test: a, b",
    "{cat,dog}/{train,test}/{1,2}.jpg": "train: a, b; test: a, b",
    "{train,unlabelled,dev}/{1,2}.jpg": "train: a, b; val: a, b; predict: 2",
    "{train,test}/{1,2}.jpg other/{1,2}.jpg": "classes a, b",
    "{train,invalid}/{1,2}.jpg": "classes a, b",
    "{val,test}/{1,2}.jpg": "classes a, b",
}
ARRAYS = {
    "x_{train,test} y_{train,test}": "train: a, b; test: a, b",
    "{train,val}_images {train,val}_labels": "train: a, b; val: a, b",
    "X_{train,dev} y_{train,dev}": "train: a, b; val: a, b",
    "images labels": "classes a, b",
}


def expanded(text: str) -> list[str]:
    """The names that a shell makes of `{a,b}/{c,d}`; `seg_{train,test}/seg_{train,test}` stands for the equal pairs."""
    found = []
    for pattern in text.split():
        pieces = re.split(r"\{([^}]*)\}", pattern)
        names = ["".join(choice) for choice in product(*(p.split(",") if k % 2 else [p] for k, p in enumerate(pieces)))]
        pairs = pattern.startswith("seg_{") and "/seg_{" in pattern
        found += [name for name in names if not pairs or name.split("/")[0] == name.split("/")[1]]
    return found


def make_folder(root: Path, text: str) -> Path:
    for number, name in enumerate(expanded(text)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\x89PNG%d" % number)
    return root


def make_shards(root: Path, text: str) -> Path:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for name in expanded(text):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        image = pa.array([{"bytes": f"{name}{k}".encode(), "path": None} for k in "ab"], kind)
        pq.write_table(pa.table({"image": image, "label": ["a", "b"]}), root / name)
    return root


def make_csv(root: Path, text: str) -> Path:
    (root / "1.jpg").write_bytes(b"1")
    rows = [f"1.jpg,{label},{word}" for word in text.split(", ") for label in "ab"]
    (root / "list.csv").write_text("\n".join(["path,label,split", *rows]), encoding="utf-8")
    return root / "list.csv"


def make_paths(root: Path, text: str) -> Path:
    rows = []
    for number, name in enumerate(expanded(text)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"%d" % number)
        rows.append(f"{name},{'ab'[number % 2]}")
    (root / "list.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    return root / "list.csv"


def make_arrays(root: Path, text: str) -> Path:
    keys = expanded(text)
    images = {key: np.zeros((2, 4, 4), np.uint8) for key in keys if re.search(r"(?i)x|images", key)}
    np.savez(root / "set.npz", **images, **{key: ["a", "b"] for key in keys if key not in images})
    return root / "set.npz"


def meaning(table: ImageTable) -> str:
    """The splits and classes of a table in the words of the cases."""
    found: dict[str | None, set[str]] = {}
    for split, label in zip(table.splits, table.labels.tolist(), strict=True):
        if label >= 0:
            found.setdefault(split, set()).add(table.classes[label])
    parts = [f"{name}: {', '.join(sorted(found[name]))}" for name in ("train", "val", "test") if name in found]
    if None in found:
        parts.insert(0, f"classes {', '.join(sorted(found[None]))}")
    aside = sum(row.images for row in table.layout if row.use == "predict")
    return "; ".join([*parts, *([f"predict: {aside}"] if aside else [])])


CASES = [
    pytest.param(make, text, meant, id=text)
    for make, cases in (
        (make_folder, FOLDERS),
        (make_shards, SHARDS),
        (make_csv, COLUMNS),
        (make_paths, PATHS),
        (make_arrays, ARRAYS),
    )
    for text, meant in cases.items()
]


@pytest.mark.parametrize(("make", "text", "meant"), CASES)
def test_each_layout_is_understood_or_refused(tmp_path, make, text, meant):
    (tmp_path / "set").mkdir()
    data = make(tmp_path / "set", text)
    if meant.startswith("refused"):
        with pytest.raises(DataError) as error:
            open_table(data)
        assert any(word in str(error.value) for word in re.findall(r"[\w-]+", text))
        return
    table = open_table(data)
    assert meaning(table) == meant
    assert sum(row.images for row in table.layout) == len(table) + (
        sum(row.images for row in table.layout if row.use == "predict") if make is make_folder else 0
    )


def layouts() -> str:
    """The tables of docs/data.md."""
    lines = []
    for title, cases in (
        ("folder", FOLDERS),
        ("Parquet shards", SHARDS),
        ("values of a column `split`", COLUMNS),
        ("paths in a list without a column `split`", PATHS),
        ("arrays of `.npz` and mappings", ARRAYS),
    ):
        lines += [f"| {title} | understood as |", "|---|---|"]
        lines += [f"| `{text}` | {meant} |" for text, meant in cases.items()]
        lines.append("")
    return "\n".join(lines)


def page() -> str:
    """docs/data.md with the tables of now."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n\n{layouts()}\n{END}{rest.split(END)[1]}"


def test_the_tables_of_the_page_are_those_of_these_cases():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python tests/data/sources/test_layouts.py"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.exit(0)
