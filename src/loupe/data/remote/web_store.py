"""Files of web servers: listed from one address, a range of numbers or an index page, and read by ranges of bytes."""

import http.client
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from email.message import Message
from functools import partial
from html.parser import HTMLParser
from typing import TypeVar
from urllib.parse import unquote, urljoin, urlsplit

from loupe.data.remote import checksums
from loupe.data.remote.address import Address
from loupe.data.remote.failures import AttemptError, RangeError, RemoteError
from loupe.data.remote.patterns import fixed_folder, is_flat, matches
from loupe.data.remote.redaction import redacted
from loupe.data.remote.retries import RetryPolicy, with_retries
from loupe.data.remote.store import Answer, RemoteObject
from loupe.data.remote.web_transport import Web

T = TypeVar("T")

LISTING_THREADS = 16
_PAGE_BYTES = 64 << 20


class WebStore:
    """Files at http and https addresses."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._web = Web(policy)
        self._policy = policy

    def listed(self, address: Address) -> list[RemoteObject]:
        expanded = address.expanded()
        if len(expanded) > 1:
            return self._all_described([url for each in expanded for url in self._urls(each)])
        return self._all_described(self._urls(address))

    def _all_described(self, urls: list[str]) -> list[RemoteObject]:
        """Files with their sizes and versions; a few requests at once, each repeated by itself."""
        if len(urls) <= 1:
            return [self._retried(url, lambda: self._described(urls[0])) for url in urls]
        with ThreadPoolExecutor(LISTING_THREADS, thread_name_prefix="loupe-listing") as pool:
            waiting = [pool.submit(self._retried, url, partial(self._described, url)) for url in urls]
            try:
                return [each.result() for each in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _retried(self, url: str, attempt: Callable[[], T]) -> T:
        return with_retries(url, attempt, self._policy)

    def _urls(self, address: Address) -> list[str]:
        if address.is_pattern:
            if not is_flat(address.path, address.wildcards):
                raise RemoteError(
                    address.url,
                    "wildcards in folders are not followed on web servers",
                    "Give wildcards in the last name only, or a range of numbers: {000..099}.",
                )
            found = self._retried(address.url, lambda: self._links(address))
            return [url for url in found if self._matches(url, address)]
        if address.path.endswith("/") or not address.path:
            return self._retried(address.url, lambda: self._links(address))
        return [address.url]

    def _matches(self, url: str, address: Address) -> bool:
        return matches(unquote(address.path), unquote(urlsplit(url).path.lstrip("/")))

    def _links(self, address: Address) -> list[str]:
        """Addresses of the files that the index page of a folder links to, with its credentials and query."""
        parts = urlsplit(address.url)
        folder = parts._replace(path="/" + fixed_folder(address.path, address.wildcards)).geturl()
        with self._web.get(folder, {}, redacted(folder)) as answer:
            kind = answer.headers.get_content_type()
            page = b"".join(_limited(self._web.chunks(answer, redacted(folder)), folder))
        if kind != "text/html":
            raise RemoteError(folder, f"the server gives no index page (but {kind})", "Name the files: {000..099}.")
        finder = _LinkFinder()
        finder.feed(page.decode("utf-8", "replace"))
        base = urlsplit(folder)
        found = set()
        for link in finder.links:
            try:
                target = urlsplit(urljoin(folder, link))
            except ValueError:
                continue
            same = (target.scheme, target.hostname, target.port) == (base.scheme, base.hostname, base.port)
            name = target.path.removeprefix(base.path)
            if same and target.path.startswith(base.path) and name and "/" not in name:
                found.add(base._replace(path=target.path, query=target.query or base.query).geturl())
        return sorted(found)

    def _described(self, url: str) -> RemoteObject:
        """File with its size and version, from a request for its first byte: a signed address permits no HEAD."""
        try:
            with self._web.get(url, {"Range": "bytes=0-0"}, redacted(url)) as answer:
                size, version = _size(answer), _version(answer.headers)
                checksum = checksums.of_headers(answer.headers, whole=answer.status == 200)
        except RangeError as error:
            if error.size != 0:
                raise
            size, version, checksum = 0, _version(error.headers), None
        if size is None:
            raise RemoteError(
                url, "the server does not say how long the file is", "Without its length a broken one is not noticed."
            )
        return RemoteObject(url, size, version, checksum)

    def open(self, remote: RemoteObject, start: int, stop: int) -> Answer:
        return opened(self._web, remote.url, {}, remote, start, stop)

    def confirmed(self, remote: RemoteObject) -> str | None:
        return None  # each answer names its version


def opened(
    web: Web, url: str, headers: Mapping[str, str], remote: RemoteObject, start: int, stop: int, tagged: bool = True
) -> Answer:
    """Bytes from `start` up to `stop` of a file at a URL, once the answer is known to be of the file that was listed.

    Args:
        web: client.
        url, headers: of the request.
        remote: file as it was listed.
        start, stop: range of bytes.
        tagged: the version of the file is the entity tag of its answers.

    Raises:
        ChangedError: the version is another one.
        AttemptError: the range is another one, or the size, or the body is compressed.
    """
    headers = dict(headers)
    if start > 0 or stop < remote.size:
        headers["Range"] = f"bytes={start}-{stop - 1}"
    if start > 0 and tagged and remote.version is not None and remote.version.startswith('"'):
        headers["If-Range"] = remote.version
    with ExitStack() as stack:
        answer = stack.enter_context(web.get(url, headers, remote.shown))
        version = _version(answer.headers)
        if tagged and remote.version is not None and version is not None and version != remote.version:
            raise remote.changed("it was replaced since it was listed (its version is another one)")
        skipped = _bytes_before(answer, remote, start)
        checksum = checksums.of_headers(answer.headers, whole=answer.status == 200)
        body = _owned(stack.pop_all(), web.chunks(answer, remote.shown), skipped)
    return Answer(body, checksum)


def _bytes_before(answer: http.client.HTTPResponse, remote: RemoteObject, start: int) -> int:
    """Number of bytes in the answer before byte `start` of the file: a server may ignore ranges."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise AttemptError("the server sends it compressed although that was not asked for")
    size = _size(answer)
    if size is not None and size != remote.size:
        raise AttemptError(f"the server sends a file of {size:,} bytes in place of {remote.size:,}")
    if answer.status != 206:
        return start
    first = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    if not first or int(first[1]) != start:
        raise AttemptError(f"the server sends other bytes of the file than those from {start:,} on")
    return 0


def _owned(stack: ExitStack, chunks: Iterator[bytes], skipped: int) -> Iterator[bytes]:
    """Chunks without the first `skipped` bytes, of a server that ignores ranges; the answer is closed at the end."""
    with stack:
        for chunk in chunks:
            if skipped >= len(chunk):
                skipped -= len(chunk)
                continue
            yield chunk[skipped:]
            skipped = 0


def _size(answer: http.client.HTTPResponse) -> int | None:
    """Size of the whole file."""
    if answer.status == 206:
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        return int(total) if total.isdecimal() else None
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _version(headers: Message) -> str | None:
    tag = headers.get("ETag")
    changed = headers.get("Last-Modified")
    return tag or (f"modified {changed}" if changed else None)


def _limited(chunks: Iterator[bytes], url: str) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > _PAGE_BYTES:
            raise RemoteError(url, "the index page is longer than 64 MiB", "Name the files: {000..099}.")
        yield chunk


class _LinkFinder(HTMLParser):
    """Targets of the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]
