"""Failures of a store of remote files: the error for the user, and those that a store raises for one attempt."""

from email.message import Message

from loupe.data.remote.redaction import redacted
from loupe.errors import DataError, sentences


class RemoteError(DataError):
    """Remote file or folder that cannot be read.

    Attributes:
        url: address without credentials.
        reason: what happened, as a clause.
        remedy: sentences for the user.
        attempts: number of requests that were made.
    """

    def __init__(self, url: str, reason: str, remedy: str = "", attempts: int = 0) -> None:
        self.url = redacted(url)
        self.reason = reason
        self.remedy = remedy
        self.attempts = attempts
        tried = f" ({attempts} attempts)" if attempts > 1 else ""
        super().__init__(sentences(f"{self.url}: {reason}{tried}", remedy))

    def __reduce__(self) -> tuple[type["RemoteError"], tuple[str, str, str, int]]:
        return type(self), (self.url, self.reason, self.remedy, self.attempts)


class ChangedError(RemoteError):
    """Remote file that is no longer the one that was listed."""


class MissingError(RemoteError):
    """Remote file or folder that does not exist."""


class RefusedError(RemoteError):
    """Remote file or folder that may not be read; some stores say so of files that do not exist."""


class AttemptError(Exception):
    """Failure of one attempt that another attempt may mend; the message is the reason.

    Attributes:
        pause_seconds: time that the store asks to wait.
    """

    def __init__(self, reason: str, pause_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_seconds = pause_seconds


class RangeError(AttemptError):
    """Range of bytes that lies behind the end of a file, with the size and the headers that the server gave."""

    def __init__(self, size: int | None, headers: Message) -> None:
        super().__init__("the server says that the file is shorter than it was when it was listed")
        self.size = size
        self.headers = headers
