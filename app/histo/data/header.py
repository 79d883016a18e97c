"""What an image file says of itself, looked at before a decoder is let near it."""

from __future__ import annotations

import struct
from pathlib import Path

from histo.errors import HistoError
from histo.files.limits import IMAGE_PIXELS

PNG = b"\x89PNG\r\n\x1a\n"
MAX_SCANS = 100
"""Scans of a JPEG, as in libtiff: each is a pass over all of it, and a thousand fit in a page."""
MAX_TILE = 2048 * 2048
"""Pixels of a tile larger than its image: it is decoded whole for the few that are wanted."""

_WIDTH, _HEIGHT, _BITS, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 258, 277, 322, 323
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q", 6: "B", 8: "H", 9: "I", 17: "Q"}
"""The TIFF field types of whole numbers, as struct has them; signed ones too, for libtiff does."""


def check_header(data: bytes, path: Path) -> None:
    """Refuse what is no TIF, PNG or JPEG, and what takes far more to decode than its pixels.

    How many pixels there may be OpenCV sees to itself.
    """
    kind = kind_of(data)
    if not kind:
        raise HistoError(f"{path} is not a TIF, PNG or JPEG image")
    if kind == "jpeg" and data.count(b"\xff\xda") > MAX_SCANS:
        raise HistoError(f"{path} is a JPEG of more than {MAX_SCANS} scans: no camera writes that")
    if kind == "png":
        check_png(data, path)
    if kind == "tiff":
        check_tiff(data, path)


def kind_of(data: bytes) -> str:
    """`tiff`, `png` or `jpeg` by the first bytes, else nothing."""
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if data.startswith(PNG):
        return "png"
    return "jpeg" if data[:3] == b"\xff\xd8\xff" else ""


def check_png(data: bytes, path: Path) -> None:
    """Refuse a chunk that is longer than the file: OpenCV makes room for what a chunk promises."""
    at, name = len(PNG), b""
    while at + 12 <= len(data) and name != b"IEND":
        size, name = struct.unpack_from(">I4s", data, at)
        at += 12 + size
    if at > len(data) or name != b"IEND":
        raise HistoError(f"{path} is truncated or damaged")


def check_tiff(data: bytes, path: Path) -> None:
    """Refuse samples of more than 16 bits, more than four a pixel, and tiles far above the image."""
    try:
        tags = first_directory(data)
    except (struct.error, OverflowError):
        raise HistoError(f"{path} is truncated or damaged") from None

    def most(tag: int) -> int:
        return max(tags.get(tag) or [0])

    if most(_BITS) > 16:
        raise HistoError(f"{path} holds {most(_BITS)}-bit samples; only 8 and 16 bits can be read")
    if most(_SAMPLES) > 4:
        raise HistoError(f"{path} has {most(_SAMPLES)} channels; only up to 4 can be read")
    image, tile = most(_WIDTH) * most(_HEIGHT), most(_TILE_WIDTH) * most(_TILE_HEIGHT)
    if tile > max(MAX_TILE, min(image, IMAGE_PIXELS.value)):
        raise HistoError(f"{path} is of {image:,} pixels in tiles of {tile:,}: it is damaged")


def first_directory(data: bytes) -> dict[int, list[int]]:
    """Sizes and depths of the first page of a TIFF or BigTIFF, by tag.

    A tag that comes twice has the values of both. Raises struct.error or OverflowError where an
    offset leads out of the file or a value is no whole number.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count, entry, offset, inline = ("Q", "HHQ8s", "Q", 8) if big else ("H", "HHI4s", "I", 4)
    (at,) = struct.unpack_from(order + offset, data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + count, data, at)
    at += struct.calcsize(order + count)
    size = struct.calcsize(order + entry)
    if at + entries * size > len(data):
        raise struct.error
    tags: dict[int, list[int]] = {}
    for tag, kind, n, value in struct.iter_unpack(order + entry, data[at : at + entries * size]):
        if tag not in (_WIDTH, _HEIGHT, _BITS, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT):
            continue
        if kind not in _INTEGERS:
            raise struct.error
        form = f"{order}{min(n, 16)}{_INTEGERS[kind]}"
        where, place = value, 0
        if n * struct.calcsize(order + _INTEGERS[kind]) > inline:
            where, place = data, struct.unpack(order + offset, value)[0]
        tags.setdefault(tag, []).extend(struct.unpack_from(form, where, place))
    return tags
