"""A slide as a deep-zoom pyramid: JPEG tiles made when they are asked for, the latest kept."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histo.errors import HistoError
from histo.files.limits import MB
from histo.slides.dicom import files_of
from histo.slides.reader import Pixels, Slide, bounds_of, mpp_of, open_handle

SIDE, OVERLAP = 254, 1
"""Of a tile in px, and its border that it shares with the next."""
QUALITY = 80
OPEN = 4
"""Slides open at once; that which was asked longest ago is closed."""
KEPT_BYTES = 64 * MB
"""JPEG tiles kept in memory."""


@dataclass(frozen=True)
class Facts:
    """What a viewer must know of a slide."""

    width: int
    height: int
    mpp: float | None
    """µm per px of level 0, where the slide says it"""
    bounds: tuple[int, int]
    """where maps begin, in px of level 0"""


class DeepZoom:
    """The pyramids of slides, for several threads."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[Path, int], tuple[Any, Any]] = OrderedDict()
        self._tiles: OrderedDict[tuple[Path, int, int, int, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def facts(self, path: Path) -> Facts:
        """Size, µm per px and bounds; HistoError for what is no slide."""
        handle, _ = self._opened(path)
        mpp = None
        with suppress(HistoError):  # as for a map: what the slide does not say, or says wrongly
            mpp = mpp_of(handle.properties, path)
        width, height = handle.dimensions
        return Facts(width, height, mpp, bounds_of(handle.properties))

    def tile(self, path: Path, level: int, column: int, row: int) -> bytes:
        """A tile as a JPEG: level 0 is 1 px, each next one twice as large. HistoError outside."""
        key = (path, changed(path), level, column, row)
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
        made = self._make(path, level, column, row)
        with self._lock:
            if key not in self._tiles:
                self._tiles[key] = made
                self._bytes += len(made)
            while self._bytes > KEPT_BYTES:
                self._bytes -= len(self._tiles.popitem(last=False)[1])
        return made

    def region(self, path: Path, x: int, y: int, side: int, scale: float) -> Pixels:
        """`side` x `side` px of `scale` level-0 px each, from the corner x, y: uint8 [side, side, 3]."""
        handle, _ = self._opened(path)
        return Slide(path, handle, 1.0).read(x, y, side, side, scale=scale)

    def _make(self, path: Path, level: int, column: int, row: int) -> bytes:
        _, pyramid = self._opened(path)
        inside = 0 <= level < pyramid.level_count and all(
            0 <= place < count
            for place, count in zip((column, row), pyramid.level_tiles[level], strict=True)
        )
        if not inside:
            raise HistoError("there is nothing at that place of the slide")
        try:
            picture = pyramid.get_tile(level, (column, row))
        except Exception as error:  # OpenSlide's errors, and ctypes' own
            raise HistoError(f"the slide cannot be read there ({error})") from None
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=QUALITY)
        return file.getvalue()

    def _opened(self, path: Path) -> tuple[Any, Any]:
        """The slide and its pyramid; one that has changed is opened again.

        A slide that falls out closes when the last thread that reads it lets it go.
        """
        key = (path, changed(path))
        with self._lock:
            if key not in self._open:
                self._open[key] = opened(path)
            self._open.move_to_end(key)
            while len(self._open) > OPEN:
                self._open.popitem(last=False)
            return self._open[key]


def opened(path: Path) -> tuple[Any, Any]:
    """OpenSlide's handle of a slide, and its deep-zoom pyramid. Raises HistoError."""
    handle = open_handle(next(iter(files_of(path)), path), path.name)
    from openslide.deepzoom import DeepZoomGenerator

    return handle, DeepZoomGenerator(handle, SIDE, OVERLAP, limit_bounds=False)


def changed(path: Path) -> int:
    """When a file was last changed; HistoError where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        raise HistoError("there is nothing of that name in the folder that is served") from None
