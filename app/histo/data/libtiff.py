"""Strips of a TIFF by the two libtiffs at hand, OpenCV's and Pillow's, each wrapped as a TIFF of its own.

OpenCV's own way through libtiff goes on where a strip does not decode, and leaves it black.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import accumulate, chain, count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.data.opencv import cv2
from histo.data.tiff_tags import FILL_ORDER, PREDICTOR, T4_OPTIONS, Page

Samples = NDArray[Any]
"""uint8 or uint16 [H, W, channels]"""
Bytes = bytes | memoryview
Mark = Callable[[memoryview, int, tuple[int, int]], tuple[memoryview, bytes] | None]
Cells = tuple[tuple[int, int], ...]
MARKS = count()
LAST = {1: (1, 1, 1), 3: (1,)}
"""Of which byte of a mark the last channels of a row are, grey and RGB."""
OPENCV_WIDTH = (1 << 20) - 1
"""Its widest image."""


class Broken(Exception):  # noqa: N818  (what it says is an error of the caller's)
    """What a codec says of a strip or tile that does not decode."""


def by_opencv(strips: Sequence[memoryview], size: int, compression: int) -> Samples:
    """LZW or PackBits strips of `size` bytes each, by OpenCV in one go: uint8 [strips, size].

    OpenCV stops at an error only where samples have 16 bits, so two bytes are read as if they were
    one sample. Neither codec has a checksum, and libtiff does not mind what it need not read:
    so a mark is added to the end, which comes out in its place only where all before it decodes to
    as many bytes as it should. Damage that leaves their number as it was cannot be seen.
    """
    rows = -(-(size + 1) // (2 * OPENCV_WIDTH))
    across = -(-(size + 1) // (2 * rows))
    n, mark = 2 * rows * across - size, new_mark()
    add: Mark = mark_packbits if compression == 32773 else mark_lzw
    marked = [pieces for strip in strips if (pieces := add(strip, n, mark))]
    if len(marked) < len(strips):
        return np.stack([_unmarked(strip, size, compression) for strip in strips])
    whole = _by_opencv(marked, (rows, across), compression)
    if (whole[:, size:-1] != mark[0]).any() or (whole[:, -1] != mark[1]).any():
        raise Broken("it does not end where it should")
    return whole[:, :size]


def new_mark() -> tuple[int, int]:
    """Two bytes: of one, and at last of the other, a mark is made.

    They change from call to call: where nothing was decoded stands what was there before.
    """
    n = next(MARKS)
    return n % 251 + 1, n // 251 % 251 + 1


def mark_packbits(strip: memoryview, n: int, mark: tuple[int, int]) -> tuple[memoryview, bytes]:
    """A PackBits strip with a mark of up to 128 bytes added to what it decodes to."""
    return strip, bytes([n - 1, *[mark[0]] * (n - 1), mark[1]])


def mark_lzw(strip: memoryview, n: int, mark: tuple[int, int]) -> tuple[memoryview, bytes] | None:
    """An LZW strip, in two pieces, with a mark of n bytes added to what it decodes to.

    It ends by the code 257 and bits of 0; None where it does not. A code is 9 to 12 bits long, the
    highest first; 256 clears the table, after which 253 codes are 9 bits long.
    """
    last = len(strip)
    while last > 3 and strip[last - 1] == 0 and last > len(strip) - 8:
        last -= 1
    tail = int.from_bytes(strip[max(0, last - 3) : last], "big")
    spare = (tail & -tail).bit_length() - 1
    if last < 4 or spare < 0 or tail >> spare & 511 != 257:
        return None
    if strip[0] == 0:  # the bits lie the other way round, as in files of thirty years ago
        return None
    codes, places, bits = _lzw_of_run(n - 1)
    codes = (codes + places * mark[0]) << 18 | mark[1] << 9 | 257
    tail = ((tail >> spare) - 1 << bits + 18 | codes) << -(24 - spare + bits + 18) % 8
    return strip[: last - 3], tail.to_bytes(-(-(24 - spare + bits + 18) // 8), "big")


@lru_cache(maxsize=64)
def _lzw_of_run(n: int) -> tuple[int, int, int]:
    """One byte n times in LZW codes after a 256: codes of a byte 0, where it stands, how many bits."""
    codes, single, since = 0, 0, 0
    bits = 0
    while n:
        if since == 250:
            codes, single, bits, since = codes << 9 | 256, single << 9, bits + 9, 0
        length = min(since + 1, n)  # the longest of its strings that the table has by then
        codes = codes << 9 | (0 if length == 1 else 256 + length)
        single = single << 9 | (length == 1)
        n, bits, since = n - length, bits + 9, since + 1
    return codes, single, bits


def _unmarked(strip: Bytes, size: int, compression: int) -> Samples:
    """An LZW strip of a writer that leaves out the code for its end: libtiff sees where it is short."""
    rows = -(-size // (2 * OPENCV_WIDTH))
    if size % (2 * rows) == 0:
        return _by_opencv([[strip]], (rows, size // (2 * rows)), compression).reshape(-1)
    if size > 1:  # for its complaints: Pillow's go to stderr
        _by_opencv([[strip]], (1, min(size // 2, OPENCV_WIDTH)), compression)
    return np.frombuffer(by_pillow(strip, 1, size, compression), np.uint8)


def _by_opencv(
    strips: Sequence[Sequence[Bytes]], shape: tuple[int, int], compression: int
) -> Samples:
    """Strips of so many rows and 16-bit samples each, as bytes: uint8 [strips, bytes]."""
    made = _tiff_of(strips, *shape, 16, compression)
    try:
        found: Any = cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        found = None
    if found is None:
        raise Broken("it does not decode")
    return np.asarray(found.view(np.uint8).reshape(len(strips), -1))


def by_pillow(strip: Bytes, rows: int, row: int, compression: int) -> bytes:
    """A strip of any codec of libtiff by the one that Pillow brings, which stops at an error."""
    return _pillow_bytes(_tiff_of([[strip]], rows, row, 8, compression), rows * row)


def fax(strip: Bytes, page: Page, rows: int) -> bytes:
    """CCITT by Pillow: rows of bits, the first the highest."""
    fill, options = 2 if page.reversed_bits else 1, int(page.tags.get(T4_OPTIONS, (0,))[0])
    more = (
        ((FILL_ORDER, fill), (T4_OPTIONS, options))
        if page.compression == 3
        else ((FILL_ORDER, fill),)
    )
    made = _tiff_of([[strip]], rows, page.across, 1, page.compression, more)
    return _pillow_bytes(made, rows * page.across)


def _pillow_bytes(made: bytes, size: int) -> bytes:
    from PIL import Image

    if size > (Image.MAX_IMAGE_PIXELS or size):  # it would warn on stderr
        raise Broken(f"it is of {size:,} bytes, too many for Pillow")
    try:
        return Image.open(io.BytesIO(made)).tobytes()
    except Exception as error:  # a decoder may raise anything
        raise Broken(str(error)) from None


def _tiff_of(
    strips: Sequence[Sequence[Bytes]],
    rows: int,
    width: int,
    bits: int,
    compression: int,
    more: Cells = (),
    samples: int = 1,
    height: int = 0,
) -> bytes:
    """A grey or RGB TIFF of strips, each in pieces, of so many rows; the last fills up the height."""
    n, sizes = len(strips), [sum(map(len, strip)) for strip in strips]
    cells = ((256, width), (257, height or rows * n), (259, compression), (278, rows), *more)
    before, after, start = _directory(n, cells, bits, samples)
    offsets = accumulate(sizes[:-1], initial=start) if n > 1 else ()
    places = struct.pack(f"<{n}I{n * (n > 1)}I", *sizes, *offsets)
    return b"".join([before, places, after, *chain.from_iterable(strips)])


@lru_cache(maxsize=256)
def _directory(n: int, cells: Cells, bits: int, samples: int) -> tuple[bytes, bytes, int]:
    """Such a TIFF up to the size of its only strip, what is between that and the strip, and its place.

    With several strips: up to the table of their sizes, nothing, and where the first is.
    """
    depths = 8 + 2 + 12 * (len(cells) + 5) + 4
    start = depths + 8 + (8 * n if n > 1 else 0)
    values = sorted([(258, 3, samples, bits if samples == 1 else depths), (277, 4, 1, samples),
                     (262, 4, 1, 1 if samples == 1 else 2), (279, 4, n, depths + 8),
                     (273, 4, n, start if n == 1 else depths + 8 + 4 * n),
                     *((tag, 4, 1, value) for tag, value in cells)])  # fmt: skip
    form = f"<2sHIH{len(values) * 'HHII'}4x3Hxx"
    made = struct.pack(
        form, b"II", 42, 8, len(values), *chain.from_iterable(values), bits, bits, bits
    )
    if n > 1:
        return made, b"", start
    at = 8 + 2 + 12 * [tag for tag, *_ in values].index(279) + 8
    return made[:at], made[at + 4 :], start


def lzw_rows(strips: Sequence[memoryview], page: Page) -> Samples | None:
    """An LZW page of 8-bit grey or RGB, in strips, by OpenCV in one go: uint8 [H, W, 3].

    The fast way of what `by_opencv` does, libtiff's own undoing of differences included: here
    OpenCV does not stop at errors, so each strip gets one more row, by which its end is known.
    None where a strip does not end by the code for it.
    """
    row, mark = page.width * page.samples, new_mark()
    marked = [pieces for strip in strips if (pieces := mark_lzw(strip, row, mark))]
    if len(marked) < len(strips):
        return None
    more = ((PREDICTOR, 2),) if page.predictor == 2 else ()
    height = page.height + len(strips)
    made = _tiff_of(marked, page.down + 1, page.width, 8, 5, more, page.samples, height)
    try:
        found: Any = cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        found = None
    if found is None:
        raise Broken("it does not decode")
    right = _mark_as_read(page, mark)
    tops = range(0, len(found), page.down + 1)
    parts = [found[top : top + page.down + 1] for top in tops]
    for number, part in enumerate(parts):
        if part[-1].tobytes() != right:
            raise Broken(f"strip {number + 1} does not decode to its end")
    return np.asarray(
        found[:-1] if len(parts) == 1 else np.concatenate([part[:-1] for part in parts])
    )


def _mark_as_read(page: Page, mark: tuple[int, int]) -> bytes:
    """A mark of a row, as RGB."""
    if page.predictor == 1:
        return bytes([mark[0]]) * (3 * page.width - len(LAST[page.samples])) + bytes(
            mark[n] for n in LAST[page.samples]
        )
    row = np.full((page.width, page.samples), mark[0], np.uint8)
    row[-1, -1] = mark[1]
    row = np.add.accumulate(row, axis=0, dtype=np.uint8)
    return (row if page.samples == 3 else np.repeat(row, 3, 1)).tobytes()


@cache
def zstd_by_pillow() -> bool:
    """Whether the libtiff that Pillow brings knows Zstandard."""
    try:
        return by_pillow(b"(\xb5/\xfd \x04!\x00\x00abcd", 1, 4, 50000) == b"abcd"
    except Broken:
        return False
