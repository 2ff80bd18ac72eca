"""Image formats: their file suffixes, how each is recognised by content, and what decodes it here.

The one list of formats, for every source and for the decoder. Some need a library that may be missing (AVIF in Pillow,
pillow-heif for HEIF); others are recognised only so that their files are reported and not lost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec

from PIL import ImageFile, features

SIGNATURE_BYTES = 64
"""Bytes at the start of a file that `sniff` needs."""

CONVERT = "Convert them to PNG or JPEG."


@dataclass(frozen=True)
class Format:
    """Image format.

    Attributes:
        suffixes: file suffixes, lower case.
        accepts: true for the first bytes of a file of this format; None for a format known by suffix alone.
        reader: module and class of the decoder; None for a format that Loupe does not decode.
        feature: feature of Pillow that the decoder needs.
        remedy: advice where there is no decoder, one sentence.
    """

    suffixes: tuple[str, ...]
    accepts: Callable[[bytes], bool] | None = None
    reader: tuple[str, str] | None = None
    feature: str | None = None
    remedy: str = CONVERT

    @property
    def is_readable(self) -> bool:
        """True if the decoder is installed."""
        if self.reader is None or (self.feature and not features.check(self.feature)):
            return False
        return find_spec(self.reader[0].partition(".")[0]) is not None


def _starts(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(signatures)


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _has_brand(*brands: bytes) -> Callable[[bytes], bool]:
    """Check of an ISO media file's brands: the major one first, then the compatible ones."""

    def accepts(head: bytes) -> bool:
        if head[4:8] != b"ftyp":
            return False
        end = min(int.from_bytes(head[:4], "big"), len(head))
        found = [head[8:12], *(head[start : start + 4] for start in range(16, end, 4))]
        return next((brand in brands for brand in found if brand in _BRANDS), False)

    return accepts


_AVIF_BRANDS = (b"avif", b"avis")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"heif")
_BRANDS = (*_AVIF_BRANDS, *_HEIF_BRANDS)


def _is_pnm(head: bytes) -> bool:
    return head[:1] == b"P" and head[1:2] in b"123456f" and head[2:3].isspace()


def _is_pcx(head: bytes) -> bool:
    return len(head) > 3 and head[0] == 10 and head[1] in (0, 2, 3, 5) and head[2] == 1 and head[3] in (1, 2, 4, 8)


def _is_sgi(head: bytes) -> bool:
    return head[:2] == b"\x01\xda" and len(head) > 3 and head[2] in (0, 1) and head[3] in (1, 2)


def _is_tga(head: bytes) -> bool:
    """A plausible header of 18 bytes: Targa has no signature at its start."""
    if len(head) < 18 or head[1] > 1 or head[2] not in (1, 2, 3, 9, 10, 11) or head[16] not in (8, 15, 16, 24, 32):
        return False
    has_map, wants_map = head[1] == 1, head[2] in (1, 9)
    map_fits = head[7] in (15, 16, 24, 32) if has_map else not any(head[3:8])
    return has_map >= wants_map and map_fits and any(head[12:14]) and any(head[14:16]) and not head[17] & 0xC0


