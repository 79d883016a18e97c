"""What a file is by its first bytes, and the errors that every kind of image has."""

from __future__ import annotations

import struct
from pathlib import Path

from histo.errors import HistoError
from histo.files.limits import IMAGE_PIXELS

RESAVE = "re-save it as an 8-bit RGB TIF or PNG"
"""The way out of everything that is whole and cannot be read."""
PNG = b"\x89PNG\r\n\x1a\n"
STARTS = (
    (b"\xff\xd8\xff", "jpeg"),
    (PNG, "png"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"BM", "bmp"),
)
FOREIGN = (
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL file"),
    (0, b"\xff\x0a", "a JPEG XL file"),
    (0, b"GIF8", "a GIF"),
    (0, b"%PDF", "a PDF"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (4, b"ftypavif", "an AVIF file"),
    (4, b"ftyphei", "a HEIC file"),
    (128, b"DICM", "a DICOM file"),
)
"""Where, which bytes, and what such a file is called."""


def kind_of(data: bytes) -> str:
    """`tiff`, `png`, `jpeg`, `bmp` or `webp` by the first bytes, else nothing."""
    for start, kind in STARTS:
        if data.startswith(start):
            return kind
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def foreign(data: bytes, path: Path) -> HistoError:
    """The error for a file of no kind that is read; it names the kind where that is known."""
    said = f"{path} is not a TIF, PNG or JPEG image, nor a BMP or WebP"
    for at, start, name in FOREIGN:
        if data[at:].startswith(start):
            return HistoError(f"{said}: it is {name}", RESAVE)
    return HistoError(said)


def damaged(path: Path, why: str) -> HistoError:
    """The error for a file that is not whole."""
    return HistoError(f"{path} is truncated or damaged: {why}")


def check_pixels(width: int, height: int, path: Path) -> None:
    """Refuse an image of more pixels than the limit before room is made for it."""
    if width * height > IMAGE_PIXELS.value:
        raise HistoError(
            f"{path} is larger than {IMAGE_PIXELS.value} pixels "
            f"(cut it into patches, or set {IMAGE_PIXELS.name})"
        )


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of a BMP or WebP; struct.error where they are not there."""
    if data[:2] == b"BM":
        form = "<HH" if data[14:18] == b"\x0c\0\0\0" else "<ii"
        width, height = struct.unpack_from(form, data, 18)
        return abs(width), abs(height)
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF
