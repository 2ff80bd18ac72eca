"""Receipt of a run for its page: data, code, weights, machine, and the command that repeats it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from loupe.data.sources.read_options import ROLES
from loupe.evaluate.results import RunResults
from loupe.log import command_line, printable
from loupe.provenance import RunEnvironment
from loupe.report import texts

HIDDEN = {
    "schema",
    "command",
    "credentials",
    "skip_damaged",
    "open_test",
    "parent.name",
    "teacher.name",
}  # the page shows the command, and whether the test was opened


@dataclass(frozen=True)
class Row:
    name: str
    value: str
    is_hash: bool


@dataclass(frozen=True)
class Group:
    title: str
    rows: list[Row]


# Keys of `_facts` with their names on the page. Other keys are shown as they are.
GROUPS = {
    "Data": {
        "dataset": "data set",
        "data": "read from",
        "image_folder": "folder of the images",
        "follow_links": "files outside the folder read",
        **{f"columns.{role}": f"column of the {role}" for role in ROLES},
        "images": "images",
        "damaged": "damaged, left out",
        "hashes.data": "hash of the images",
        "hashes.split": "hash of the split",
        "split_hash": "hash of the test split",
        "test_looks": "test-set evaluations",
    },
    "Code and weights": {
        "loupe": "Loupe",
        "hashes.recipe": "hash of the recipe",
        "hashes.code": "hash of Loupe's code",
        "hashes.weights": "hash of the pretrained weights",
        "parent.path": "started from the weights of",
        "parent.weights": "hash of these weights",
        "parent.network": "network of these weights",
        "parent.head": "head of these weights",
        "parent.licence": "licence of the published weights",
        "parent.seen_validation": "validation images that they were trained on",
        "parent.seen_test": "test images that they were trained on",
        "teacher.path": "learned from",
        "teacher.weights": "hash of the teacher's weights",
        "teacher.network": "network of the teacher",
        "teacher.share": "share of the teacher in the targets",
        "teacher.seen_validation": "validation images that the teacher was trained on",
        "teacher.seen_test": "test images that the teacher was trained on",
        **{f"made_of.{number}": f"made of run {number}" for number in range(1, 11)},
        "python": "Python",
        "torch": "PyTorch",
        "numpy": "NumPy",
        "pillow": "Pillow",
    },
    "Machine and seed": {
        "seed": "seed",
        "device": "device",
        "precision": "precision",
        "frozen_precision": "precision of frozen blocks",
        "gpu": "GPU",
        "processor": "processor",
        "cores": "cores",
        "threads": "threads",
        "choices.precision": "choice of the precision",
        "choices.frozen_precision": "choice of the frozen blocks' precision",
        "choices.engine": "engine of the frozen blocks",
        "choices.threads": "choice of the threads",
        "platform": "platform",
        "date": "start",
    },
}


def receipt(results: RunResults | None, environment: RunEnvironment) -> list[Group]:
    """Recorded facts of a run in groups; unknown ones are left out."""
    facts = dict(_facts(results, environment))
    groups = [
        Group(title, [_row(name, facts.pop(key), key) for key, name in names.items() if key in facts])
        for title, names in GROUPS.items()
    ]
    groups.append(Group("Other", [_row(key, value, key) for key, value in facts.items()]))
    return [group for group in groups if group.rows]


def hashes(runs: Iterable[tuple[RunResults | None, RunEnvironment]]) -> list[Row]:
    """Distinct values of each hash over several runs, given as (results, environment) of each run."""
    names = {key: name for group in GROUPS.values() for key, name in group.items()}
    found: dict[str, dict[str, None]] = {}
    for key, value in (fact for run in runs for fact in _facts(*run) if fact[0] in names and _is_hash(fact[0])):
        found.setdefault(key, {})[value] = None
    return [Row(names[key], value, True) for key in names for value in found.get(key, ())]


def _facts(results: RunResults | None, environment: RunEnvironment) -> Iterator[tuple[str, str]]:
    if results:
        images = {"train": results.images.train, "val": results.images.val, "test": results.images.test}
        yield "images", ", ".join(f"{number:,} {split}" for split, number in images.items())
        for key in ("dataset", "split_hash", "test_looks", "seed", "precision", "frozen_precision", "device"):
            if getattr(results, key) is not None:
                yield key, str(getattr(results, key))
        if results.damaged:
            yield "damaged", texts.count(results.damaged)
    for key, value in environment.to_json().items():
        if key == "made_of":
            for number, one in enumerate(environment.made_of, 1):
                share = "" if one.share is None else f", share {one.share:.3g}"
                yield f"made_of.{number}", printable(f"{one.name} ({one.network}){share}, weights {one.weights}")
            continue
        inner = {f"{key}.{name}": part for name, part in value.items()} if isinstance(value, Mapping) else {key: value}
        shown = ((name, part) for name, part in inner.items() if part is not None and HIDDEN.isdisjoint((key, name)))
        yield from ((printable(name), printable(str(part))) for name, part in shown)


def _row(name: str, value: str, key: str) -> Row:
    return Row(name, value, _is_hash(key))


def _is_hash(key: str) -> bool:
    return key in {"split_hash", "parent.weights", "teacher.weights"} or key.startswith("hashes.")


def repeat_command(run: Path, environment: RunEnvironment) -> str:
    """Command that trains the run again from its own recipe, and reports all figures that differ."""
    if environment.made_of:
        return command_line([printable(word) for word in environment.made_command])
    data = printable(environment.data_word)
    skip = ["--skip-damaged"] if environment.skip_damaged else []
    read = [printable(word) for word in environment.read_words]
    return command_line(
        ["loupe", "train", data, *read, "--recipe", str(run / "recipe.yaml"), "--against", str(run), *skip]
    )
