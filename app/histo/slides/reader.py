"""A whole slide: its size, µm per px and bounds, and pixels at any scale; by OpenSlide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.errors import HistoError
from histo.files.limits import IMAGE_PIXELS, Limit
from histo.slides.dicom import files_of

LEAST_MPP, MOST_MPP = 0.05, 50.0
LEVEL_PIXELS = Limit("HISTO_MAX_LEVEL_PIXELS", 20_000_000_000, "pixels")
"""Of a slide's smallest level, all of which is read to find the tissue: in minutes, up to this."""
SQUARE = 1.02
"""A slide whose px are longer than wide by more than this has no single µm per px."""
BACKGROUND = 255
"""Of what a slide has no pixels for."""
OPAQUE = 0xFF000000
"""The least value of an opaque px as one little-endian number: alpha is its highest byte."""
AT_ONCE = 1 << 24
"""Most px of a level that are read at once: larger regions are read in parts."""
Pixels = NDArray[np.uint8]


class Slide:
    """An open slide, to be closed; its methods may be called from several threads."""

    def __init__(self, path: Path, handle: Any, mpp: float) -> None:
        self.path, self._handle, self.mpp = path, handle, mpp
        width, height = handle.dimensions
        self.size: tuple[int, int] = (int(width), int(height))
        known = handle.properties
        self.bounds = bounds_of(known)
        """where the scanned area begins on level 0: 0, 0 for most slides"""
        wide, high = (_whole(known.get(f"openslide.bounds-{side}")) for side in ("width", "height"))
        left, top = self.bounds
        self.scanned: tuple[int, int] = (
            min(wide or self.size[0], self.size[0] - left),
            min(high or self.size[1], self.size[1] - top),
        )
        """its width and height"""

    @property
    def end(self) -> tuple[int, int]:
        """Where the scanned area ends on level 0."""
        return self.bounds[0] + self.scanned[0], self.bounds[1] + self.scanned[1]

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.close()

    def read(self, x: int, y: int, width: int, height: int, *, scale: float) -> Pixels:
        """`width` x `height` px of `scale` level-0 px each, from the level-0 corner x, y: uint8 [H, W, 3].

        From the next finer level, area-averaged down; in parts, so that memory is bounded.
        """
        steps = self._handle.level_downsamples
        level = max((n for n, step in enumerate(steps) if step <= scale * 1.01), default=0)
        ratio = scale / steps[level]
        most = AT_ONCE / (ratio * ratio)
        if most < 1:
            raise HistoError(
                f"{self.path} has no small level: its smallest is {ratio:,.0f} times finer than needed"
            )
        columns = min(width, int(most))
        rows = min(height, int(most / columns))
        if (columns, rows) == (width, height):
            return self._part(x, y, (width, height), level, ratio)
        pixels = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                shape = (min(columns, width - left), min(rows, height - top))
                at = (x + round(left * scale), y + round(top * scale))
                part = self._part(*at, shape, level, ratio)
                pixels[top : top + rows, left : left + columns] = part
        return pixels

    def _part(self, x: int, y: int, shape: tuple[int, int], level: int, ratio: float) -> Pixels:
        """A region of `shape` (width, height), each of its px `ratio` px of the level wide."""
        import cv2

        wanted = (max(1, round(shape[0] * ratio)), max(1, round(shape[1] * ratio)))
        pixels = self._region(x, y, level, wanted)
        if wanted == shape:
            return pixels
        how = cv2.INTER_AREA if ratio >= 1 else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(pixels, shape, interpolation=how), np.uint8)

    def _region(self, x: int, y: int, level: int, shape: tuple[int, int]) -> Pixels:
        try:
            region = np.asarray(self._handle.read_region((x, y), level, shape))
        except Exception as error:  # OpenSlide's errors, and ctypes' own
            raise HistoError(f"{self.path} cannot be read at {x}, {y} ({error})") from None
        return on_background(region)

    def thumbnail(self, mpp: float) -> Pixels:
        """The scanned area at `mpp` µm per px, uint8 [H, W, 3]."""
        scale = mpp / self.mpp
        width, height = (max(1, round(whole / scale)) for whole in self.scanned)
        return self.read(*self.bounds, width, height, scale=scale)


