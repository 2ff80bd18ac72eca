"""The images that a report shows, kept in the run directory so that the report needs nothing else."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from loupe.ledger import write_atomic

LARGEST_PX = 160
LOSSLESS_PX = 64
Role = Literal["sample", "original", "augmented", "missed"]

SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("role", pa.string()),
        ("path", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("predicted", pa.string()),
        ("probability", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Exhibit:
    """One image of the gallery. `pixels` uint8 [H, W, 3]; `probability` is that of the predicted class."""

    pixels: np.ndarray
    role: Role
    path: str
    split: str | None = None
    label: str | None = None
    predicted: str | None = None
    probability: float | None = None


def write(path: Path, exhibits: Iterable[Exhibit]) -> None:
    """Writes the gallery as Parquet in the Hugging Face image layout."""
    rows = [_row(exhibit) for exhibit in exhibits]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), buffer)
    write_atomic(path, buffer.getvalue())


def _row(exhibit: Exhibit) -> dict[str, Any]:
    row = {name: getattr(exhibit, name) for name in SCHEMA.names[1:]}
    return {"image": {"bytes": encode(exhibit.pixels), "path": exhibit.path}, **row}


def encode(pixels: np.ndarray) -> bytes:
    """PNG for small images, so that every pixel can be seen; WebP for larger ones, reduced to `LARGEST_PX`."""
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    if max(image.size) <= LOSSLESS_PX:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.thumbnail((LARGEST_PX, LARGEST_PX), Image.Resampling.LANCZOS)
        image.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()
