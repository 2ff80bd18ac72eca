"""Bodies of requests, read within limits of bytes, images and seconds, and held in memory alone."""

import asyncio
import logging
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from loupe.errors import counted
from loupe.serve.held import Share
from loupe.serve.limits import Limits, mib
from loupe.serve.refusals import Refusal

PIECE_BYTES = 16 * 1024  # parsed in one go: a hostile form takes about 0.2 ms a KiB, a common one 0.001
PIECE_SECONDS = 0.001  # after a piece that took longer, other requests have their turn
MOST_NAME_CHARACTERS = 255
MOST_FIELDS = 16
MOST_PART_HEADERS = 8
MOST_PART_HEADER_BYTES = 4096
LONGEST_BOUNDARY = 70  # RFC 2046
HOW_TO_SEND = (
    "Send images as multipart/form-data (curl: -F image=@photo.jpg), or one as image/jpeg, image/png, ... or "
    "application/octet-stream (curl: -H 'Content-Type: image/jpeg' --data-binary @photo.jpg)."
)
_BIDIRECTIONAL = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
_SILENT = logging.Logger("silent", logging.CRITICAL)  # a parser that warns of each damaged body would fill the log


@dataclass(frozen=True)
class Upload:
    """Image file of a request.

    Attributes:
        name: file name as sent, without control characters; it is not to be trusted.
        data: content of the file.
    """

    name: str
    data: bytes


async def read_body(request: Request, limits: Limits, share: Share) -> bytes:
    """Body of a request.

    Raises:
        Refusal: it is empty, too large or sent too slowly, or there is no room for it.
        starlette.requests.ClientDisconnect: the client has gone.
    """
    body = BytesIO()
    await _receive(request, limits, share, body.write)
    return body.getvalue()  # shares the bytes, without a copy


async def read_images(request: Request, limits: Limits, share: Share) -> list[Upload]:
    """Image files of a request: the parts of multipart/form-data that have a file name, or the whole body.

    A field without a file name is refused, unless it is empty. A part with neither file name nor content, as browsers
    send for a choice of no file, is left out. The content of the files is not looked at.

    Raises:
        Refusal: as for `read_body`; or the body is of another type, damaged, or has no image or too many.
        starlette.requests.ClientDisconnect: the client has gone.
    """
    text = request.headers.get("content-type", "")
    kind, options = parse_options_header(text)
    media_type = kind.lower()
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "the body is compressed (Content-Encoding). Send images as they are.")
    if media_type == b"multipart/form-data":
        form = Form(_boundary(options), limits.images)
        await _receive(request, limits, share, form.write)
        return form.uploads()
    if media_type.startswith(b"image/") or media_type == b"application/octet-stream":
        disposition = parse_options_header(request.headers.get("content-disposition"))[1]
        name = file_name(disposition.get(b"filename", b""))
        return [Upload(name or "image", await read_body(request, limits, share))]
    problem = f"Content-Type {file_name(text.encode())}" if text else "a body without Content-Type"
    raise Refusal(415, f"{problem}: this is no image. {HOW_TO_SEND}")