def on_background(region: Pixels) -> Pixels:
    """The colours of a region, uint8 [H, W, 4] RGBA, which is white where it is not opaque."""
    import cv2

    colours = np.asarray(cv2.cvtColor(region, cv2.COLOR_RGBA2RGB), np.uint8)
    if region.view("<u4").min() < OPAQUE:  # in one pass: the alpha of nearly every region is 255
        colours[region[..., 3] != 255] = BACKGROUND
    return colours


def open_slide(path: Path, *, mpp: float | None = None, unsaid: float | None = None) -> Slide:
    """Open a slide, a file or a folder of DICOM files.

    `mpp` is its µm per px whatever it says, `unsaid` that of one which does not say it, or says what
    cannot be. Raises HistoError.
    """
    first = path if path.is_file() else next(iter(files_of(path)), None)
    if first is None:
        raise HistoError(f"no slide {path}")
    handle = open_handle(first, path)
    try:
        return Slide(path, handle, mpp or said_mpp(handle.properties, path, unsaid))
    except HistoError:
        handle.close()
        raise


def check_size(handle: Any, path: Path | str) -> None:
    """HistoError for a slide that would take hours or gigabytes: no level is small, or a tile is large.

    Also where its scanned area is said to begin outside of it.
    """
    known = handle.properties
    for level in range(handle.level_count):
        names = (f"openslide.level[{level}].tile-{side}" for side in ("width", "height"))
        IMAGE_PIXELS.check(math.prod(_whole(known.get(n)) for n in names), f"{path}: each tile")
    LEVEL_PIXELS.check(math.prod(handle.level_dimensions[-1]), f"{path}: its smallest level")
    for start, side in zip(bounds_of(known), handle.dimensions, strict=True):
        if start >= side:
            raise HistoError(f"{path} says that its scanned area begins outside of it")


def open_handle(file: Path, called: Path | str) -> Any:
    """OpenSlide's handle of a slide, which errors name as `called`. Raises HistoError."""
    try:
        import openslide
    except ImportError:
        raise HistoError("slides need OpenSlide: pip install 'histolearn[slides]'") from None
    try:
        handle = openslide.OpenSlide(str(file))
    except (openslide.OpenSlideError, OSError) as error:
        said = "" if isinstance(called, str) else f" ({error})"
        raise HistoError(f"{called} is not a slide that OpenSlide reads{said}") from None
    try:
        check_size(handle, called)
    except HistoError:
        handle.close()
        raise
    return handle


def bounds_of(properties: Mapping[str, str]) -> tuple[int, int]:
    """Where the scanned area begins on level 0: 0, 0 for most slides."""
    x, y = (_whole(properties.get(f"openslide.bounds-{axis}")) for axis in "xy")
    return x, y


def said_mpp(properties: Mapping[str, str], path: Path, unsaid: float | None) -> float:
    """`mpp_of`, or `unsaid` where that is an error and this is known."""
    try:
        return mpp_of(properties, path)
    except HistoError:
        if unsaid is None:
            raise
        return unsaid


def mpp_of(properties: Mapping[str, str], path: Path) -> float:
    """µm per px as a slide says it; HistoError where it does not, or says what no slide has."""
    values = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    known = [value for value in values if value is not None]
    if not known:
        raise HistoError(f"{path} does not say how many µm a px has", "give {slide_mpp}")
    if max(known) > SQUARE * min(known):
        raise HistoError(
            f"{path} has px of {known[0]:g} x {known[1]:g} µm, which are not square",
            "give {slide_mpp}",
        )
    found = sum(known) / len(known)
    if not LEAST_MPP <= found <= MOST_MPP:
        raise HistoError(f"{path} has {found:g} µm per px, which no slide has", "give {slide_mpp}")
    return found


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _whole(text: str | None) -> int:
    return int(_number(text) or 0)
