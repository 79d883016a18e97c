"""Strips and tiles of a TIFF decompressed, each by a codec that says where it fails."""

from __future__ import annotations

import lzma
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from histo.data.jpeg import decode_jpeg, frame_of
from histo.data.libtiff import Broken, Bytes, Samples, zstd_by_pillow
from histo.data.opencv import cv2
from histo.data.png import sound_png
from histo.data.tiff_tags import (
    COLOURED,
    JPEG_TABLES,
    YCBCR,
    Page,
)
from histo.errors import HistoError

NAMES = {
    2: "CCITT", 3: "CCITT group 3", 4: "CCITT group 4", 5: "LZW", 6: "old-style JPEG", 7: "JPEG",
    9: "JBIG", 10: "JBIG", 22610: "JPEG XR", 32809: "ThunderScan", 33003: "Aperio JPEG 2000 (YCbCr)",
    33005: "Aperio JPEG 2000", 33007: "lossless JPEG", 34661: "JBIG", 34676: "SGI Log",
    34677: "SGI Log", 34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG", 34925: "LZMA",
    34926: "Zstandard", 34927: "WebP", 34933: "PNG", 34934: "JPEG XR", 50000: "Zstandard",
    50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
LOWEST = 0 if sys.byteorder == "little" else 3
RECODE = "re-save it without compression, with LZW or deflate, or as PNG"


def refused(page: Page, path: Path, why: str = "which cannot be read", *ways: str) -> HistoError:
    """The error for a compression that is not read."""
    name = NAMES.get(page.compression, "a method unknown here")
    said = f"{path} is compressed by {name} ({page.compression}), {why}"
    return HistoError(said, *ways, RECODE)


def inflate(strip: Bytes, most: int) -> bytes:
    """Deflate, to its end and checksum; more than `most` bytes are not made room for."""
    codec = zlib.decompressobj()
    try:
        found = codec.decompress(strip, most + 1)
    except zlib.error as error:
        raise Broken(str(error)) from None
    return _ended(found, most, codec.eof)


def unlzma(strip: Bytes, most: int) -> bytes:
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


def image_by_opencv(strip: Bytes, page: Page, path: Path) -> Samples:
    """A strip or tile that is a JPEG 2000, WebP or PNG of its own."""
    if page.compression == 34933:
        strip = sound_png(bytes(strip), path)
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


def image_by_imagecodecs(strip: Bytes, page: Page, path: Path, shape: tuple[int, ...]) -> Samples:
    """A strip or tile of JPEG XL, LERC or JPEG XR, where imagecodecs is installed."""
    try:
        import imagecodecs
    except ImportError:
        why = "which is read only where the package imagecodecs is installed"
        raise refused(page, path, why, "pip install imagecodecs") from None
    decoders: dict[int, Callable[..., Any]] = {
        50002: imagecodecs.jpegxl_decode, 52546: imagecodecs.jpegxl_decode,
        34887: imagecodecs.lerc_decode,
        22610: imagecodecs.jpegxr_decode, 34934: imagecodecs.jpegxr_decode,
    }  # fmt: skip
    room = np.empty(shape if shape[2] > 1 else shape[:2], np.uint8 if page.bits == 8 else np.uint16)
    try:
        found = np.asarray(decoders[page.compression](bytes(strip), out=room))
    except Exception as error:  # its codecs raise their own
        raise Broken(str(error)) from None
    return found.reshape(shape)


def jpeg_strip(segment: Bytes, page: Page, path: Path, channels: int) -> Samples:
    """A strip or tile that is a JPEG, by the tables of its page; YCbCr comes as RGB."""
    strip, tables = bytes(segment), bytes(page.tags.get(JPEG_TABLES, b""))
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
    height, across, channels = found.shape
    out = np.empty_like(found)
    step = max(1, (1 << 18) // (across * channels))
    for top in range(0, height, step):
        # a third of the time of accumulate; of sums over all above and to the left, a row's are the
        # difference to the row above, and their lowest bytes are enough
        sums = cv2.integral(found[top : top + step], sdepth=cv2.CV_32S)
        low = np.ascontiguousarray(sums.reshape(len(sums), -1).view(np.uint8)[:, LOWEST::4])
        rows = (low[1:] - low[:-1])[:, channels:]
        out[top : top + step] = rows.reshape(-1, across, channels)
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
    known = page.predictor == 1 or (
        page.predictor == 2 and packed and deep and kind not in (1, 32773)
    )
    if not known:
        raise refused(page, path, f"with predictor {page.predictor}, which cannot be read together")
    if page.reversed_bits and not fax and kind != 1:
        raise refused(page, path, "its bits in reverse order, which cannot be read")
