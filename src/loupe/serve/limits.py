"""Limits of the server: bytes, images and seconds of requests, and how much may wait."""

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of requests. The pixels of an image are limited by the decoder (`data.pixels.limits`).

    Attributes:
        body_bytes: size of the body of a request.
        held_bytes: size of the bodies of all requests together that are held at a time.
        images: number of images in a request.
        queue_images: number of images that wait for each model.
        deadline_seconds: time from the first byte of a request to its answer, unless the request says another.
        send_seconds: time in which a request has to be sent.
    """

    body_bytes: int = 32 * MIB
    held_bytes: int = 256 * MIB
    images: int = 64
    queue_images: int = 128
    deadline_seconds: float = 30.0
    send_seconds: float = 15.0


def mib(count: int) -> str:
    """Number of bytes as text: `32 MiB`."""
    return f"{count / MIB:,.4g} MiB"
