"""What the page of slides needs of the layer that reads slides and makes maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from histo.pixels.fit import Pixels

Box = tuple[float, float, float, float]
"""x, y, width and height in px of level 0."""
State = Literal["none", "starting", "running", "stopping", "stopped", "finished", "failed"]


@dataclass(frozen=True)
class SlideRow:
    """A slide of the folder, and how many maps of it there are."""

    name: str
    maps: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class LeftOut:
    """Files of a folder that are not listed, and why."""

    folder: str
    files: int
    why: str


@dataclass(frozen=True)
class Listing:
    """The slides of the folder that is served, by name, and what of it is not listed."""

    slides: list[SlideRow]
    left_out: list[LeftOut]


@dataclass(frozen=True)
class MapName:
    """A map of a slide: the folder of maps, and the slide's name in it."""

    folder: str
    slide: str
    classes: list[str]


@dataclass(frozen=True)
class SlideAbout:
    """What the viewer must know of a slide."""

    name: str
    width: int
    height: int
    mpp: float | None
    """µm per px of level 0; None where the slide does not say it"""
    bounds: tuple[int, int]
    """where maps begin, in px of level 0"""
    tile: int
    overlap: int
    changed: int
    """differs when the file has changed: tiles are kept by the browser"""
    maps: list[MapName]


@dataclass(frozen=True)
class Region:
    """A region of a map, the largest first: its area, and the box around it in level-0 px."""

    name: str
    code: int
    mm2: float
    highest: float
    box: Box


@dataclass(frozen=True)
class SlideMap:
    """A map, as the page lays it over the slide."""

    classes: list[str]
    threshold: float | None
    cell: float
    """side of a cell in level-0 px"""
    columns: int
    rows: int
    values: str
    """base64 of bytes, class by class, row by row: 0 where no tile is, else 1 + 254 p"""
    regions: list[Region]
    warnings: list[str]


@dataclass(frozen=True)
class Start:
    """A map to make, or to go on with."""

    slide: str
    bundle: str
    mpp: float | None = None
    """of the model's patches, where the bundle does not say"""
    slide_mpp: float | None = None
    """of the slide, where it does not say"""


@dataclass(frozen=True)
class Making:
    """How far the map is that is being made, or was made last."""

    state: State = "none"
    slide: str = ""
    bundle: str = ""
    done: int = 0
    total: int = 0
    """tiles"""
    seconds: float = 0.0
    message: str = ""


class Slides(Protocol):
    """The slides of the folder that is served. Methods raise HistoError."""

    def listing(self) -> Listing:
        """Every slide, by name."""

    def about(self, name: str) -> SlideAbout:
        """One slide, with its maps."""

    def tile(self, name: str, level: int, column: int, row: int) -> bytes:
        """A JPEG of its deep-zoom pyramid."""

    def map(self, name: str, folder: str, slide: str) -> SlideMap:
        """A map of it."""

    def around(self, slide: str, box: Box, patch: Pixels) -> bytes | None:
        """A JPEG of what is around a patch, outlined; None where no slide of that name has it there."""

    def start(self, start: Start) -> Making:
        """Start a map, or go on with one that was stopped."""

    def stop(self) -> Making:
        """Stop the map that is being made; what is done of it stays."""

    def making(self) -> Making:
        """How far it is."""

    def close(self) -> None:
        """Stop, and wait until nothing is written any more."""
