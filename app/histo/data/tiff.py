"""The first page of a TIFF as RGB, by its tags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from histo.data import jpeg
from histo.data import tiff_codecs as codecs
from histo.data.header import damaged
from histo.data.libtiff import Broken, Bytes, Samples, by_opencv, by_pillow, fax, lzw_rows
from histo.data.opencv import cv2
from histo.data.tiff_tags import CMYK, COLOURED, COLOURS, PALETTE, YCBCR, Page, read_page
from histo.pixels.fit import Pixels

ALPHA_MULTIPLIED = 1
TOGETHER = 1 << 22
"""Bytes of strips or tiles that are decoded in one go."""
ROWS_AT_ONCE = 1 << 18
"""Samples that are unpacked from bits at a time."""


class Segment(NamedTuple):
    """A strip or tile: its number, where it lies, and how many rows it holds."""

    number: int
    top: int
    left: int
    rows: int
    plane: int


def read_tiff(data: bytes, path: Path) -> Pixels:
    """The first page of a TIFF; HistoError names what it is where it is not read."""
    page = read_page(data, path)
    if page.compression == 1 and page.bits == 8 and page.predictor == 1:
        found = _as_it_lies(data, page)
        if found is not None:
            return _to_rgb(found, page)
    codecs.check_compression(page, path)
    if page.compression == 5 and page.bits == 8:
        rgb = _lzw(data, page, path)
        if rgb is not None:
            return _turned(255 - rgb if page.photometric == 0 else rgb, page.orientation)
    return _to_rgb(_assembled(data, page, path), page)


def _as_it_lies(data: bytes, page: Page) -> Samples | None:
    """Bytes without compression, strip after strip without a gap, as they lie in the file."""
    if page.separate or page.tiled or page.reversed_bits or page.photometric == YCBCR:
        return None
    first, size = page.offsets[0], page.width * page.samples * page.height
    strip = page.width * page.samples * page.down
    lies = all(at == first + strip * n for n, at in enumerate(page.offsets))
    if not lies or (page.counts and sum(page.counts) < size) or first + size > len(data):
        return None
    flat = np.frombuffer(data, np.uint8, size, first)
    return flat.reshape(page.height, page.width, page.samples)


def _lzw(data: bytes, page: Page, path: Path) -> Pixels | None:
    """The usual LZW page, 8-bit grey or RGB in strips; None where it is another."""
    if (
        page.tiled
        or page.separate
        or (page.photometric, page.samples) not in ((0, 1), (1, 1), (2, 3))
    ):
        return None
    try:
        strips = [_bytes_of(data, page, number) for number in range(len(page.offsets))]
        return lzw_rows(strips, page)
    except Broken as error:
        raise damaged(path, str(error)) from None


def _assembled(data: bytes, page: Page, path: Path) -> Samples:
    """The strips or tiles of a page, each decoded, in their places."""
    if not page.tiled and len(page.offsets) == 1:
        (found,) = _decoded(data, page, [Segment(0, 0, 0, page.height, 0)], path)
        return found[: page.height]
    form = np.uint8 if page.bits <= 8 else np.uint16
    whole: Samples = np.empty((page.height, page.width, page.samples), form)
    for parts in _batches(page):
        for part, found in zip(parts, _decoded(data, page, parts, path), strict=True):
            place = whole[part.top : part.top + page.down, part.left : part.left + page.across]
            if page.separate:
                place = place[..., part.plane : part.plane + 1]
            place[:] = found[: place.shape[0], : place.shape[1]]
    return whole


def _batches(page: Page) -> Iterator[list[Segment]]:
    """Strips or tiles of one size that are decoded together, up to so many bytes."""
    most = max(1, TOGETHER // (page.across * page.down * page.samples * 2))
    for _, several in groupby(_segments(page), key=lambda part: part.rows):
        while some := list(islice(several, most)):
            yield some


def _segments(page: Page) -> Iterator[Segment]:
    number = 0
    for plane in range(page.samples if page.separate else 1):
        for top in range(0, page.height, page.down):
            rows = page.down if page.tiled else min(page.down, page.height - top)
            for left in range(0, page.width, page.across):
                yield Segment(number, top, left, rows, plane)
                number += 1


def _decoded(data: bytes, page: Page, parts: list[Segment], path: Path) -> Iterable[Samples]:
    """The samples of strips or tiles: [at least the rows wanted, page.across, channels] each."""
    channels = 1 if page.separate else page.samples
    shape = (parts[0].rows, page.across, channels)
    size = shape[0] * _row_bytes(page, shape)
    try:
        strips = [_bytes_of(data, page, part.number) for part in parts]
        if page.compression in (5, 32773):
            raw = by_opencv(strips, size, page.compression)
            return [_samples(row, page, shape) for row in raw]
        return [_decode_one(strip, page, shape, path) for strip in strips]
    except Broken as error:
        if len(parts) > 1:  # which one is it?
            return [found for part in parts for found in _decoded(data, page, [part], path)]
        kind = "tile" if page.tiled else "strip"
        raise damaged(path, f"{kind} {parts[0].number + 1}: {error}") from None


def _bytes_of(data: bytes, page: Page, number: int) -> memoryview:
    at = page.offsets[number]
    size = page.counts[number] if page.counts else len(data) - at
    if size <= 0 or at + size > len(data):
        raise Broken("it lies beyond the end of the file")
    return memoryview(data)[at : at + size]


def _decode_one(strip: Bytes, page: Page, shape: tuple[int, int, int], path: Path) -> Samples:
    kind = page.compression
    if kind == 7:
        found = codecs.jpeg_strip(strip, page, path, shape[2])
    elif kind in (34712, 33005, 34933, 50001, 34927):
        found = codecs.image_by_opencv(strip, page, path)
    elif kind in (50002, 52546, 34887, 22610, 34934):
        found = codecs.image_by_imagecodecs(strip, page, path, shape)
    else:
        row = _row_bytes(page, shape)
        raw = _decompressed(strip, page, shape[0], row)
        if len(raw) < shape[0] * row:
            raise Broken("it ends early")
        return _samples(np.frombuffer(raw, np.uint8, shape[0] * row), page, shape)
    form = np.uint8 if page.bits == 8 else np.uint16
    if found.shape[0] < shape[0] or found.shape[1:] != shape[1:] or found.dtype != form:
        raise Broken(f"it holds {found.dtype} {found.shape}, not {shape}")
    return found


def _row_bytes(page: Page, shape: tuple[int, int, int]) -> int:
    return (shape[1] * shape[2] * page.bits + 7) // 8


def _samples(raw: Samples, page: Page, shape: tuple[int, int, int]) -> Samples:
    """Samples from rows of bits or bytes, their predictor undone."""
    rows, across, channels = shape
    flat = raw.reshape(rows, -1)
    if page.compression in (2, 3, 4):
        return _bits(flat, across, channels, 1)
    if page.reversed_bits:
        flat = np.packbits(np.unpackbits(flat, axis=1, bitorder="little"), axis=1)
    if page.bits == 16:
        flat = flat.view(f"{page.order}u2").astype(np.uint16, copy=False)
    elif page.bits != 8:
        return _bits(flat, across, channels, page.bits)
    found = flat.reshape(shape)
    return codecs.undo_differences(found) if page.predictor == 2 else found


def _decompressed(strip: Bytes, page: Page, rows: int, row: int) -> Bytes:
    """The bytes of a strip, `rows` times `row` of them, or fewer where it is damaged."""
    kind = page.compression
    if kind == 1:
        return strip
    if kind in (8, 32946):
        return codecs.inflate(strip, page.down * row)
    if kind == 34925:
        return codecs.unlzma(strip, page.down * row)
    if kind in (2, 3, 4):
        return fax(strip, page, rows)
    return by_pillow(strip, rows, row, 50000)


def _bits(flat: Samples, across: int, channels: int, bits: int) -> Samples:
    """Samples of a few bits, the first bit the highest, from rows of bytes."""
    found = np.empty((len(flat), across * channels), np.uint8 if bits <= 8 else np.uint16)
    step = max(1, ROWS_AT_ONCE // (across * channels))
    worth = (1 << np.arange(bits)[::-1]).astype(found.dtype)
    for top in range(0, len(flat), step):
        some = np.unpackbits(flat[top : top + step], axis=1, count=across * channels * bits)
        found[top : top + step] = some.reshape(len(some), -1, bits) @ worth
    return found.reshape(len(flat), across, channels)


def _to_rgb(found: Samples, page: Page) -> Pixels:
    """Samples to RGB of 8 bits, as the page says what they are, the way up that it says."""
    most = (1 << page.bits) - 1
    if page.photometric == PALETTE:
        palette = np.array(page.tags[COLOURS]).reshape(3, -1).T >> 8
        rgb = palette.astype(np.uint8)[found[..., 0]]
    elif page.photometric == CMYK:
        rgb = jpeg.by_pillow(found, "CMYK")
    elif page.photometric == YCBCR and page.compression != 7:
        rgb = jpeg.by_pillow(found, "YCbCr")
    else:
        colours = 3 if page.photometric in (COLOURED, YCBCR) else 1
        rgb = _of_eight_bits(_without_alpha(found, colours, page), most)
        if page.photometric == 0:
            rgb = 255 - rgb
        if colours == 1:
            rgb = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_GRAY2RGB), np.uint8)
    return _turned(rgb, page.orientation)


def _without_alpha(found: Samples, colours: int, page: Page) -> Samples:
    """The colours alone; where they are multiplied by alpha, divided by it, as Pillow does."""
    if found.shape[2] == colours or page.extra != ALPHA_MULTIPLIED:
        return found[..., :colours]
    most = (1 << page.bits) - 1
    out = np.empty((*found.shape[:2], colours), found.dtype)
    for top, row in enumerate(found):
        alpha = row[:, colours:].astype(np.uint32)
        whole = row[:, :colours] * np.uint32(most) // np.maximum(alpha, 1)
        out[top] = np.where(alpha > 0, np.minimum(whole, most), 0)
    return out


def _of_eight_bits(found: Samples, most: int) -> Pixels:
    """Full range stays full range, rounded."""
    if most == 255:
        mine = found.flags.writeable and found.flags.c_contiguous
        return found if mine else np.array(found, np.uint8, order="C")
    if most > 255:
        scaled = cv2.convertScaleAbs(np.ascontiguousarray(found), alpha=255 / most)
        return np.asarray(scaled, np.uint8).reshape(found.shape)
    return np.asarray(found * np.uint8(255 // most), np.uint8)


def _turned(rgb: Pixels, orientation: int) -> Pixels:
    """The pixels as they are to be seen: TIFF's orientation 1 to 8."""
    if orientation in (5, 6, 7, 8):
        rgb = rgb.swapaxes(0, 1)
    down = {3: 1, 4: 1, 7: 1, 8: 1}.get(orientation, 0)
    over = {2: 1, 3: 1, 6: 1, 7: 1}.get(orientation, 0)
    if down:
        rgb = rgb[::-1]
    if over:
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(rgb)
