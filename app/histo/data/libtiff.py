"""Strips of a TIFF by the two libtiffs at hand, OpenCV's and Pillow's, each wrapped as a TIFF of its own.

OpenCV's own way through libtiff goes on where a strip does not decode, and leaves it black.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import accumulate, chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.data.opencv import cv2
from histo.data.tiff_tags import FILL_ORDER, PREDICTOR, T4_OPTIONS, Page

Samples = NDArray[Any]
"""uint8 or uint16 [H, W, channels]"""
Bytes = bytes | memoryview
Mark = Callable[[memoryview, int], tuple[memoryview, bytes] | None]
Cells = tuple[tuple[int, int], ...]
OPENCV_WIDTH = (1 << 20) - 1
"""Its widest image."""


class Broken(Exception):  # noqa: N818  (what it says is an error of the caller's)
    """What a codec says of a strip or tile that does not decode."""


def by_opencv(strips: Sequence[memoryview], size: int, compression: int) -> Samples:
    """LZW or PackBits strips of `size` bytes each, by OpenCV in one go: uint8 [strips, size].

    OpenCV stops at an error only where samples have 16 bits, so two bytes are read as if they were
    one sample. Neither codec has a checksum, and libtiff does not mind what it need not read:
    so a mark is added to the end, which comes out in its place only where all before it decodes to
    as many bytes as it should.
    """
    rows = -(-(size + 1) // (2 * OPENCV_WIDTH))
    across = -(-(size + 1) // (2 * rows))
    ones = 2 * rows * across - size
    mark: Mark = mark_packbits if compression == 32773 else mark_lzw
    marked = [pieces for strip in strips if (pieces := mark(strip, ones))]
    if len(marked) < len(strips):
        return np.stack([_unmarked(strip, size, compression) for strip in strips])
    made = _tiff_of(marked, rows, across, 16, compression)
    try:
        found: Any = cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        found = None
    if found is None:
        raise Broken("it does not decode")
    whole: Samples = found.view(np.uint8).reshape(len(strips), -1)
    if (whole[:, size:] != 1).any():
        raise Broken("it does not end where it should")
    return whole[:, :size]


def mark_packbits(strip: memoryview, ones: int) -> tuple[memoryview, bytes]:
    """A PackBits strip with some bytes of 1, up to 128, added to what it decodes to."""
    return strip, bytes([ones - 1]) + b"\1" * ones


def mark_lzw(strip: memoryview, ones: int) -> tuple[memoryview, bytes] | None:
    """An LZW strip, in two pieces, with some bytes of 1 added to what it decodes to.

    It ends by the code 257 and bits of 0; None where it does not. A code is 9 to 12 bits long, the
    highest first; 256 clears the table, after which 253 codes are 9 bits long.
    """
    last = len(strip)
    while last > 3 and strip[last - 1] == 0 and last > len(strip) - 8:
        last -= 1
    tail = int.from_bytes(strip[max(0, last - 3) : last], "big")
    spare = (tail & -tail).bit_length() - 1
    if last < 4 or tail >> spare & 511 != 257 or strip[0] == 0:  # 0: bits lie the other way round
        return None
    codes, n = _lzw_of_ones(ones)
    bits = 24 - spare + n
    tail = ((tail >> spare) - 1 << n | codes) << -bits % 8
    return strip[: last - 3], tail.to_bytes(-(-bits // 8), "big")


@lru_cache(maxsize=64)
def _lzw_of_ones(n: int) -> tuple[int, int]:
    """So many bytes of 1 and the end, as LZW codes after a 256, and how many bits that is."""
    codes: list[int] = []
    while n:
        longest = 1 + len(codes) % 250  # of the strings of ones that the table has by then
        length = min(longest, n)
        codes.append(1 if length == 1 else 256 + length)
        n -= length
        if len(codes) % 250 == 249:
            codes.append(256)
    whole = 0
    for code in (*codes, 257):
        whole = whole << 9 | code
    return whole, 9 * (len(codes) + 1)


def _unmarked(strip: Bytes, size: int, compression: int) -> Samples:
    """An LZW strip of a writer that leaves out the code for its end: libtiff sees where it is short."""
    return np.frombuffer(by_pillow(strip, 1, size, compression), np.uint8)


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
    ones = page.width * page.samples
    marked = [pieces for strip in strips if (pieces := mark_lzw(strip, ones))]
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
    right = _mark_as_read(page.width, page.predictor)
    tops = range(0, len(found), page.down + 1)
    parts = [found[top : top + page.down + 1] for top in tops]
    for number, part in enumerate(parts):
        if part[-1].tobytes() != right:
            raise Broken(f"strip {number + 1} does not decode to its end")
    return np.asarray(
        found[:-1] if len(parts) == 1 else np.concatenate([part[:-1] for part in parts])
    )


@lru_cache(maxsize=64)
def _mark_as_read(width: int, predictor: int) -> bytes:
    """RGB of a row of ones, or of differences of one."""
    ones = np.ones((width, 3), np.uint8)
    return (ones if predictor == 1 else np.add.accumulate(ones, axis=0, dtype=np.uint8)).tobytes()


@cache
def zstd_by_pillow() -> bool:
    """Whether the libtiff that Pillow brings knows Zstandard."""
    try:
        return by_pillow(b"(\xb5/\xfd \x04!\x00\x00abcd", 1, 4, 50000) == b"abcd"
    except Broken:
        return False
