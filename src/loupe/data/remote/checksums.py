"""Checksums that stores publish for whole files, as the name of the algorithm and hexadecimal digits: `sha256:…`."""

import base64
import binascii
import hashlib
import zlib
from email.message import Message
from typing import BinaryIO

_BLOCK_BYTES = 1 << 20
_LENGTHS = {"sha256": 32, "sha1": 20, "md5": 16, "crc32": 4}  # strongest first; bytes of a digest


def of_base64(algorithm: str, value: str | bytes | None) -> str | None:
    """Checksum from its form in headers; None if it is no digest of that algorithm."""
    try:
        digest = base64.b64decode(value, validate=True) if value else b""
    except (binascii.Error, ValueError):
        return None
    return f"{algorithm}:{digest.hex()}" if len(digest) == _LENGTHS[algorithm] else None


def of_headers(headers: Message, *, whole: bool) -> str | None:
    """Checksum of the whole file that the headers of an answer give; None if they give none.

    Args:
        headers: headers of the answer.
        whole: the answer holds the whole file, so that Content-MD5 is its checksum and not that of a range.
    """
    google = dict(part.strip().partition("=")[::2] for part in headers.get("x-goog-hash", "").split(","))
    composite = headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT"
    amazon = {} if composite or not whole else {name: headers.get(f"x-amz-checksum-{name}") for name in _LENGTHS}
    found = {**amazon, "md5": google.get("md5") or (headers.get("content-md5") if whole else None)}
    checks = (of_base64(name, found.get(name)) for name in _LENGTHS)
    return next((check for check in checks if check), None)


def of_file(file: BinaryIO, algorithm: str, size: int) -> str:
    """Checksum of a file from its beginning, by sha256, sha1, md5, crc32 or git-sha1 (the name of a blob in Git)."""
    file.seek(0)
    if algorithm == "crc32":
        value = 0
        while block := file.read(_BLOCK_BYTES):
            value = zlib.crc32(block, value)
        return f"crc32:{value:08x}"
    hasher = hashlib.new("sha1" if algorithm == "git-sha1" else algorithm, usedforsecurity=algorithm == "sha256")
    if algorithm == "git-sha1":
        hasher.update(b"blob %d\0" % size)
    while block := file.read(_BLOCK_BYTES):
        hasher.update(block)
    return f"{algorithm}:{hasher.hexdigest()}"
