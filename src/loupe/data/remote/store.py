"""Remote file as a value, and the interface of the stores that hold such files."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from loupe.data.remote.address import Address
from loupe.data.remote.failures import ChangedError
from loupe.data.remote.redaction import redacted

WEAK = ("W/", "modified ")  # versions that may stay the same although bytes changed


@dataclass(frozen=True)
class RemoteObject:
    """Remote file as it was listed.

    Attributes:
        url: address for requests; may hold credentials, and is therefore no part of messages, records and `repr`.
        size: size in bytes.
        version: text of the store that changes with the content: entity tag, SHA-256, blob or generation. None if the
            store gives none: then a file that was replaced by another of the same size is not noticed.
        checksum: checksum of the whole file where the listing gives one, as `sha256:…`; see `checksums`.
    """

    url: str = field(repr=False)
    size: int
    version: str | None
    checksum: str | None = None

    @property
    def shown(self) -> str:
        """Address without credentials, for messages, records and file names."""
        return redacted(self.url)

    @property
    def resumable(self) -> bool:
        """True if a read that broke off can go on in the middle without mixing two contents."""
        strong = self.version is not None and not self.version.startswith(WEAK)
        return strong or self.checksum is not None

    def changed(self, reason: str) -> ChangedError:
        """Error for a file that is not the one that was listed."""
        remedy = "Nothing of it is kept. Start again, so that the files are listed anew."
        return ChangedError(self.url, reason, remedy)


@dataclass(frozen=True)
class Answer:
    """Bytes of one request, from the first one asked for, and the checksum of the whole file if the answer has one."""

    chunks: Iterator[bytes]
    checksum: str | None = None


class Store(Protocol):
    """Kind of store.

    `listed` repeats its requests by itself. The other methods make one attempt; they raise an AttemptError where
    another one may succeed, and a RemoteError where it cannot.
    """

    def listed(self, address: Address) -> list[RemoteObject]:
        """Files at an address: one file, those of a folder and its folders, or those that match a pattern."""

    def open(self, remote: RemoteObject, start: int, stop: int) -> Answer:
        """Bytes from `start` up to `stop` of a file, in one attempt."""

    def confirmed(self, remote: RemoteObject) -> str | None:
        """Checksum of the whole file, if the store gives one, once it is certain that the file is still the same."""
