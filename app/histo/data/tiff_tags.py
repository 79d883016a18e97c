"""What a TIFF says of its first page, checked before a pixel is decoded."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from histo.data.header import RESAVE, check_pixels, damaged
from histo.errors import HistoError
from histo.files.limits import IMAGE_PIXELS

MAX_TILE = 2048 * 2048
"""Pixels of a tile larger than its image: it is decoded whole for the few that are wanted."""
MAX_SEGMENTS = 1 << 20
"""Strips or tiles: 50 million pixels in tiles of 16x16 px, four planes, are fewer."""
SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
FILL_ORDER, DESCRIPTION, STRIPS, ORIENTATION, SAMPLES, ROWS = 266, 270, 273, 274, 277, 278
STRIP_BYTES, PLANES, T4_OPTIONS, PREDICTOR, COLOURS = 279, 284, 292, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, INKS, EXTRA = 322, 323, 324, 325, 332, 338
FORMAT, JPEG_TABLES, SUBSAMPLING = 339, 347, 530
TAGS = frozenset({
    SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, DESCRIPTION, STRIPS,
    ORIENTATION, SAMPLES, ROWS, STRIP_BYTES, PLANES, T4_OPTIONS, PREDICTOR, COLOURS, TILE_WIDTH,
    TILE_HEIGHT, TILES, TILE_BYTES, INKS, EXTRA, FORMAT, JPEG_TABLES, SUBSAMPLING,
})  # fmt: skip
LONG = frozenset({DESCRIPTION, STRIPS, STRIP_BYTES, COLOURS, TILES, TILE_BYTES, JPEG_TABLES})
"""Tags of as many values as there are; of others 16 are read at most."""
INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q", 13: "I", 6: "b", 8: "h", 9: "i", 17: "q"}
"""The TIFF field types of whole numbers, as struct has them; signed ones too, for libtiff does."""
BYTES = {2, 7}
"""Field types of text and of anything."""
GREYS, COLOURED = (0, 1), 2
PALETTE, CMYK, YCBCR = 3, 5, 6
PHOTOMETRICS = {4: "a mask", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "a colour filter array",
                32844: "LogL", 32845: "LogLuv", 34892: "linear raw"}  # fmt: skip

Tags = dict[int, Sequence[int]]


class Page(NamedTuple):
    """The first page of a TIFF, as far as its pixels depend on it."""

    width: int
    height: int
    bits: int
    samples: int
    photometric: int
    compression: int
    separate: bool
    """whether each channel lies in planes of its own"""
    predictor: int
    orientation: int
    reversed_bits: bool
    extra: int | None
    """what the channel after the colours is: 0 unspecified, 1 alpha that they are multiplied by, 2 alpha"""
    order: str
    """of bytes, as struct has it"""
    across: int
    """width of a strip or tile"""
    down: int
    """height of a strip or tile"""
    tiled: bool
    offsets: Sequence[int]
    counts: Sequence[int]
    tags: Tags


def first_directory(data: bytes) -> Tags:
    """The tags of the first page of a TIFF or BigTIFF that a picture depends on.

    Raises struct.error or OverflowError where an offset leads out of the file, a value is no whole
    number, or a tag comes twice.
    """
    return read_directory(data, None)[0]


def read_directory(data: bytes, at: int | None) -> tuple[Tags, int]:
    """The tags of the page at an offset, the first where none is given, and the offset of the next."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count, entry, offset, inline = ("Q", "HHQ8s", "Q", 8) if big else ("H", "HHI4s", "I", 4)
    if at is None:
        (at,) = struct.unpack_from(order + offset, data, 8 if big else 4)
    (entries,) = struct.unpack_from(order + count, data, at)
    at += 8 if big else 2
    end = at + entries * (20 if big else 12)
    if end > len(data):
        raise struct.error
    tags: Tags = {}
    endian: Literal["little", "big"] = "little" if order == "<" else "big"
    for tag, kind, n, value in struct.iter_unpack(order + entry, data[at:end]):
        if tag not in TAGS:
            continue
        if tag in tags:
            raise struct.error
        if n == 1 and (kind == 3 or kind == 4):  # most of them  # noqa: PLR1714  (faster so)
            tags[tag] = (int.from_bytes(value[:2] if kind == 3 else value[:4], endian),)
            continue
        form = INTEGERS.get(kind, "")
        n = n if tag in LONG else min(n, 16)  # noqa: PLW2901
        size = n * (struct.calcsize(order + form) if form else 1)
        where, place = value, 0
        if size > inline:
            where, place = data, struct.unpack(order + offset, value)[0]
        tags[tag] = _values(where, place, n, kind, order)
    following = data[end : end + (8 if big else 4)]
    return tags, int.from_bytes(following, endian)


