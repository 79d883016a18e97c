"""The slides of `histo serve`: which there are, their tiles, their maps, and the making of a map."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from histo.commands.serve_maps import MapMaker
from histo.errors import HistoError
from histo.model.card import CARD
from histo.slides.companions import stays_inside
from histo.slides.deepzoom import OVERLAP, SIDE, DeepZoom
from histo.slides.map_view import read_map
from histo.slides.maps_folder import MAPS_JSON, MapsFolder
from histo.slides.slide_files import ONLY_SLIDES, SUFFIXES, is_slide
from histo.slides.summary import SLIDE_JSON, read_row
from histo.web.served import Served
from histo.web.slides import Making, MapName, Region, SlideAbout, SlideMap, SlideRow, Start

TIFFS = 200
"""A folder with more TIFFs holds patches: none of them is looked at."""
NOTHING = "there is nothing of that name in the folder that is served"


class ServedSlides:
    """The slides of one folder."""

    def __init__(self, served: Served, device: str, precision: str) -> None:
        self._served, self._zoom = served, DeepZoom()
        self._precision = precision
        self._maker = MapMaker(served.root, device, precision)

    def rows(self) -> list[SlideRow]:
        """Every slide, by name; none where OpenSlide is not installed."""
        if find_spec("openslide") is None:
            return []
        maps = list(self._maps())
        return [
            SlideRow(name, sum(file == path.name for file, _ in maps), path.stat().st_size)
            for name, path in sorted(self._slides())
        ]

    def about(self, name: str) -> SlideAbout:
        """One slide, with its maps."""
        path = self._path(name)
        facts = self._zoom.facts(path)
        maps = [found for file, found in self._maps() if file == path.name]
        return SlideAbout(
            name,
            facts.width,
            facts.height,
            facts.mpp,
            facts.bounds,
            SIDE,
            OVERLAP,
            path.stat().st_mtime_ns % 2**31,
            maps,
        )

    def tile(self, name: str, level: int, column: int, row: int) -> bytes:
        """A JPEG of its deep-zoom pyramid."""
        return self._zoom.tile(self._path(name), level, column, row)

    def map(self, name: str, folder: str, slide: str) -> SlideMap:
        """A map of it."""
        path = self._path(name)
        place = self._served.with_file(folder, MAPS_JSON)
        self._served.inside(f"{folder}/{slide}".removeprefix("./"), SLIDE_JSON)
        for file in ("heatmap.tiff", "map.geojson", "map.geojson.gz"):
            with suppress(FileNotFoundError):
                if not (place / slide / file).resolve(strict=True).is_relative_to(place):
                    raise HistoError(NOTHING)
        left, top = self._zoom.facts(path).bounds
        found = read_map(place, slide, (left, top))
        if found.row.file != path.name:
            raise HistoError(NOTHING)
        _, rows, columns = found.values.shape
        return SlideMap(
            found.classes,
            found.threshold,
            found.cell,
            columns,
            rows,
            b64encode(found.values.tobytes()).decode(),
            [
                Region(each.name, each.code, each.mm2, each.highest, each.box)
                for each in found.regions
            ],
            list(found.row.warnings),
        )

    def start(self, start: Start) -> Making:
        """Start a map, or go on with one that was stopped."""
        path = self._path(start.slide)
        bundle = self._served.with_file(start.bundle, CARD)
        how = f"{start.mpp} {self._precision}".encode()  # the maps of a folder are all made alike
        made = sha256((bundle / CARD).read_bytes() + how).hexdigest()[:8]
        label = start.bundle.removesuffix("/export").replace("/", "-")[:60]
        place = f"{path.stem[:60]}-{sha256(start.slide.encode()).hexdigest()[:8]}"
        out = self._served.root / "maps" / f"{label}-{made}" / place
        # of `maps` itself somebody may have made a link to elsewhere
        if not out.resolve().is_relative_to(self._served.root):
            raise HistoError(NOTHING)
        return self._maker.start(start, bundle, path, out)

    def stop(self) -> Making:
        """Stop the map that is being made; what is done of it stays."""
        return self._maker.stop()

    def making(self) -> Making:
        """How far it is."""
        return self._maker.making()

    def close(self) -> None:
        """Stop, and wait until nothing is written any more."""
        self._maker.close()

    def _path(self, name: str) -> Path:
        """The file of a slide; HistoError for any other file, and one outside the folder."""
        path = self._served.inside(name)
        known = path.is_file() and path.suffix.lower() in SUFFIXES and is_known(path)
        if not known or not stays_inside(path, self._served.root):
            raise HistoError(NOTHING)
        return path

    def _slides(self) -> Iterator[tuple[str, Path]]:
        for folder, names in self._served.folders():
            if SLIDE_JSON in names or CARD in names:  # heat maps and bundles
                continue
            slides = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
            tiffs = [name for name in slides if Path(name).suffix.lower() not in ONLY_SLIDES]
            for name in slides if len(tiffs) <= TIFFS else {*slides} - {*tiffs}:
                whole = name if folder == "." else f"{folder}/{name}"
                with suppress(HistoError, OSError):
                    yield whole, self._path(whole)

    def _maps(self) -> Iterator[tuple[str, MapName]]:
        """Every map that is whole, with the name of the file that it is of."""
        for name in self._served.holding(MAPS_JSON)[MAPS_JSON]:
            with suppress(HistoError, OSError):
                folder = self._served.with_file(name, MAPS_JSON)
                maps = MapsFolder.read(folder)
                for slide in maps.slides:
                    with suppress(HistoError, OSError):
                        row = self._served.inside(f"{name}/{slide}".removeprefix("./"), SLIDE_JSON)
                        found = read_row(row)[1]
                        yield found.file, MapName(name, slide, list(maps.classes))


def is_known(path: Path) -> bool:
    """Whether a file is a slide, looked at once while it stays the same."""
    kind = path.stat()
    return looked_at(path, kind.st_mtime_ns, kind.st_size)


@lru_cache(maxsize=5000)
def looked_at(path: Path, changed: int, size: int) -> bool:
    """Whether a file of that time and size is a slide."""
    return is_slide(path)
