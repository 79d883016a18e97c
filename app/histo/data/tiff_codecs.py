"""Strips and tiles of a TIFF decompressed, each by a codec that says where it fails.

OpenCV's own way through libtiff goes on where a strip does not decode, and leaves it black.
"""

from __future__ import annotations

import io
import lzma
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.data.header import damaged
from histo.data.jpeg import decode_jpeg, frame_of
from histo.data.opencv import cv2
from histo.data.png import sound_png
from histo.data.tiff_tags import COLOURED, FILL_ORDER, JPEG_TABLES, T4_OPTIONS, YCBCR, Page
from histo.errors import HistoError

Samples = NDArray[Any]
"""uint8 or uint16 [H, W, channels]"""
Cells = tuple[tuple[int, int], ...]
NAMES = {
    2: "CCITT", 3: "CCITT group 3", 4: "CCITT group 4", 5: "LZW", 6: "old-style JPEG", 7: "JPEG",
    9: "JBIG", 10: "JBIG", 22610: "JPEG XR", 32809: "ThunderScan", 33003: "Aperio JPEG 2000 (YCbCr)",
    33005: "Aperio JPEG 2000", 33007: "lossless JPEG", 34661: "JBIG", 34676: "SGI Log",
    34677: "SGI Log", 34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG", 34925: "LZMA",
    34926: "Zstandard", 34927: "WebP", 34933: "PNG", 34934: "JPEG XR", 50000: "Zstandard",
    50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
OPENCV_WIDTH = (1 << 20) - 1
"""Its widest image."""
RECODE = "re-save it without compression, with LZW or deflate, or as PNG"


def refused(page: Page, path: Path, why: str = "which cannot be read", *ways: str) -> HistoError:
    """The error for a compression that is not read."""
    name = NAMES.get(page.compression, "a method unknown here")
    said = f"{path} is compressed by {name} ({page.compression}), {why}"
    return HistoError(said, *ways, RECODE)


class Broken(Exception):
    """What a codec says of a strip or tile that does not decode."""


def inflate(strip: bytes, most: int) -> bytes:
    """Deflate, to its end and checksum; more than `most` bytes are not made room for."""
    codec = zlib.decompressobj()
    try:
        found = codec.decompress(strip, most + 1)
    except zlib.error as error:
        raise Broken(str(error)) from None
    return _ended(found, most, codec.eof)


def unlzma(strip: bytes, most: int) -> bytes:
    """LZMA, to its end and checksum, in at most 256 MB beside the bytes."""
    codec = lzma.LZMADecompressor(memlimit=256 << 20)
    try:
        found = codec.decompress(strip, most + 1)
    except (lzma.LZMAError, MemoryError, EOFError) as error:
        raise Broken(str(error)) from None
    return _ended(found, most, codec.eof)


def _ended(found: bytes, most: int, ended: bool) -> bytes:
    if len(found) > most:
        raise Broken("it holds more than its rows")
    if not ended:
        raise Broken("its end is missing")
    return found


def by_opencv(strip: bytes, size: int, compression: int) -> Samples:
    """LZW or PackBits, `size` bytes of it, by OpenCV.

    OpenCV stops at an error only where samples have 16 bits, so two bytes are read as if they were
    one sample. Neither codec has a checksum, and libtiff does not mind what it need not read:
    so a mark is added to the end, which comes out in its place only where all before it decodes to
    as many bytes as it should.
    """
    rows = -(-(size + 1) // (2 * OPENCV_WIDTH))
    across = -(-(size + 1) // (2 * rows))
    mark = bytes(range(1, 2 * rows * across - size + 1))
    marked = mark_packbits(strip, mark) if compression == 32773 else mark_lzw(strip, mark)
    found = _by_opencv(marked, (rows, across), compression)
    if found[size:].tobytes() != mark:
        raise Broken("it does not end where it should")
    return found[:size]


def mark_packbits(strip: bytes, mark: bytes) -> bytes:
    """A PackBits strip with some bytes, up to 128, added to what it decodes to."""
    return strip + bytes([len(mark) - 1]) + mark


def mark_lzw(strip: bytes, mark: bytes) -> bytes:
    """An LZW strip with some bytes, up to 250, added to what it decodes to.

    It ends by the code 257 and bits of 0. A code is 9 to 12 bits long, the highest first; 256
    clears the table, after which codes are 9 bits long.
    """
    strip = strip.rstrip(b"\0")
    tail = int.from_bytes(strip[-3:], "big")
    spare = (tail & -tail).bit_length() - 1
    if tail >> spare & 511 != 257 or strip[:1] == b"\0":  # the second: bits lie the other way round
        raise Broken("its end is missing")
    tail, bits = (tail >> spare) - 1, 24 - spare
    for code in (*mark, 257):
        tail, bits = tail << 9 | code, bits + 9
    return strip[:-3] + (tail << -bits % 8).to_bytes(-(-bits // 8), "big")


def _by_opencv(strip: bytes, shape: tuple[int, int], compression: int) -> Samples:
    made = _tiff_of(strip, *shape, 16, compression)
    try:
        found: Any = cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        found = None
    if found is None:
        raise Broken("it does not decode")
    return np.asarray(found.reshape(-1).view(np.uint8))


def by_pillow(strip: bytes, rows: int, row: int, compression: int) -> bytes:
    """A strip of any codec of libtiff by the one that Pillow brings, which stops at an error."""
    return _pillow_bytes(_tiff_of(strip, rows, row, 8, compression), rows * row)


def fax(strip: bytes, page: Page, rows: int) -> bytes:
    """CCITT by Pillow: rows of bits, the first the highest."""
    fill, options = 2 if page.reversed_bits else 1, int(page.tags.get(T4_OPTIONS, (0,))[0])
    more = ((FILL_ORDER, fill), (T4_OPTIONS, options)) if page.compression == 3 else ((FILL_ORDER, fill),)
    made = _tiff_of(strip, rows, page.across, 1, page.compression, more)
    return _pillow_bytes(made, rows * page.across)


def _pillow_bytes(made: bytes, size: int) -> bytes:
    from PIL import Image

    if size > Image.MAX_IMAGE_PIXELS:  # it would warn on stderr
        raise Broken(f"it is of {size:,} bytes, too many for Pillow")
    try:
        return Image.open(io.BytesIO(made)).tobytes()
    except Exception as error:  # a decoder may raise anything
        raise Broken(str(error)) from None


def _tiff_of(
    strip: bytes, rows: int, width: int, bits: int, compression: int, more: Cells = ()
) -> bytes:
    """A grey TIFF of one strip."""
    cells = ((256, width), (257, rows), (258, bits), (259, compression), (262, 1), (273, 0),
             (277, 1), (278, rows), (279, len(strip)), *more)  # fmt: skip
    start = 8 + 2 + 12 * len(cells) + 4
    made = [struct.pack("<2sHIH", b"II", 42, 8, len(cells))]
    made += [struct.pack("<HHII", tag, 4, 1, start if tag == 273 else n) for tag, n in sorted(cells)]
    return b"".join([*made, bytes(4), strip])


@cache
def zstd_by_pillow() -> bool:
    """Whether the libtiff that Pillow brings knows Zstandard."""
    try:
        return by_pillow(b"(\xb5/\xfd \x04!\x00\x00abcd", 1, 4, 50000) == b"abcd"
    except Broken:
        return False


def image_by_opencv(strip: bytes, page: Page, path: Path) -> Samples:
    """A strip or tile that is a JPEG 2000, WebP or PNG of its own."""
    if page.compression == 34933:
        strip = sound_png(strip, path)
    try:
        found = cv2.imdecode(np.frombuffer(strip, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        found = None
    if found is None:
        raise Broken("it does not decode")
    if found.ndim == 2:
        return found[..., None]
    order = [2, 1, 0, 3][: found.shape[2]] if found.shape[2] > 2 else [0, 1]
    return np.asarray(found[..., order])


def image_by_imagecodecs(strip: bytes, page: Page, path: Path, shape: tuple[int, ...]) -> Samples:
    """A strip or tile of JPEG XL, LERC or JPEG XR, where imagecodecs is installed."""
    try:
        import imagecodecs
    except ImportError:
        why = "which is read only where the package imagecodecs is installed"
        raise refused(page, path, why, "pip install imagecodecs") from None
    decode: Callable[..., Any] = {
        50002: imagecodecs.jpegxl_decode, 52546: imagecodecs.jpegxl_decode,
        34887: imagecodecs.lerc_decode,
        22610: imagecodecs.jpegxr_decode, 34934: imagecodecs.jpegxr_decode,
    }[page.compression]  # fmt: skip
    room = np.empty(shape if shape[2] > 1 else shape[:2], np.uint8 if page.bits == 8 else np.uint16)
    try:
        found = np.asarray(decode(strip, out=room))
    except Exception as error:  # its codecs raise their own
        raise Broken(str(error)) from None
    return found.reshape(shape)


def jpeg_strip(strip: bytes, page: Page, path: Path, channels: int) -> Samples:
    """A strip or tile that is a JPEG, by the tables of its page; YCbCr comes as RGB."""
    tables = bytes(page.tags.get(JPEG_TABLES, b""))
    if len(tables) > 4:
        strip = tables[:-2] + strip[2:]
    frame = frame_of(strip, path)
    if len(frame.components) != channels or channels not in (1, 3):
        raise Broken(f"it is a JPEG of {len(frame.components)} channels")
    if channels == 3:
        # libjpeg guesses by ids and markers what the components are; here the page says it
        adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([page.photometric == YCBCR])
        strip = strip[: frame.scan] + adobe + strip[frame.scan :]
    return decode_jpeg(strip, frame, "GRAY" if channels == 1 else "RGB", path).reshape(
        frame.height, frame.width, channels
    )


def undo_differences(found: Samples) -> Samples:
    """Samples of which each holds the difference to the one before it in its row."""
    if found.dtype != np.uint8:
        return np.add.accumulate(found, axis=1, dtype=found.dtype)
    out = np.empty_like(found)
    step = max(1, (1 << 18) // max(1, found[0].size))
    for top in range(0, len(found), step):
        # a third of the time of accumulate; 2**18 samples of 255 fit in its 32 bits
        sums = cv2.integral(np.ascontiguousarray(found[top : top + step]), sdepth=cv2.CV_32S)
        sums = sums.reshape(sums.shape[0], sums.shape[1], -1)
        out[top : top + step] = sums[1:, 1:] - sums[:-1, 1:]
    return out


def check_compression(page: Page, path: Path) -> None:
    """Refuse, with the true reason, what none of the codecs here decodes rightly."""
    kind, deep = page.compression, page.bits in (8, 16)
    if kind in (50000, 34926) and not zstd_by_pillow():
        raise refused(page, path)
    packed = kind in (1, 5, 8, 32946, 32773, 34925, 50000, 34926)
    whole = kind in (34712, 33005, 34933, 50002, 52546, 34887, 22610, 34934) and deep
    webp = kind in (50001, 34927) and page.bits == 8 and page.samples in (3, 4)
    jpeg = kind == 7 and page.bits == 8 and page.photometric in (0, 1, COLOURED, YCBCR)
    fax = kind in (2, 3, 4) and page.bits == page.samples == 1
    if not (packed or whole or webp or jpeg or fax):
        raise refused(page, path)
    if (whole or webp) and page.photometric not in (0, 1, COLOURED):
        raise refused(page, path, "in colours other than grey and RGB, which cannot be read")
    if page.photometric == YCBCR and not jpeg and tuple(page.tags.get(530, (2, 2))) != (1, 1):
        raise HistoError(f"{path} holds YCbCr with fewer samples of colour than of light", RECODE)
    known = page.predictor == 1 or (page.predictor == 2 and packed and deep and kind not in (1, 32773))
    if not known:
        raise refused(page, path, f"with predictor {page.predictor}, which cannot be read together")
    if page.reversed_bits and not fax and kind != 1:
        raise refused(page, path, "its bits in reverse order, which cannot be read")
