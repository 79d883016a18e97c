"""The pages of `histo map`: one for each slide, and the index over all of them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from histo.data.appearance import FIGURES
from histo.errors import HistoError
from histo.files.limits import IMAGE_BYTES, IMAGE_PIXELS, check_folder, read_bytes
from histo.report.map_page import (
    INDEX_PAGE,
    SLIDE_PAGE,
    THUMBNAILS,
    IndexPage,
    SlidePage,
    write_index,
)
from histo.screen import Screen, counted
from histo.slides.map_slide import Mapped
from histo.slides.maps_folder import MapsFolder
from histo.slides.slide_files import quiet_open
from histo.slides.summary import SlideRow, digits

if TYPE_CHECKING:
    from histo.slides.tile_predictions import Tiles


def slide_page(done: Mapped) -> SlidePage:
    """The page of a slide."""
    row, picture, scheme = done.row, done.picture, done.heat.scheme
    facts = {
        "file": row.file,
        "µm per px": f"{row.mpp:.4g} (model {done.mpp:.4g})",
        "tiles": f"{row.tiles:,}",
        "tissue": f"{row.tissue_mm2:.2f} mm²",
    }
    for name, figures in row.classes.items():
        facts[f"called {name}"] = (
            f"{figures.mm2:.3f} mm² ({100 * figures.share:.1f} % of what was mapped) in "
            f"{counted(figures.regions, 'region')}; highest {digits(figures.maximum, 3)}, "
            f"score {digits(figures.score, 3)}"
        )
    if done.drift:
        parts = [f"{name} {done.drift.by_figure[name]:+.1f}" for name in FIGURES]
        facts["drift"] = f"{', '.join(parts)} (standard deviations of the training patches)"
    if len(scheme.vocab) == 2:
        name = scheme.vocab[scheme.positive]
        legend = (
            f"The probability of class {name}: blue is 0, vermilion 1. Tiles are called {name} from "
            f"{scheme.threshold:.3f} on."
        )
    else:
        legend = "Each tile has the colour of the class called: see overlay.png."
    return SlidePage(
        row.slide,
        row.warnings,
        facts,
        encoded(picture.thumbnail, "JPEG"),
        encoded(picture.colours, "PNG"),
        legend,
        [(encoded(tile, "JPEG"), text) for tile, text in picture.highest],
        [(encoded(tile, "JPEG"), text) for tile, text in picture.uncertain],
        {name: what for name, what in FILES.items() if name in done.files},
    )


FILES = {
    "tiles.csv": "every tile with its probabilities",
    "tiles.h5": "the same in CLAM's layout",
    "heatmap.tiff": "for QuPath, napari, OpenSlide: in register with the slide",
    "map.geojson": "regions and tiles for QuPath",
    "map.geojson.gz": "regions and tiles for QuPath",
    "lesions.csv": "the highest places, in Camelyon16's form",
    "overlay.png": "the map over the slide",
}


def encoded(pixels: Tiles, kind: str) -> bytes:
    """A picture as the bytes of a JPEG or a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=85)
    return file.getvalue()


def finish(out: Path, screen: Screen) -> int:
    """Write slides.csv and index.html, once all slides are done; returns how many have no map."""
    folder = MapsFolder.read(out)
    check_folder(out, "the maps")
    rows = folder.write_table()
    failed = [row for row in rows if row.error]
    good = [row for row in rows if not row.error]
    write_index(
        out / INDEX_PAGE,
        IndexPage(
            f"Maps of {counted(len(rows), 'slide')}",
            f"{counted(len(good), 'slide')} mapped at {folder.settings['mpp']:g} µm per px.",
            index_rows(rows, folder.classes),
            {row.slide: f"{row.slide}/{SLIDE_PAGE}" for row in good},
            [
                (row.slide, small_picture(folder.of(row.slide) / "overlay.png"))
                for row in good[:THUMBNAILS]
            ],
            [f"{row.slide} has no map: {row.error}" for row in failed],
        ),
    )
    screen.say(f"maps: {out} ({counted(len(good), 'slide')}; open {out / INDEX_PAGE})")
    return len(failed)


def small_picture(path: Path) -> bytes:
    """A picture of 200 px at most as a JPEG."""
    try:
        return _small(read_bytes(path, IMAGE_BYTES), path)
    except FileNotFoundError:
        raise HistoError(f"no file {path}", "remove that folder and map the slide again") from None


def _small(data: bytes, path: Path) -> bytes:
    """The same of the bytes of a PNG, which may be a stranger's."""
    try:
        with quiet_open(io.BytesIO(data)) as picture:
            IMAGE_PIXELS.check(picture.width * picture.height, str(path))
            picture.thumbnail((200, 200))
            return encoded(np.asarray(picture.convert("RGB")), "JPEG")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise HistoError(f"{path} cannot be read as an image") from None


def index_rows(rows: Sequence[SlideRow], classes: Sequence[str]) -> list[list[str]]:
    """The table of the index."""
    head = ["slide", "tissue mm²"]
    for name in classes:
        head += [f"called {name}, mm²", "share", "max", "score"]
    table = [[*head, "drift", "notes"]]
    for row in rows:
        cells = [row.slide, digits(row.tissue_mm2, 2)]
        for name in classes:
            one = row.classes.get(name)
            values = (one.mm2, one.share, one.maximum, one.score) if one else (math.nan,) * 4
            cells += [digits(value, 3) for value in values]
        notes = "failed" if row.error else counted(len(row.warnings), "warning")
        table.append([*cells, digits(row.drift, 1), notes if row.error or row.warnings else ""])
    return table
