"""Exported PyTorch program, run once its file has been found to hold operations and numbers, and no code.

`torch.export.load` executes what a file says: pickled objects, Python expressions for the sizes of tensors, and any
function of PyTorch by its name. So a file is read only if it has nothing of these but what an export needs.
"""

import ast
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loupe.data.pixels.decode import UInt8Array
from loupe.errors import ExportRefusedError
from loupe.export.runners import Floats, refused

RECORDS = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|extra/\w+|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id)"
)
WORD = re.compile(r"[\w.:+\-]*", re.ASCII)
OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!save\b|from_file\b)\w+\.\w+|torch\.sym_(max|min|not|int|float)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|getitem|eq|ne|lt|le|gt|ge|and_|or_)",
    re.ASCII,
)
SYMBOL = re.compile(r"[a-z]+\d+", re.ASCII)
FUNCTION = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|(Python)?Mod|FloorDiv|CleanDiv|(Int|Float)TrueDiv|Max|Min|ToFloat"
    r"|(Ceil|Floor|Trunc)ToInt|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|(Strict)?(GreaterThan|LessThan)|And|Or|Not"
)
CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict"}
EXPRESSIONS = (
    ast.Expression, ast.Constant, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Load, ast.operator, ast.unaryop,
    ast.boolop, ast.cmpop, ast.Subscript,
)  # fmt: skip


class TorchProgram:
    """PyTorch on the CPU.

    Raises:
        ExportRefusedError: the file holds code, or this version of PyTorch cannot read it.
    """

    def __init__(self, model: Path) -> None:
        from torch.export.pt2_archive._package import load_pt2

        data = model.read_bytes()  # once, so that what is checked is what is loaded
        try:
            check_archive(data)
            self._program: Any = load_pt2(io.BytesIO(data)).exported_programs["model"].module()
        except ExportRefusedError as error:
            raise ExportRefusedError(f"{model}: {error}") from None
        except Exception as error:  # its reader raises classes of its own
            reason = " ".join(str(error).split())[:200]
            raise ExportRefusedError(f"{model}: PyTorch {torch.__version__} cannot read it ({reason}).") from None
        self.name = f"torch {torch.__version__}"

    def run(self, images: UInt8Array) -> tuple[Floats, UInt8Array]:
        try:
            with torch.no_grad():
                probabilities_NK, pixels_NHWC, *_ = self._program(
                    torch.from_numpy(np.require(images, None, ["C", "W"]))
                )
        except Exception as error:  # asserts of the program are errors of several classes
            raise refused(error) from None
        return probabilities_NK.numpy(), pixels_NHWC.numpy()


def check_archive(data: bytes) -> None:
    """Raise an ExportRefusedError unless an archive of `torch.export.save` can be loaded without executing code."""
    from torch.export.pt2_archive._package import PT2ArchiveReader

    archive = PT2ArchiveReader(io.BytesIO(data))  # the reader that loads it, as others may see other records
    for name in archive.get_file_names():
        if not RECORDS.fullmatch(name):
            raise ExportRefusedError(f"it has the record {name[:100]!r}, which exports of Loupe do not have.")
    for kind in ("weights", "constants"):
        config = json.loads(archive.read_string(f"data/{kind}/model_{kind}_config.json"))["config"]
        for name, stored in config.items():
            if not WORD.fullmatch(name) or stored["use_pickle"]:
                raise ExportRefusedError(f"its tensor {name[:100]!r} is pickled, and loading it would execute code.")
            if not re.fullmatch(r"(weight|tensor)_\d+", stored["path_name"]):
                raise ExportRefusedError(f"its constant {name[:100]!r} is no tensor.")
    try:
        torch.load(io.BytesIO(archive.read_bytes("data/sample_inputs/model.pt")), weights_only=True)
    except Exception:
        raise ExportRefusedError("its example is pickled, and loading it would execute code.") from None
    for key, text in _texts(json.loads(archive.read_string("models/model.json")), ""):
        if not _is_harmless(key, text):
            raise ExportRefusedError(f"it has the {key} {text[:100]!r}, which exports of Loupe do not have.")


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Texts of a JSON document with the keys that they stand under; also the keys themselves."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield "key", name
            yield from _texts(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, str):
        yield key, value


def _is_harmless(key: str, text: str) -> bool:
    """False for a text that PyTorch would execute, or that it would look a forbidden function up by."""
    if key in ("expr_str", "guards_code"):
        return _is_arithmetic(text)
    if key in ("in_spec", "out_spec"):
        return all(map(_is_plain, _containers(json.loads(text)[1]))) if text else True
    if key == "target":
        return OPERATOR.fullmatch(text) is not None
    return WORD.fullmatch(text) is not None


def _containers(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Containers of a description of inputs or outputs, from the outermost on."""
    yield tree
    for child in tree["children_spec"]:
        yield from _containers(child)


def _is_plain(container: dict[str, Any]) -> bool:
    """True for a known type whose context is nothing or a list of names: of objects, PyTorch imports the modules."""
    context = container.get("context")
    value = json.loads(context) if isinstance(context, str) else context
    names = value if isinstance(value, list) else []
    plain = value is None or isinstance(value, list)
    return (
        container["type"] in CONTAINERS
        and plain
        and all(isinstance(name, str) and WORD.fullmatch(name) is not None for name in names)
    )


def _is_arithmetic(text: str) -> bool:
    """True for an expression of sizes: whole numbers, symbols, operators and known functions."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError):
        return False
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    return all(_is_part_of_arithmetic(node, id(node) in called) for node in nodes)


def _is_part_of_arithmetic(node: ast.AST, is_called: bool) -> bool:
    if isinstance(node, ast.Name):
        return (
            FUNCTION.fullmatch(node.id) is not None
            if is_called
            else node.id == "L" or SYMBOL.fullmatch(node.id) is not None
        )
    if isinstance(node, ast.Attribute):  # L['images'].size()[1]
        return is_called and node.attr == "size"
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name | ast.Attribute)
    if isinstance(node, ast.keyword):
        return node.arg in ("positive", "nonnegative", "integer")
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return WORD.fullmatch(node.value) is not None
    return isinstance(node, EXPRESSIONS)