FORMATS: dict[str, Format] = {
    "JPEG": Format(
        (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
        _starts(b"\xff\xd8\xff"),
        ("PIL.JpegImagePlugin", "JpegImageFile"),
    ),
    "PNG": Format((".png", ".apng"), _starts(b"\x89PNG\r\n\x1a\n"), ("PIL.PngImagePlugin", "PngImageFile")),
    "WebP": Format((".webp",), _is_webp, ("PIL.WebPImagePlugin", "WebPImageFile")),
    "BMP": Format((".bmp", ".dib"), _starts(b"BM"), ("PIL.BmpImagePlugin", "BmpImageFile")),
    "GIF": Format((".gif",), _starts(b"GIF87a", b"GIF89a"), ("PIL.GifImagePlugin", "GifImageFile")),
    "TIFF": Format(
        (".tif", ".tiff"), _starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), ("PIL.TiffImagePlugin", "TiffImageFile")
    ),
    "AVIF": Format(
        (".avif", ".avifs"),
        _has_brand(*_AVIF_BRANDS),
        ("PIL.AvifImagePlugin", "AvifImageFile"),
        feature="avif",
        remedy="Pillow 11.3 and later read them: pip install --upgrade pillow.",
    ),
    "HEIF": Format(
        (".heic", ".heif", ".hif", ".heics", ".heifs"),
        _has_brand(*_HEIF_BRANDS),
        ("pillow_heif", "HeifImageFile"),
        remedy="pillow-heif reads them: pip install 'loupe-vision[heif]'.",
    ),
    "JPEG 2000": Format(
        (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        _starts(b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"),
        ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
        feature="jpg_2000",
    ),
    "PNM": Format((".ppm", ".pgm", ".pbm", ".pnm"), _is_pnm, ("PIL.PpmImagePlugin", "PpmImageFile")),
    "QOI": Format((".qoi",), _starts(b"qoif"), ("PIL.QoiImagePlugin", "QoiImageFile")),
    "PCX": Format((".pcx",), _is_pcx, ("PIL.PcxImagePlugin", "PcxImageFile")),
    "SGI": Format((".sgi", ".rgb", ".bw"), _is_sgi, ("PIL.SgiImagePlugin", "SgiImageFile")),
    "DDS": Format((".dds",), _starts(b"DDS "), ("PIL.DdsImagePlugin", "DdsImageFile")),
    "JPEG XL": Format((".jxl",), _starts(b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")),
    "JPEG XR": Format((".jxr", ".wdp", ".hdp"), _starts(b"II\xbc")),
    "JPEG LS": Format((".jls",)),
    "OpenEXR": Format((".exr",), _starts(b"\x76\x2f\x31\x01")),
    "Radiance HDR": Format((".hdr",), _starts(b"#?RADIANCE", b"#?RGBE")),
    "DICOM": Format((".dcm", ".dicom")),
    "NIfTI": Format((".nii",)),
    "FITS": Format((".fits", ".fit"), _starts(b"SIMPLE  =")),
    "camera raw": Format(
        (".dng", ".cr2", ".cr3", ".crw", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pef", ".srw", ".raw")
    ),
    "Photoshop": Format((".psd", ".psb"), _starts(b"8BPS")),
    "GIMP": Format((".xcf",), _starts(b"gimp xcf")),
    "PAM": Format((".pam", ".pfm"), _starts(b"P7\n")),
    "XPM or XBM": Format((".xpm", ".xbm")),
    "NumPy": Format((".npy",), _starts(b"\x93NUMPY"), remedy="Convert them to PNG, or give the arrays in Python."),
    # Last, because it has no signature.
    "TGA": Format((".tga", ".targa"), _is_tga, ("PIL.TgaImagePlugin", "TgaImageFile")),
}


@cache
def _by_suffix() -> dict[str, str]:
    return {suffix: name for name, known in FORMATS.items() for suffix in known.suffixes}


def format_of_suffix(suffix: str) -> str | None:
    """Name of the format of a lower-case suffix; None for other files."""
    return _by_suffix().get(suffix)


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the formats that can be decoded here."""
    return frozenset(suffix for known in FORMATS.values() if known.is_readable for suffix in known.suffixes)


def sniff(data: bytes) -> str | None:
    """Name of the format by the first bytes; None if it is not known."""
    head = data[:SIGNATURE_BYTES]
    return next((name for name, known in FORMATS.items() if known.accepts and known.accepts(head)), None)


@cache
def reader_of(name: str) -> type[ImageFile.ImageFile] | None:
    """Image class that decodes a format; None where it is not installed.

    Image classes are used instead of Image.open, whose limits are process globals, whose warnings reach other threads,
    and which takes twice as long.
    """
    known = FORMATS[name]
    if known.reader is None or not known.is_readable:
        return None
    module, kind = known.reader
    reader: type[ImageFile.ImageFile] = getattr(import_module(module), kind)
    return reader


def readable_names() -> list[str]:
    """Names of the formats that can be decoded here."""
    return [name for name, known in FORMATS.items() if known.is_readable]
