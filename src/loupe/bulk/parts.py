"""Parts of a prediction in bulk: a Parquet file of the rows of one unit, whole or not there."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from loupe.bulk.plan import Plan, PlanRecord, Unit
from loupe.evaluate.predictions import Predictions
from loupe.files import replacing
from loupe.records import Part, Whole
from loupe.runs.classify import COLUMNS, PROBABILITY, label

MOST_COLUMNS = 256
"""Classes up to which each has a column of its own; above, one column holds a list, in the order of the classes."""
CONTENT, REASON, PROBABILITIES = "content", "reason", "probabilities"
PLAN_KEY, PART_KEY = b"loupe.plan", b"loupe.part"  # of the metadata of a file


class PartRecord(Part):
    """Content of a part, in the metadata of its file.

    Attributes:
        unit: number of the unit.
        digest: hash of the images of the unit.
        plan: identity of the plan.
        labels: number of images of each label.
        damaged: number of images that could not be read or decoded.
    """

    unit: Whole
    digest: str
    plan: str
    labels: dict[str, Whole]
    damaged: Whole


@dataclass(frozen=True)
class UnitPredictions:
    """Predictions of the images of a unit.

    Attributes:
        unit: images.
        row_N: int64 [N] rows of the intact ones, ascending.
        logits_NK: float32 logits of those.
        content: SHA-256 of each file by its row, None where it could not be read.
        reason: reason of each damaged image by its row.
    """

    unit: Unit
    row_N: npt.NDArray[np.int64]
    logits_NK: npt.NDArray[np.float32]
    content: Mapping[int, str | None]
    reason: Mapping[int, str]


def schema(record: PlanRecord) -> pa.Schema:
    """Columns of the result: those of the CSV of `loupe predict`, then `content` and `reason`.

    The metadata holds the record of the plan: source, model, classes, temperature, threshold, version.
    """
    settings = record.asked.settings
    text, number = pa.string(), pa.float32()
    fields = [("path", text), ("label", text), ("probability", number)]
    for rank in range(2, settings.top + 1):
        fields += [(f"label_{rank}", text), (f"probability_{rank}", number)]
    if len(settings.classes) <= MOST_COLUMNS:
        fields += [(PROBABILITY + name, number) for name in settings.classes]
    else:
        fields.append((PROBABILITIES, pa.list_(number, len(settings.classes))))
    fields += [(CONTENT, text), (REASON, text)]
    if record.id_name is not None:
        taken = {name for name, _ in fields} | {*COLUMNS}
        fields.insert(0, (f"list_{record.id_name}" if record.id_name in taken else record.id_name, text))
    return pa.schema(fields, {PLAN_KEY: json.dumps(record.to_json()).encode()})


def part_table(record: PlanRecord, made: UnitPredictions) -> pa.Table:
    """Rows of a unit, one for each image: nulls for the label and the probabilities of a damaged image.

    Raises:
        DivergedError: a logit is not finite.
    """
    rows, settings = made.unit.rows, record.asked.settings
    predictions = Predictions(
        path=tuple(rows[row].path for row in made.row_N),
        content=tuple(made.content[row] or "" for row in made.row_N.tolist()),
        label=np.full(len(made.row_N), -1, np.int64),
        logits_NK=made.logits_NK,
        classes=settings.classes,
    )
    labels = label(predictions, top=settings.top, threshold=settings.threshold, temperature=settings.temperature)
    place = _Places(made.row_N, len(rows))
    columns: list[pa.Array] = [] if record.id_name is None else [pa.array([row.id for row in rows], pa.string())]
    columns += [pa.array([row.path for row in rows], pa.string()), place.texts(labels.label)]
    columns.append(place.numbers(labels.probability_NK.max(axis=1, initial=0)))
    for k_N in labels.order_NT[:, 1:].T:
        columns.append(place.texts([settings.classes[k] for k in k_N]))
        columns.append(place.numbers(np.take_along_axis(labels.probability_NK, k_N[:, None], axis=1)[:, 0]))
    if len(settings.classes) <= MOST_COLUMNS:
        columns += [place.numbers(probability_N) for probability_N in labels.probability_NK.T]
    else:
        columns.append(place.lists(labels.probability_NK))
    columns.append(pa.array([made.content.get(row) for row in range(len(rows))], pa.string()))
    columns.append(pa.array([made.reason.get(row) for row in range(len(rows))], pa.string()))
    return pa.Table.from_arrays(columns, schema=schema(record))


@dataclass(frozen=True)
class _Places:
    """Values of the intact rows in columns of all rows, with nulls at the others."""

    row_N: npt.NDArray[np.int64]
    rows: int

    def texts(self, values: Sequence[str]) -> pa.Array:
        column: list[str | None] = [None] * self.rows
        for row, value in zip(self.row_N.tolist(), values, strict=True):
            column[row] = value
        return pa.array(column, pa.string())

    def numbers(self, values_N: npt.NDArray[np.float64]) -> pa.Array:
        values = np.zeros(self.rows, np.float32)
        values[self.row_N] = values_N
        return pa.array(values, mask=self._missing())

    def lists(self, values_NK: npt.NDArray[np.float64]) -> pa.Array:
        width = values_NK.shape[1]
        values = np.zeros((self.rows, width), np.float32)
        values[self.row_N] = values_NK
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width, mask=pa.array(self._missing()))

    def _missing(self) -> npt.NDArray[np.bool_]:
        missing = np.full(self.rows, True)
        missing[self.row_N] = False
        return missing


def part_name(number: int) -> str:
    """File name of the part of a unit."""
    return f"part-{number:06d}.parquet"


def write_part(folder: Path, plan: Plan, unit: Unit, table: pa.Table) -> Path:
    """Write the rows of a unit to a temporary file, sync it and rename it.

    Args:
        folder: folder of the parts.
        plan: plan of the prediction.
        unit: images.
        table: their rows, from `predict_unit`.

    Raises:
        OSError: the file cannot be written.
    """
    labels = Counter(name for name in table["label"].to_pylist() if name is not None)
    part = PartRecord(
        unit=unit.number,
        digest=unit.digest,
        plan=plan.record.identity,
        labels=dict(labels),
        damaged=table[REASON].length() - table[REASON].null_count,
    )
    path = folder / part_name(unit.number)
    metadata = {**table.schema.metadata, PART_KEY: json.dumps(part.to_json()).encode()}
    with replacing(path) as file:
        pq.write_table(table.replace_schema_metadata(metadata), file, compression="zstd", write_page_checksum=True)
    return path


def whole_part(folder: Path, plan: Plan, unit: Unit) -> PartRecord | None:
    """Record of the part of a unit; None where there is none, or it is damaged or not of this unit: it is removed.

    Read are the end of the file and its metadata. The pages have checksums, which `read_part` checks.
    """
    path = folder / part_name(unit.number)
    try:
        found = pq.read_metadata(path)
        part = PartRecord.model_validate_json((found.metadata or {})[PART_KEY])
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, KeyError, ValidationError):
        path.unlink(missing_ok=True)
        return None
    of_unit = (part.unit, part.digest, part.plan) == (unit.number, unit.digest, plan.record.identity)
    if not of_unit or found.num_rows != len(unit):
        path.unlink()
        return None
    return part


def read_part(folder: Path, number: int) -> pa.Table | None:
    """Rows of a part, without its metadata; None where a page is damaged: the file is removed."""
    path = folder / part_name(number)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except (OSError, pa.ArrowException):
        path.unlink(missing_ok=True)
        return None
    plan = {key: value for key, value in table.schema.metadata.items() if key == PLAN_KEY}
    return table.replace_schema_metadata(plan)
