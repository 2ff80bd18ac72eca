"""Requests that the server does not answer, with the status and the words that say why."""

from collections.abc import Mapping

REASONS = {400: "input", 404: "model", 408: "slow", 413: "body", 415: "input", 429: "queue", 504: "deadline"}


class Refusal(Exception):  # noqa: N818 - it is the answer to a request, not a fault of the server
    """Request that is refused.

    Attributes:
        status: HTTP status.
        message: the reason, what is allowed, and what to do.
        headers: headers of the answer.
        reason: name for metrics; by default that of the status.
    """

    def __init__(
        self, status: int, message: str, headers: Mapping[str, str] | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        self.reason = reason or REASONS.get(status, "other")
