"""What a rule of reading did to a file's pixels that its owner may not expect, for `histo check`."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

from histo.data.header import PNG, kind_of
from histo.data.tiff_tags import read_directory, read_page
from histo.errors import HistoError

FIRST_PAGE = "of several pages the first is read"
TIFF_TURN = "the orientation that a TIF says is applied"
EXIF_TURN = "an EXIF orientation is ignored, as Pillow and fastai do"
DEEP = "samples of more than 8 bits are scaled from full range; learner.pkl reads them otherwise"
ALPHA = "alpha is dropped"
INKS = "CMYK is converted as Pillow does, without a colour profile"


def remarks(data: bytes, path: Path) -> list[str]:
    """The rules, of those above, that a file that can be read needed; few files need any."""
    kind = kind_of(data)
    with suppress(HistoError, struct.error, OverflowError, IndexError):
        if kind == "tiff":
            return _of_tiff(data, path)
        if kind == "png":
            found = [DEEP] if data[24] == 16 else []
            return [*found, *([ALPHA] if data[25] in (4, 6) else []), *_exif(_chunk(data, b"eXIf"))]
        if kind == "jpeg":
            start = data.find(b"Exif\0\0", 0, 200)
            return _exif(data[start + 6 : start + 65536]) if start > 0 else []
    return []


def _of_tiff(data: bytes, path: Path) -> list[str]:
    page = read_page(data, path)
    following = read_directory(data, None)[1]
    rules = {
        FIRST_PAGE: following > 0,
        TIFF_TURN: page.orientation in range(2, 9),
        DEEP: page.bits > 8,
        ALPHA: (page.photometric, page.samples) in ((0, 2), (1, 2), (2, 4)),
        INKS: page.photometric == 5,
    }
    return [rule for rule, needed in rules.items() if needed]


def _chunk(data: bytes, wanted: bytes) -> bytes:
    """A chunk of a PNG."""
    at = len(PNG)
    while at + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == wanted:
            return data[at + 8 : at + 8 + size]
        at += 12 + size
    return b""


def _exif(exif: bytes) -> list[str]:
    """EXIF is a TIFF directory."""
    if not exif:
        return []
    turn = read_directory(exif, None)[0].get(274, (1,))
    return [EXIF_TURN] if turn[0] in range(2, 9) else []
