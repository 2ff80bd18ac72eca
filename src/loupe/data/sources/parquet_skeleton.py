"""Skeletons of Parquet files elsewhere: all of their rows without the images, and the place of each image.

A skeleton has the schema of its file, with the class names in it, so that it is read as any file on this disk. Beside
it lies a file with size and SHA-256 of each image of each column of images.
"""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from loupe.data.sources.parquet_columns import is_image
from loupe.data.sources.remote_shards import column_batches, image_bytes
from loupe.data.table import MAX_FILE_BYTES
from loupe.errors import DataError
from loupe.files import replacing

_PLACE = pa.struct([("size", pa.int64()), ("sha256", pa.binary(32))])


def write_skeleton(source: Path, target: Path, name: str) -> None:
    """Write the skeleton of a Parquet file, in one pass over its bytes.

    Raises:
        DataError: the file is damaged.
        OSError: the skeleton cannot be written.
    """
    try:
        schema = pq.read_schema(source)
        _ = schema.names  # of which those that are not UTF-8 raise here
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: cannot be read as Parquet: {error}. Upload it again.") from None
    try:
        _write(source, schema, target, name)
    except pa.ArrowException as error:
        raise DataError(f"{name}: a type of its columns cannot be kept: {error}.") from None


def _write(source: Path, schema: pa.Schema, target: Path, name: str) -> None:
    images = [field.name for field in schema if is_image(field.type)]
    places_schema = pa.schema([(image, _PLACE) for image in images])
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        replacing(target) as rows_file,
        replacing(places_file(target)) as places_out,
        pq.ParquetWriter(rows_file, schema) as rows_writer,
        pq.ParquetWriter(places_out, places_schema) as places_writer,
    ):
        for batch in column_batches(source, None, name):
            columns = [_emptied(column) if is_image(column.type) else column for column in batch.columns]
            rows_writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            places = [_places(image_bytes(batch.column(image))) for image in images]
            places_writer.write_batch(pa.RecordBatch.from_arrays(places, schema=places_schema))


def places_file(skeleton: Path) -> Path:
    """File with the places of the images of a skeleton."""
    return skeleton.with_name(f"{skeleton.name}.places")


def read_places(skeleton: Path, column: str) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Size [N] and SHA-256 [N, 32] of each image of a column; zeros for a row without one."""
    with pq.ParquetFile(places_file(skeleton)) as file:
        places = file.read(columns=[column])[column].combine_chunks()
    size_N = np.asarray(pc.struct_field(places, "size"), np.int64)
    digests = pc.struct_field(places, "sha256").to_pylist()
    return size_N, np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def _places(data: pa.Array) -> pa.Array:
    sizes = [value.as_buffer().size if value.is_valid else 0 for value in data]
    digests = [
        sha256(value.as_buffer()).digest() if value.is_valid and size <= MAX_FILE_BYTES else bytes(32)
        for value, size in zip(data, sizes, strict=True)
    ]
    return pa.StructArray.from_arrays(
        [pa.array(sizes, pa.int64()), pa.array(digests, pa.binary(32))], fields=list(_PLACE)
    )


def _emptied(column: pa.Array) -> pa.Array:
    """Column of images with empty bytes in the place of theirs."""
    if not pa.types.is_struct(column.type):
        return _empty(column)
    fields = [column.type.field(i) for i in range(column.type.num_fields)]
    arrays = [
        _empty(pc.struct_field(column, f.name)) if f.name == "bytes" else pc.struct_field(column, f.name)
        for f in fields
    ]
    return pa.StructArray.from_arrays(arrays, fields=fields, mask=pc.is_null(column))


def _empty(data: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_valid(data), pa.scalar(b"", data.type), pa.scalar(None, data.type))
