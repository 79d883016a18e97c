"""Which slides there are in the folder of `histo serve`, and which of its files are none."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from histo.errors import HistoError
from histo.model.card import CARD
from histo.slides.companions import stays_inside
from histo.slides.dicom import DICOM, dicom_files, files_of, name_of, one_a_series
from histo.slides.slide_files import ONLY_SLIDES, SUFFIXES, TIFFS, is_slide
from histo.slides.summary import SLIDE_JSON
from histo.web.served import Served
from histo.web.slides import LeftOut

KEPT_SECONDS = 30.0
"""How long the list of slides is kept while patches are looked for in them."""
FEW, GLANCE = 200, 20
"""Of a folder with more TIFFs, so many are looked at first: they may be patches."""
PATCHES = f"taken for patches: none of the first {GLANCE} TIFFs is a slide"
NOT_TILED = "no slides: not tiled with levels, or behind a link out of the folder"
ELSEWHERE = "not opened: a link or a part of the slide leads out of the folder"
NOTHING = "there is nothing of that name in the folder that is served"


class SlideFinder:
    """Finds the slides of one folder, and no file outside it."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._names: tuple[float, dict[str, list[str]]] | None = None

    def path(self, name: str) -> Path:
        """A slide's file, or folder of DICOM files; HistoError for any other, and one outside."""
        path = self._served.inside(name)
        file = next(iter(files_of(path)), path)
        known = file.is_file() and file.suffix.lower() in SUFFIXES and is_known(file)
        if not known or not stays_inside(file, self._served.root):
            raise HistoError(NOTHING)
        return path

    def found(self, left_out: list[LeftOut]) -> Iterator[tuple[str, Path]]:
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
                    yield each, self.path(each)
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
                self.path(name if folder == "." else f"{folder}/{name}")
                return True
        return False

    def named(self) -> dict[str, list[str]]:
        """The slides by the names that a cut gives them, looked for anew after a while."""
        now = time.monotonic()
        if self._names is None or now - self._names[0] > KEPT_SECONDS:
            found: dict[str, list[str]] = {}
            for name, path in self.found([]):
                for called in {name_of(path), path.name}:
                    found.setdefault(called, []).append(name)
            self._names = now, found
        return self._names[1]


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
