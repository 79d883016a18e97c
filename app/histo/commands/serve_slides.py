"""The slides of `histo serve`: which there are, their tiles, their maps, and the making of a map."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
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
from histo.slides.dicom import DICOM, dicom_files, files_of, one_a_series
from histo.slides.map_view import read_map
from histo.slides.maps_folder import MAPS_JSON, MapsFolder
from histo.slides.slide_files import ONLY_SLIDES, SUFFIXES, TIFFS, is_slide
from histo.slides.summary import SLIDE_JSON, read_row
from histo.web.served import Served
from histo.web.slides import (
    LeftOut,
    Listing,
    Making,
    MapName,
    Region,
    SlideAbout,
    SlideMap,
    SlideRow,
    Start,
)

FEW, GLANCE = 200, 20
"""Of a folder with more TIFFs, so many are looked at first: they may be patches."""
PATCHES = f"taken for patches: none of the first {GLANCE} TIFFs is a slide"
NOT_TILED = "no slides: not tiled with levels, or behind a link out of the folder"
ELSEWHERE = "not opened: a link or a part of the slide leads out of the folder"
NOTHING = "there is nothing of that name in the folder that is served"


class ServedSlides:
    """The slides of one folder."""

    def __init__(self, served: Served, device: str, precision: str) -> None:
        self._served, self._zoom = served, DeepZoom()
        self._precision = precision
        self._maker = MapMaker(served.root, device, precision)

    def listing(self) -> Listing:
        """Every slide, by name; none where OpenSlide is not installed."""
        if find_spec("openslide") is None:
            return Listing([], [])
        maps, left_out = Counter(file for file, _ in self._maps()), list[LeftOut]()
        rows = [
            SlideRow(name, maps[path.name], sum(part.stat().st_size for part in files_of(path)))
            for name, path in sorted(self._slides(left_out))
        ]
        return Listing(rows, left_out)

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
        """A slide's file, or folder of DICOM files; HistoError for any other, and one outside."""
        path = self._served.inside(name)
        file = next(iter(files_of(path)), path)
        known = file.is_file() and file.suffix.lower() in SUFFIXES and is_known(file)
        if not known or not stays_inside(file, self._served.root):
            raise HistoError(NOTHING)
        return path

    def _slides(self, left_out: list[LeftOut]) -> Iterator[tuple[str, Path]]:
        """Names and paths; what is not among them is added to `left_out`."""
        for folder, names in self._served.folders():
            if SLIDE_JSON in names or CARD in names:  # heat maps and bundles
                continue
            slides = [name for name in names if Path(name).suffix.lower() in ONLY_SLIDES]
            tiffs = [name for name in names if Path(name).suffix.lower() in TIFFS]
            if tiffs and not self._may_be_slides(folder, tiffs):
                left_out.append(LeftOut(folder, len(tiffs), PATCHES))
                tiffs = []
            found = list(self._found(folder, slides, ELSEWHERE, left_out))
            found += self._found(folder, tiffs, NOT_TILED, left_out)
            yield from found

    def _found(
        self, folder: str, names: Sequence[str], why: str, left_out: list[LeftOut]
    ) -> Iterator[tuple[str, Path]]:
        """Those of a folder's files that are slides, a DICOM series once."""
        refused = 0
        for name in one_a_folder(names):
            whole = "/".join(part for part in (folder, name) if part != ".") or "."
            try:
                for each in self._series(whole):
                    yield each, self._path(each)
            except (HistoError, OSError):
                refused += 1
        if refused:
            left_out.append(LeftOut(folder, refused, why))

    def _series(self, name: str) -> Iterator[str]:
        """The name itself; of a folder of several DICOM series, the first file of each."""
        path = self._served.inside(name)
        if not path.is_dir():
            yield name
            return
        firsts = one_a_series(dicom_files(path)[:1])
        if len(firsts) == 1:
            yield name
            return
        for first in firsts:
            yield first.name if name == "." else f"{name}/{first.name}"

    def _may_be_slides(self, folder: str, tiffs: Sequence[str]) -> bool:
        """Whether a folder's TIFFs are worth a look each; patches may be millions."""
        if len(tiffs) <= FEW:
            return True
        for name in sorted(tiffs)[:GLANCE]:
            with suppress(HistoError, OSError):
                self._path(name if folder == "." else f"{folder}/{name}")
                return True
        return False

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


def one_a_folder(names: Sequence[str]) -> list[str]:
    """A folder's names, all its DICOM files as one: the folder itself."""
    others = [name for name in names if Path(name).suffix.lower() != DICOM]
    return others if len(others) == len(names) else [*others, "."]


def is_known(path: Path) -> bool:
    """Whether a file is a slide, looked at once while it stays the same."""
    kind = path.stat()
    return looked_at(path, kind.st_mtime_ns, kind.st_size)


@lru_cache(maxsize=5000)
def looked_at(path: Path, changed: int, size: int) -> bool:
    """Whether a file of that time and size is a slide."""
    return is_slide(path)