def file_name(raw: bytes) -> str:
    """Untrusted name as text: no control characters, no marks that turn the direction of writing, 255 characters."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return "".join(sign for sign in text if not _is_control(sign))[:MOST_NAME_CHARACTERS]


def _is_control(sign: str) -> bool:
    return unicodedata.category(sign) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(sign) in _BIDIRECTIONAL


async def _receive(request: Request, limits: Limits, share: Share, write: Callable[[bytes], object]) -> None:
    """Hand the body of a request on, piece by piece as it comes."""
    declared = _declared_bytes(request)
    if declared > limits.body_bytes:
        raise _too_large(limits)
    share.check(declared)
    received = 0
    try:
        async with asyncio.timeout(limits.send_seconds):
            async for chunk in request.stream():
                received += len(chunk)
                if received > limits.body_bytes:
                    raise _too_large(limits)
                share.take(len(chunk))
                for start in range(0, len(chunk), PIECE_BYTES):
                    began = time.perf_counter()
                    write(chunk[start : start + PIECE_BYTES])
                    if time.perf_counter() - began > PIECE_SECONDS:
                        await asyncio.sleep(0)
    except TimeoutError:
        message = f"the body had not arrived after {limits.send_seconds:g} s. Send fewer or smaller images at a time."
        raise Refusal(408, message) from None
    if not received:
        raise Refusal(400, f"the request has no body. {HOW_TO_SEND}")


def _declared_bytes(request: Request) -> int:
    """Content-Length of a request, 0 without one."""
    text = request.headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()):
        raise Refusal(400, "Content-Length is no number of bytes.")
    return int(text[:20])


def _too_large(limits: Limits) -> Refusal:
    message = f"the body is larger than {mib(limits.body_bytes)}. Send fewer or smaller images at a time."
    return Refusal(413, message)


def _boundary(options: dict[bytes, bytes]) -> bytes:
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= LONGEST_BOUNDARY:
        message = f"multipart/form-data needs a boundary of 1 to {LONGEST_BOUNDARY} characters in its Content-Type."
        raise Refusal(400, message)
    return boundary


class Form:
    """Files of a multipart body, which is written piece by piece.

    Args:
        boundary: text between the parts.
        most_images: number of files allowed.
    """

    def __init__(self, boundary: bytes, most_images: int) -> None:
        self._most_images = most_images
        self._uploads: list[Upload] = []
        self._fields = 0
        self._is_complete = False
        self._begin_part()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )
        self._parser.logger = _SILENT

    def write(self, data: bytes) -> None:
        """Take the next piece of the body.

        Raises:
            Refusal: the body is damaged, or has too many images or a field that is no image.
        """
        try:
            self._parser.write(data)
        except FormParserError:
            raise _damaged("it does not follow the rules of multipart/form-data") from None

    def uploads(self) -> list[Upload]:
        """Files of the body, which has been written whole.

        Raises:
            Refusal: it ends early, or has no file.
        """
        if not self._is_complete:
            raise _damaged("it ends before its last boundary")
        if not self._uploads:
            raise Refusal(400, f"the request has no image. {HOW_TO_SEND}")
        return self._uploads

    def _begin_part(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._name = b""
        self._value = b""
        self._content = BytesIO()
        self._field_name = ""
        self._file_name: str | None = None

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._value += data[start:end]

    def _count_header(self, count: int) -> None:
        self._header_bytes += count
        if self._header_bytes > MOST_PART_HEADER_BYTES:
            raise _damaged(f"a part has more than {MOST_PART_HEADER_BYTES} bytes of headers")

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""
        if len(self._headers) > MOST_PART_HEADERS:
            raise _damaged(f"a part has more than {MOST_PART_HEADERS} headers")

    def _end_headers(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition"))
        if disposition.lower() != b"form-data" or b"name" not in options:
            raise _damaged('a part has no header Content-Disposition: form-data; name="..."')
        self._field_name = file_name(options[b"name"])
        if b"filename" in options:
            self._file_name = file_name(options[b"filename"])

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file_name is None:
            raise Refusal(
                400,
                f"the field {self._field_name!r} has no file name, so it is no image. Send images as files (curl: -F "
                "image=@photo.jpg), and settings in the address (?top=3).",
            )
        self._content.write(data[start:end])

    def _end_part(self) -> None:
        content = self._content.getvalue()
        if not self._file_name and not content:
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise _damaged(f"it has more than {MOST_FIELDS} empty fields")
            return
        if len(self._uploads) == self._most_images:
            limit = counted(self._most_images, "image")
            message = f"the request has more than {limit}. Send at most {limit} at a time."
            raise Refusal(413, message, reason="images")
        self._uploads.append(Upload(self._file_name or "image", content))

    def _end(self) -> None:
        self._is_complete = True


def _damaged(reason: str) -> Refusal:
    return Refusal(400, f"the multipart body is damaged: {reason}.")
