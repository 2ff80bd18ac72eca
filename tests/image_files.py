"""Small image files of several kinds, and damaged ones made from them."""

import io

import numpy as np
from PIL import Image


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    """A smooth image: what lies where can be told from its colours, and resampling changes little."""
    x_HW, y_HW = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x_HW, y_HW, (x_HW + y_HW) / 2], axis=2).round().astype(np.uint8))


FILES = {
    "JPEG": encode(gradient(96, 80), "JPEG"),
    "progressive": encode(gradient(96, 80), "JPEG", progressive=True),
    "CMYK": encode(gradient(96, 80).convert("CMYK"), "JPEG"),
    "PNG": encode(gradient(96, 80), "PNG"),
    "palette": encode(gradient(96, 80).quantize(64), "PNG"),
    "WebP": encode(gradient(96, 80), "WebP"),
    "BMP": encode(gradient(96, 80), "BMP"),
    "GIF": encode(gradient(96, 80).quantize(64), "GIF"),
    "TIFF": encode(gradient(96, 80), "TIFF"),
    "LZW": encode(gradient(96, 80), "TIFF", compression="tiff_lzw"),
}


NO_IMAGES = {
    "empty": b"",
    "text": b"hello, this is text",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "PDF": b"%PDF-1.4",
    "PNG alone": b"\x89PNG\r\n\x1a\n",
    "JPEG alone": b"\xff\xd8\xff\xe0",
    "ELF": b"\x7fELF" + bytes(60),
    "pickle": b"\x80\x04\x95",
}


CUT_OFF = (0.02, 0.3, 0.6, 0.9)  # shares that are kept


def cut_off() -> dict[str, bytes]:
    """Files of which the end is missing."""
    return {
        f"{name} {kept:.0%}": data[: int(kept * len(data))]
        for name, data in FILES.items()
        for kept in (0.02, 0.3, 0.6, 0.9)
    }


def changed(each: int, seed: int = 0) -> dict[str, bytes]:
    """Files of which some bytes have other values, mostly in their headers; some of them can be decoded."""
    random = np.random.default_rng(seed)
    files = {}
    for name, intact in FILES.items():
        for number in range(each):
            data = bytearray(intact)
            reach = min(len(data), int(random.choice([64, 700, len(data)])))
            for _ in range(random.integers(1, 12)):
                data[random.integers(reach)] = random.integers(256)
            files[f"{name} changed {number}"] = bytes(data)
    return files
