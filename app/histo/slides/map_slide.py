"""The map of one slide: its tiles predicted, and every file of its folder written."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histo.data.appearance import Appearance, Drift, appearance_of, drift_of
from histo.files.tables import csv_writer
from histo.files.writing import written
from histo.run.calls import call
from histo.screen import Screen
from histo.slides.grid import Grid, Places, in_blocks, make_grid
from histo.slides.heat import Heat, Scheme, make_heat, slide_score
from histo.slides.heatmap import write_heatmap
from histo.slides.journal import Journal
from histo.slides.lesions import find_lesions
from histo.slides.map_geojson import area_mm2, write_geojson
from histo.slides.overlay import colours_over, thumbnail_mpp, write_overlay
from histo.slides.regions import count_regions
from histo.slides.summary import ClassFigures, SlideRow
from histo.slides.tile_predictions import Predict, Tiles, predict_tiles, read_tiles
from histo.slides.tile_table import write_hdf5, write_tiles

if TYPE_CHECKING:
    from histo.slides.reader import Slide

SHOWN = 12
"""Highest and least certain tiles on a slide's page."""
SAMPLE = 256
"""Tiles of a slide that are compared with the training patches."""
COARSER = 1.2
"""A slide with so many times the model's µm per px is said to be too coarse."""
ChooseTiles = Callable[["Slide", Grid], "tuple[Places, float]"]
"""The tiles with tissue, int32 [N, 2] column and row, and the slide's tissue in mm²."""


@dataclass(frozen=True)
class MapModel:
    """A model as a map needs it."""

    predict: Predict
    scheme: Scheme
    side: int
    """of a tile in px, at `mpp` µm per px"""
    mpp: float
    facts: Mapping[str, Any]
    """the bundle (SHA-256 of its card), its engine, and how many views of a tile are averaged"""
    trained: Appearance | None = None


@dataclass(frozen=True)
class MapSettings:
    """How a slide is mapped."""

    stride: int | None = None
    batch_size: int = 64
    hdf5: bool = False
    tissue: str = ""
    """how tiles are chosen, for the key"""


