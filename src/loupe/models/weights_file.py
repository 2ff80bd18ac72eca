"""File of weights (safetensors), read once it is known to be the one that its config describes."""

from pathlib import Path

import safetensors.torch
from torch import Tensor

from loupe.errors import RunStateError
from loupe.models.bundle_config import CONFIG, content_digest


def read(file: Path, digest: str, remedy: str) -> dict[str, Tensor]:
    """Tensors of a file by name.

    Args:
        digest: hash of the file, as its config states it.
        remedy: sentence that says what to do with a damaged file.

    Raises:
        RunStateError: it cannot be read, is damaged, or does not belong to its config.
    """
    try:
        weights = file.read_bytes()
    except OSError as error:
        raise RunStateError(
            f"{error.filename}: cannot be read ({error.strerror}). Check that the training was finished."
        ) from None
    if content_digest(weights) != digest:
        raise RunStateError(
            f"{file.parent}: {file.name} is damaged, or does not belong to {CONFIG}. Restore both files."
        )
    try:
        return safetensors.torch.load(weights)
    except Exception as error:  # for other files, the reader raises various errors
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise RunStateError(f"{file}: not a safetensors file ({reason}). {remedy}") from None
