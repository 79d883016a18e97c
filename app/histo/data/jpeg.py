"""JPEGs, whole ones only: libjpeg-turbo fills what is missing with grey and merely warns.

simplejpeg hands its warnings over as errors, keeps them off stderr, and gives the pixels that
OpenCV and Pillow give. JPEG has no checksum: bytes that were changed or lost and decode to as many
blocks as before cannot be seen, but for zeros, which hardly stand in line in a picture.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import simplejpeg

from histo.data.header import RESAVE, check_pixels, damaged
from histo.errors import HistoError
from histo.pixels.fit import Pixels

MAX_SCANS = 100
"""Scans of a JPEG, as in libtiff: each is a pass over all of it, and a thousand fit in a page."""
MAX_SEGMENTS = 10_000
"""Before the first scan: a colour profile has 255 at most."""
HOLE, PROGRESSIVE_HOLE = 16, 48
"""Zeros in line: 40 coefficients of -1 one after the other, or 30 blocks of one colour; a progressive
JPEG has scans of single bits. Of 22,000 whole ones of textured and of flat pictures none had so many."""
AFTER_SCAN = re.compile(rb"\xff[^\0\xd0-\xd7\xff]")
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers that begin a frame; the others of these are tables, or reserved."""
READ = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive"}
"""Frames by Huffman codes of 8 bits, which every libjpeg reads."""
DAMAGE = ("Corrupt", "Premature", "Inconsistent", "Invalid", "Bogus", "Unsupported marker")
"""How libjpeg-turbo's complaints begin where pixels are wrong; of others it only takes note."""


class Frame(NamedTuple):
    """What stands before the first scan of a JPEG."""

    marker: int
    precision: int
    width: int
    height: int
    components: bytes
    """their ids"""
    scan: int
    """where the marker of the first scan stands"""


def read_jpeg(data: bytes, path: Path) -> Pixels:
    """A JPEG file as RGB; its EXIF orientation is ignored, as Pillow and fastai do."""
    frame = frame_of(data, path)
    check_pixels(frame.width, frame.height, path)
    if len(frame.components) == 4:
        # their negatives are stored, as Adobe does and Pillow assumes
        return by_pillow(255 - decode_jpeg(data, frame, "CMYK", path), "CMYK")
    return decode_jpeg(data, frame, "RGB", path)


def decode_jpeg(data: bytes, frame: Frame, colours: str, path: Path) -> Pixels:
    """The pixels of a whole JPEG in one of simplejpeg's colour spaces; HistoError where damaged."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, colours)
    except ValueError as error:
        if str(error).startswith(DAMAGE):
            raise damaged(path, str(error)) from None
        pixels = _forgiven(data, colours, error, path)
    if pixels.shape[:2] != (frame.height, frame.width):
        raise damaged(path, "its two headers differ")
    if data.find(bytes(HOLE), frame.scan) >= 0:
        check_hole(data, frame, pixels, path)
    return pixels


def check_hole(data: bytes, frame: Frame, pixels: Pixels, path: Path) -> None:
    """Refuse zeros in line among the pixels' bytes, but where the picture is flat.

    In a file that was not wholly written, zeros take the place of blocks of the disk.
    """
    zeros = (run for scan in scans_of(data, frame) for run in re.findall(rb"\0{16,}", scan))
    longest = max(map(len, zeros), default=0)
    least = PROGRESSIVE_HOLE if frame.marker == 0xC2 else HOLE
    if longest >= least and longest > flat_blocks(pixels):
        raise damaged(path, f"{longest} zeros stand where pixels should")


def scans_of(data: bytes, frame: Frame) -> Iterator[bytes]:
    """The coded bytes of each scan, without the headers and tables between them."""
    at, marker = frame.scan, 0xDA
    while marker != 0xD9:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            found = AFTER_SCAN.search(data, at)
            end = found.start() if found else len(data)
            yield data[at:end]
            at = end
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return
        marker = data[at + 1]


def flat_blocks(pixels: Pixels) -> int:
    """Blocks of 8x8 px of one lightness or of one hue."""
    height, width = (side // 8 * 8 for side in pixels.shape[:2])
    whole = pixels[:height, :width].reshape(height // 8, 8, width // 8, 8, -1).astype(np.int16)
    green = whole[..., min(1, whole.shape[-1] - 1)]
    flat = np.ptp(green, axis=(1, 3)) <= 8
    if whole.shape[-1] == 3:
        hue = np.stack([whole[..., 0] - green, whole[..., 2] - green])
        flat |= np.ptp(hue, axis=(2, 4)).max(0) <= 8
    return int(flat.sum())


def _forgiven(data: bytes, colours: str, error: ValueError, path: Path) -> Pixels:
    """The pixels in spite of a complaint that is not about them."""
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colours, strict=False), np.uint8)
    except ValueError:
        why = "its channels are of unusual sizes" if "subsampling" in str(error) else str(error)
        raise HistoError(f"{path} is a JPEG that cannot be read: {why}", RESAVE) from None


def by_pillow(samples: Pixels, mode: str) -> Pixels:
    """Samples of one of Pillow's modes, four inks or YCbCr, as the RGB that Pillow makes of them."""
    from PIL import Image

    height, width = samples.shape[:2]
    image = Image.frombuffer(mode, (width, height), samples.tobytes(), "raw", mode, 0, 1)
    return np.array(image.convert("RGB"))


