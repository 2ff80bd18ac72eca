"""Folder of an exported model: its files, their hashes, and what opens it again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from loupe.config.base import Positive
from loupe.config.recipe import Preprocessing
from loupe.errors import ConfigError, ExportRefusedError
from loupe.models.bundle_config import content_digest
from loupe.records import OsText, Record

MODELS = frozenset({".onnx", ".pt2", ".xml"})  # files that an engine here opens
MANIFEST, PARITY, CARD = "export.json", "parity.json", "card.md"


class Manifest(Record):
    """Content of export.json.

    Attributes:
        target: target of the export.
        precision: precision of the exported weights and operations.
        model: name of the file that an engine opens; None where no engine here does.
        files: BLAKE2b hash of each file of the model by its name.
        temperature: divisor of the logits, which is part of the exported model.
        threshold: probability below which the page says `unclassified`; None for no threshold, and without a page.
        run: name of the run.
        weights_blake2b: hash of the weights of the run.
        loupe: version that exported the model.
    """

    SCHEMA: ClassVar[int] = 1
    REMEDY: ClassVar[str] = "Export the run again."

    target: str
    precision: str
    model: str | None
    files: dict[str, str]
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    preprocessing: Preprocessing
    temperature: Positive
    threshold: float | None = None
    run: OsText
    weights_blake2b: str
    loupe: str


def hashes(folder: Path) -> dict[str, str]:
    """BLAKE2b hash of every file in a folder by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): content_digest(path.read_bytes()) for path in files}


def is_export(path: Path) -> bool:
    """True for the folder of an exported model."""
    return (path / MANIFEST).is_file()


def open_manifest(folder: Path) -> Manifest:
    """Manifest of an export folder, once its files have been checked.

    Raises:
        RecordError: export.json is missing or damaged.
        ExportRefusedError: a file is missing, or was changed after the export, or reads data from other files.
        ConfigError: nothing here runs models of this target.
    """
    manifest = Manifest.read(folder / MANIFEST)
    if manifest.model is None:
        raise ConfigError(f"{folder}: an export for {manifest.target} is not run by Loupe. Give the run itself.")
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ExportRefusedError(f"{folder / MANIFEST} names a file outside its folder: {name}.")
        try:
            found = content_digest(path.read_bytes())
        except OSError as error:
            raise ExportRefusedError(f"{path}: cannot be read ({error.strerror}). {Manifest.REMEDY}") from None
        if found != expected:
            raise ExportRefusedError(f"{path} was changed after its export. {Manifest.REMEDY}")
    if manifest.model not in manifest.files or Path(manifest.model).suffix not in MODELS:
        raise ExportRefusedError(f"{folder / MANIFEST} has no hash of a model ({manifest.model}). {Manifest.REMEDY}")
    if manifest.model.endswith(".onnx"):
        _check_self_contained(folder / manifest.model)
    return manifest


def _check_self_contained(path: Path) -> None:
    """Raise an ExportRefusedError if an ONNX file reads weights from other files."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise ConfigError("this needs the package onnx: pip install onnx") from None
    try:
        tensors = _tensors(onnx.load(path, load_external_data=False), onnx.TensorProto)
        is_external = any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors)
    except DecodeError:
        raise ExportRefusedError(f"{path} is not an ONNX file. {Manifest.REMEDY}") from None
    if is_external:
        raise ExportRefusedError(f"{path} reads weights from other files. {Manifest.REMEDY}")


def _tensors(message: Any, kind: type) -> Iterator[Any]:
    """Tensors anywhere in a message: initializers, attributes of operators, inner graphs, functions."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(item, kind)