def _values(where: bytes, place: int, n: int, kind: int, order: str) -> Sequence[int]:
    if kind in BYTES:
        if place + n > len(where):
            raise struct.error
        return where[place : place + n]
    if kind not in INTEGERS:
        raise struct.error
    if n <= 64:
        return struct.unpack_from(f"{order}{n}{INTEGERS[kind]}", where, place)
    form = np.dtype(
        f"{order}{'iu'[INTEGERS[kind].isupper()]}{struct.calcsize(order + INTEGERS[kind])}"
    )
    if n > 4 * MAX_SEGMENTS or place + n * form.itemsize > len(where):
        raise struct.error
    values: list[int] = np.frombuffer(where, form, n, place).tolist()
    return values


def read_page(data: bytes, path: Path) -> Page:
    """The first page; HistoError where it is damaged, beyond a limit, or of a kind not read."""
    try:
        tags, following = read_directory(data, None)
    except (struct.error, OverflowError):
        raise damaged(path, "its directory is not whole") from None
    page = _page_of(tags, data, path)
    check_size(page, path)
    check_samples(page, path)
    check_colours(page, path)
    if following or DESCRIPTION in tags:
        check_pages(data, page, following, path)
    return page


def _page_of(tags: Tags, data: bytes, path: Path) -> Page:
    def one(tag: int, otherwise: int) -> int:
        return tags[tag][0] if tags.get(tag) else otherwise

    bits = tags.get(BITS) or (1,)
    width, height = one(WIDTH, 0), one(HEIGHT, 0)
    tiled = TILE_WIDTH in tags or TILES in tags
    samples = one(SAMPLES, 1)
    if len(set(bits)) > 1 or len(set(tags.get(FORMAT, ()))) > 1:
        raise HistoError(f"{path} holds channels of different depth or kind", RESAVE)
    strips, sizes = (TILES, TILE_BYTES) if TILES in tags else (STRIPS, STRIP_BYTES)
    return Page(
        width,
        height,
        bits[0],
        samples,
        one(PHOTOMETRIC, -1),
        one(COMPRESSION, 1),
        separate=one(PLANES, 1) == 2 and samples > 1,
        predictor=one(PREDICTOR, 1),
        orientation=one(ORIENTATION, 1),
        reversed_bits=one(FILL_ORDER, 1) == 2,
        extra=one(EXTRA, 0) if EXTRA in tags else None,
        order="<" if data[:2] == b"II" else ">",
        across=one(TILE_WIDTH, 0) if tiled else width,
        down=one(TILE_HEIGHT, 0) if tiled else min(one(ROWS, height), height),
        tiled=tiled,
        offsets=tags.get(strips, ()),
        counts=tags.get(sizes, ()),
        tags=tags,
    )


def check_size(page: Page, path: Path) -> None:
    """Refuse sizes that are none, more pixels than the limit, and tiles far above the image."""
    if page.width < 1 or page.height < 1 or page.across < 1 or page.down < 1:
        raise damaged(path, f"it is of {page.width}x{page.height} px")
    check_pixels(page.width, page.height, path)
    image, tile = page.width * page.height, page.across * page.down
    if tile > MAX_TILE and tile > min(image, IMAGE_PIXELS.value):
        raise HistoError(f"{path} is of {image:,} pixels in tiles of {tile:,}: it is damaged")


