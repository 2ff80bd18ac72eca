"""Images of a report, stored in the run directory so that the report needs no other data.

Their total size is limited, so that the page stays below 5 MB.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from loupe.files import write_atomic
from loupe.report.embed import encode

PAGE_BYTES = 4_600_000  # of the page of a run, for all pictures and their captions
CAPTION_BYTES = 600  # of one picture in the page
TEMPERATURE = b"loupe.temperature"  # in the file's metadata
Role = Literal["sample", "original", "augmented", "missed", "hit"]

SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("role", pa.string()),
        ("path", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("predicted", pa.string()),
        ("probability", pa.float64()),
        ("loss", pa.float64()),
        ("top", pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float64())]))),
    ]
)


@dataclass(frozen=True)
class Exhibit:
    """One image of the gallery. `pixels` uint8 [H, W, 3].

    probability: of the predicted class. loss: −log of the probability of the true class. top: classes and their
    probabilities, the most probable first.
    """

    pixels: np.ndarray
    role: Role
    path: str
    split: str | None = None
    label: str | None = None
    predicted: str | None = None
    probability: float | None = None
    loss: float | None = None
    top: Sequence[tuple[str, float]] = ()


def write(path: Path, exhibits: Iterable[Exhibit], temperature: float = 1.0) -> None:
    """Write the gallery as Parquet in the Hugging Face image layout: the first exhibits that fit.

    Exhibits beyond `PAGE_BYTES` are not taken from the iterable. `temperature` is that of their probabilities.
    """
    buffer = io.BytesIO()
    schema = SCHEMA.with_metadata({TEMPERATURE: repr(temperature)})
    pq.write_table(pa.Table.from_pylist(list(_with_room(map(_row, exhibits))), schema=schema), buffer)
    write_atomic(path, buffer.getvalue())


def temperature(path: Path) -> float:
    """Temperature of the probabilities in a gallery; 1 without a file, or in files of versions without calibration."""
    metadata = pq.read_schema(path).metadata if path.is_file() else None
    return float((metadata or {}).get(TEMPERATURE, b"1"))


def _with_room(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """First rows that fit into a page, where base64 turns three bytes of an image into four characters."""
    room = PAGE_BYTES
    for row in rows:
        room -= CAPTION_BYTES + len(row["path"].encode()) + 4 * len(row["image"]["bytes"]) // 3
        if room < 0:
            return
        yield row


def _row(exhibit: Exhibit) -> dict[str, Any]:
    row = {name: getattr(exhibit, name) for name in SCHEMA.names[1:-1]}
    row["top"] = [{"label": label, "probability": probability} for label, probability in exhibit.top]
    return {"image": {"bytes": encode(exhibit.pixels), "path": exhibit.path}, **row}
