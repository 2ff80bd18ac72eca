"""Requests that the server does not answer, with the status and the words that say why."""

from collections.abc import Mapping


class Refusal(Exception):  # noqa: N818 - it is the answer to a request, not a fault of the server
    """Request that is refused.

    Attributes:
        status: HTTP status.
        message: the reason, what is allowed, and what to do.
        headers: headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
