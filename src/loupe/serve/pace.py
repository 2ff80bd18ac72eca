"""Time that a busy server takes for an image, decoding and network together, as measured lately."""

MEMORY = 0.98  # weight of what was before an image, so that about the last fifty count


class Pace:
    """Mean time between answers while there is work; 0 until the first answer."""

    def __init__(self) -> None:
        self._seconds = self._images = 0.0
        self._since = 0.0

    @property
    def each_seconds(self) -> float:
        """Time for one more image."""
        return self._seconds / self._images if self._images else 0.0

    def begin(self, now: float) -> None:
        """Begin to work after idling."""
        self._since = now

    def answered(self, images: int, now: float) -> None:
        """Count images that were answered, since the last ones or since the work began."""
        kept = MEMORY**images
        self._seconds = kept * self._seconds + (now - self._since)
        self._images = kept * self._images + images
        self._since = now