def check_samples(page: Page, path: Path) -> None:
    """Refuse samples that are no whole numbers of up to 16 bits, and more than four a pixel."""
    form = page.tags.get(FORMAT) or (1,)
    kind = {2: " signed", 3: " floating-point", 5: " complex", 6: " complex"}.get(form[0], "")
    if page.bits > 16 or kind:
        raise HistoError(
            f"{path} holds {page.bits}-bit samples{kind and f',{kind}'}; "
            "only unsigned ones of 8 and 16 bits can be read",
            RESAVE,
        )
    if page.bits not in (1, 2, 4, 8, 10, 12, 14, 16):
        raise HistoError(f"{path} holds {page.bits}-bit samples, which cannot be read", RESAVE)
    if not 1 <= page.samples <= 4:
        raise HistoError(f"{path} has {page.samples} channels; only up to 4 can be read", RESAVE)
    wanted = -(-page.height // page.down)
    if page.tiled or page.separate:
        wanted *= -(-page.width // page.across) * (page.samples if page.separate else 1)
    if wanted > MAX_SEGMENTS:
        raise HistoError(f"{path} is cut into {wanted:,} strips or tiles", RESAVE)
    if len(page.offsets) != wanted or min(page.offsets) < 0:
        raise damaged(path, f"it has {len(page.offsets)} strips or tiles of {wanted}")
    if len(page.counts) != wanted and (page.counts or page.compression != 1):
        raise damaged(path, f"the sizes of its {wanted} strips or tiles are missing")


def check_colours(page: Page, path: Path) -> None:
    """Refuse channels whose meaning is not clear."""
    kind, n = page.photometric, page.samples
    if kind in GREYS and (n == 1 or (n == 2 and page.extra in (1, 2))):
        return
    if kind == COLOURED and n in (3, 4) and page.bits > 1:
        return
    if kind == PALETTE and n == 1 and page.bits <= 8:
        if len(page.tags.get(COLOURS, ())) != 3 << page.bits:
            raise damaged(path, "its palette is not whole")
        return
    if (
        kind == CMYK
        and n == 4
        and page.extra is None
        and page.bits == 8
        and page.tags.get(INKS, (1,))[0] == 1
    ):
        return
    if kind == YCBCR and n == 3 and page.bits == 8:
        return
    planes = " in separate planes" if page.separate else ""
    raise HistoError(f"{path} holds {_colours(page)}{planes}, which is not read", RESAVE)


def _colours(page: Page) -> str:
    """The channels of a page in words."""
    names = {0: "grey", 1: "grey", 2: "RGB", 3: "a palette", 5: "CMYK", 6: "YCbCr"} | PHOTOMETRICS
    name = names.get(page.photometric, f"colours of kind {page.photometric}")
    if page.photometric < 0:
        name = "colours of a kind that it does not say"
    return f"{name} in {page.samples} channel{'s'[: page.samples > 1]} of {page.bits} bits"


def check_pages(data: bytes, page: Page, following: int, path: Path) -> None:
    """Refuse grey pages of one size, which may be the channels of one picture, and so with palettes.

    Of other pages (thumbnails, pyramids, masks, further pictures) the first is read.
    """
    if page.photometric not in (*GREYS, PALETTE):
        return
    pages, seen = 1, set()
    while following and following not in seen and pages < 100:
        seen.add(following)
        try:
            tags, following = read_directory(data, following)
        except (struct.error, OverflowError):
            break
        size = (tags.get(WIDTH, (0,))[0], tags.get(HEIGHT, (0,))[0])
        reduced = (tags.get(SUBFILE) or (0,))[0] & 5  # a smaller copy, or a mask
        pages += size == (page.width, page.height) and not reduced
    pages = max(pages, _said_pages(bytes(page.tags.get(DESCRIPTION, b""))))
    kind = "palette" if page.photometric == PALETTE else "grey"
    if pages > 1:
        raise HistoError(
            f"{path} holds {pages} {kind} pages of one size: one picture's channels, or several?",
            "save the picture wanted as one RGB TIF or PNG",
        )


def _said_pages(description: bytes) -> int:
    """How many pages the description has, where ImageJ or tifffile wrote but one directory."""
    if description.startswith(b"ImageJ="):
        for line in description.splitlines():
            if line.startswith(b"images="):
                return int(line[7:15]) if line[7:15].isdigit() else 1
    return 2 if b'"truncate": true' in description else 1