def frame_of(data: bytes, path: Path) -> Frame:
    """The frame before the first scan; HistoError where it is missing or of a kind not read."""
    try:
        frame = _walk(data)
    except (struct.error, IndexError, ValueError):
        raise damaged(path, "it ends before its pixels begin") from None
    if frame is None:
        raise damaged(path, "its header is missing")
    if frame.precision != 8:
        raise HistoError(f"{path} is a JPEG of {frame.precision} bits; only 8 can be read", RESAVE)
    if frame.marker not in READ:
        raise HistoError(f"{path} is an arithmetic or lossless JPEG, which is not read", RESAVE)
    if len(frame.components) not in (1, 3, 4):
        raise HistoError(f"{path} is a JPEG of {len(frame.components)} channels", RESAVE)
    if frame.marker == 0xC2 or data.count(b"\xff\xda", frame.scan) > 1:
        check_scans(data, frame, path)
    return frame


def _walk(data: bytes) -> Frame | None:
    """The segments from the first to the first scan."""
    at, found = 2, None
    for _ in range(MAX_SEGMENTS):
        at = data.index(0xFF, at)
        while data[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker = data[at + 1]
        if marker == 0xDA:
            return found and Frame(*found, at)
        if marker == 0xD9:
            return None
        if marker == 1 or 0xD0 <= marker <= 0xD8:  # stand alone
            at += 2
            continue
        if marker in FRAMES:
            bits, height, width, n = struct.unpack_from(">BHHB", data, at + 4)
            found = (marker, bits, width, height, data[at + 10 : at + 10 + 3 * n : 3])
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def check_scans(data: bytes, frame: Frame, path: Path) -> None:
    """Refuse a JPEG whose scans do not bring every component to its last bit.

    libjpeg does without the scans that are missing; a file cut between two of them, its end marker
    in place, is a blurred picture without a complaint.
    """
    if data.count(b"\xff\xda", frame.scan) > MAX_SCANS:
        raise HistoError(f"{path} is a JPEG of more than {MAX_SCANS} scans: no camera writes that")
    due = dict.fromkeys(frame.components, (1 << 64) - 1)  # coefficients, a bit each
    at = frame.scan
    while at >= 0 and any(due.values()):
        n = data[at + 4] if at + 4 < len(data) else 0
        after = at + 5 + 2 * n
        if len(data) < after + 3:
            break
        first, last, bit = data[after], data[after + 1], data[after + 2] & 15
        if frame.marker != 0xC2:
            first, last, bit = 0, 63, 0
        if bit == 0 and first <= last < 64:
            for part in data[at + 5 : after : 2]:
                due[part] = due.get(part, 0) & ~((2 << last) - (1 << first))
        at = data.find(b"\xff\xda", after)
    if any(due.values()):
        raise damaged(path, "some of its scans are missing")
