"""The slides of `histo serve`: which there are, their tiles, their maps, and the making of a map."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from importlib.util import find_spec

from histo.commands.serve_finder import NOTHING, SlideFinder
from histo.commands.serve_maps import MapMaker
from histo.data.decode import thumbnail_jpeg
from histo.errors import HistoError
from histo.model.card import CARD
from histo.pixels.fit import Pixels
from histo.slides.around import around
from histo.slides.deepzoom import OVERLAP, SIDE, DeepZoom
from histo.slides.dicom import files_of
from histo.slides.map_view import read_map
from histo.slides.maps_folder import MAPS_JSON, MapsFolder
from histo.slides.summary import SLIDE_JSON, read_row
from histo.web.served import Served
from histo.web.slides import (
    Box,
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


class ServedSlides:
    """The slides of one folder."""

    def __init__(self, served: Served, device: str, precision: str) -> None:
        self._served, self._zoom = served, DeepZoom()
        self._finder = SlideFinder(served)
        self._precision = precision
        self._maker = MapMaker(served.root, device, precision)

    def listing(self) -> Listing:
        """Every slide, by name; none where OpenSlide is not installed."""
        if find_spec("openslide") is None:
            return Listing([], [])
        maps, left_out = Counter(file for file, _ in self._maps()), list[LeftOut]()
        rows = [
            SlideRow(name, maps[path.name], sum(part.stat().st_size for part in files_of(path)))
            for name, path in sorted(self._finder.found(left_out))
        ]
        return Listing(rows, left_out)

    def about(self, name: str) -> SlideAbout:
        """One slide, with its maps."""
        path = self._finder.path(name)
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
        return self._zoom.tile(self._finder.path(name), level, column, row)

    def map(self, name: str, folder: str, slide: str) -> SlideMap:
        """A map of it."""
        path = self._finder.path(name)
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

    def around(self, slide: str, box: Box, patch: Pixels) -> bytes | None:
        """A JPEG of what is around a patch, outlined; None where no slide of that name has it there."""
        for name in self._finder.named().get(slide, []):
            found = around(self._zoom, self._finder.path(name), box, patch)
            if found is not None:
                return thumbnail_jpeg(found, len(found))
        return None

    def start(self, start: Start) -> Making:
        """Start a map, or go on with one that was stopped."""
        path = self._finder.path(start.slide)
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
