"""Budget of bytes for the bodies of all requests that are held at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

from loupe.serve.limits import mib
from loupe.serve.refusals import Refusal


class Held:
    """Budget of bytes for the bodies of all requests together.

    Each request takes from it what it has received, and gives all of it back at its end:

        with held.share() as share:
            uploads = await read_images(request, limits, share)
            ...  # until the images are no longer needed
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """Share of one request."""
        share = Share(self)
        try:
            yield share
        finally:
            self.bytes -= share.bytes


class Share:
    """Bytes of the budget that are held for one request."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self.bytes = 0

    def check(self, count: int) -> None:
        """Refuse a request for whose bytes there is no room.

        Raises:
            Refusal: the bodies of all requests would take more than the budget.
        """
        limit = self._held.limit_bytes
        if self._held.bytes + count > limit:
            message = f"the server is busy: it holds requests of up to {mib(limit)} at a time. Send it again later."
            raise Refusal(429, message, {"Retry-After": "1"}, reason="held")

    def take(self, count: int) -> None:
        """Take bytes from the budget.

        Raises:
            Refusal: as for `check`.
        """
        self.check(count)
        self.bytes += count
        self._held.bytes += count