@dataclass(frozen=True)
class Picture:
    """What the page of a slide shows."""

    thumbnail: Tiles
    """the slide, uint8 [H, W, 3]"""
    colours: NDArray[np.uint8]
    """its map, uint8 [H, W, 4]"""
    mpp: float
    """µm per px of both"""
    highest: list[tuple[Tiles, str]] = field(default_factory=list)
    """tiles with captions"""
    uncertain: list[tuple[Tiles, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Mapped:
    """A slide whose files are written: its row, and what its page shows."""

    row: SlideRow
    picture: Picture
    heat: Heat
    drift: Drift | None
    mpp: float
    """of the model"""
    files: Sequence[str]
    """that were written"""


def key_of(model: MapModel, settings: MapSettings, slide: Slide, slide_print: str) -> str:
    """Identifies the work: other bytes of the slide, model or settings give another."""
    facts: list[Any] = [
        model.facts,
        model.mpp,
        model.side,
        asdict(settings),
        model.scheme.positive,
        model.scheme.threshold,
        slide_print,
        slide.mpp,
        slide.size,
        slide.bounds,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def map_slide(
    slide: Slide,
    name: str,
    folder: Path,
    key: str,
    model: MapModel,
    settings: MapSettings,
    choose: ChooseTiles,
    screen: Screen,
) -> Mapped:
    """Write every file of a slide's map but its page into `folder`.

    A `folder` that an earlier process left behind is continued if its `key` is the same.
    """
    grid = make_grid(slide.end, slide.bounds, model.mpp / slide.mpp, model.side, settings.stride)
    chosen, tissue_mm2 = choose(slide, grid)
    places = in_blocks(grid, chosen)
    journal = Journal(folder, key, len(model.scheme.vocab))
    for left in folder.iterdir():  # by a process that was killed while it wrote
        if left not in journal.files:
            left.unlink()
    with screen.bar(name, len(places), journal.rows) as advance:
        predict_tiles(slide, grid, places, model.predict, journal, settings.batch_size, advance)
    probabilities = journal.read()
    scheme = model.scheme
    called = call(probabilities, scheme.threshold, scheme.positive)
    heat = make_heat(grid, scheme, places, probabilities)
    write_tables(folder, slide, name, heat, places, probabilities, called, settings)
    drift = measure_drift(slide, grid, places, model.trained)
    picture = make_picture(slide, heat, places, probabilities)
    journal.remove()
    write_overlay(folder / "overlay.png", picture.thumbnail, picture.colours, scheme, picture.mpp)
    row = SlideRow(
        name,
        slide.path.name,
        slide.mpp,
        len(places),
        tissue_mm2,
        figures_of(heat, slide.mpp),
        drift.most if drift else math.nan,
        warnings=warnings_of(slide, model, places, drift),
    )
    files = sorted(path.name for path in folder.iterdir())
    return Mapped(row, picture, heat, drift, model.mpp, files)


def write_tables(
    folder: Path,
    slide: Slide,
    name: str,
    heat: Heat,
    places: Places,
    probabilities: NDArray[np.float64],
    called: NDArray[np.int64],
    settings: MapSettings,
) -> None:
    """Write tiles.csv, heatmap.tiff, map.geojson and, of two classes, lesions.csv."""
    grid, scheme = heat.grid, heat.scheme
    write_tiles(folder / "tiles.csv", grid, places, probabilities, scheme.vocab)
    if settings.hdf5:
        write_hdf5(folder / "tiles.h5", name, grid, places, probabilities, slide.size)
    write_heatmap(folder / "heatmap.tiff", heat, slide.mpp)
    write_geojson(folder, heat, places, probabilities, called, slide.mpp)
    if len(scheme.vocab) == 2:
        with written(folder / "lesions.csv", "w") as file:
            table = csv_writer(file)
            table.writerow(("confidence", "x", "y"))
            for one in find_lesions(heat, scheme.positive, slide.mpp):
                table.writerow((f"{one.confidence:.9g}", one.x, one.y))


def figures_of(heat: Heat, mpp: float) -> dict[str, ClassFigures]:
    """The figures of each shown class."""
    called, known = heat.called, int(heat.known.sum())
    found = {}
    for code in heat.scheme.shown:
        cells = int((called == code).sum())
        values = heat.of(code)
        found[heat.scheme.vocab[code]] = ClassFigures(
            mm2=area_mm2(heat.grid, cells, mpp),
            share=cells / known if known else 0.0,
            maximum=float(np.nanmax(values)) if known else math.nan,
            score=slide_score(values),
            regions=count_regions(heat, code),
        )
    return found


def measure_drift(
    slide: Slide, grid: Grid, places: Places, trained: Appearance | None
) -> Drift | None:
    """How unlike the training patches a slide's tiles look; None where that is not known."""
    if trained is None or len(places) < 2:
        return None
    chosen = np.unique(np.linspace(0, len(places) - 1, SAMPLE).astype(np.int64))
    found = appearance_of(read_tiles(slide, grid, places[chosen]))
    return drift_of(found, trained) if found else None


def make_picture(
    slide: Slide, heat: Heat, places: Places, probabilities: NDArray[np.float64]
) -> Picture:
    """The slide's small picture, its map, and the tiles of its page."""
    grid, scheme = heat.grid, heat.scheme
    thumbnail = slide.thumbnail(thumbnail_mpp(slide.scanned, slide.mpp))
    height, width = thumbnail.shape[:2]
    colours = colours_over(heat, (height, width), slide.scanned)
    highest, uncertain = tiles_shown(scheme, probabilities)

    def tiles(rows: NDArray[np.int64]) -> list[tuple[Tiles, str]]:
        corners = grid.corners(places[rows]).tolist() if len(rows) else []
        pixels = read_tiles(slide, grid, places[rows])
        return [
            (tile, caption(scheme, probabilities[row], corner))
            for tile, row, corner in zip(pixels, rows, corners, strict=True)
        ]

    mpp = slide.scanned[0] * slide.mpp / width
    return Picture(thumbnail, colours, mpp, tiles(highest), tiles(uncertain))


def tiles_shown(
    scheme: Scheme, probabilities: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the highest and of the least certain tiles."""
    if len(scheme.vocab) == 2:
        scores = probabilities[:, scheme.positive]
        doubt = np.abs(scores - scheme.threshold)
    else:
        scores = doubt = probabilities.max(1) if len(probabilities) else np.empty(0)
    return (
        np.argsort(-scores, kind="stable")[:SHOWN],
        np.argsort(doubt, kind="stable")[:SHOWN],
    )


def caption(scheme: Scheme, values: NDArray[np.float64], corner: Sequence[int]) -> str:
    """The probability of a tile, and where it is."""
    code = scheme.positive if len(values) == 2 else int(values.argmax())
    return f"p({scheme.vocab[code]}) {values[code]:.3f} at {corner[0]}, {corner[1]}"


def warnings_of(slide: Slide, model: MapModel, places: Places, drift: Drift | None) -> list[str]:
    """What a reader of the map must know."""
    found = []
    if not len(places):
        found.append("no tissue was found")
    if slide.mpp > COARSER * model.mpp:
        found.append(
            f"the slide has {slide.mpp:.3g} µm per px, coarser than the {model.mpp:.3g} of the "
            "model: its tiles are enlarged"
        )
    if drift and drift.unlike:
        found.append(str(drift))
    return found
