"""The image files of a folder, found by name with or without suffix."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from histo.errors import HistoError

if TYPE_CHECKING:
    from histo.data.labels import Row

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".webp")


def stem_of(name: str) -> str:
    """An id without the suffix of an image file."""
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in SUFFIXES else name


class PatchFiles(Sequence[Path]):
    """Files of one folder, held by name: for a million patches as many paths take a gigabyte."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names = folder, names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, at: int) -> Path: ...
    @overload
    def __getitem__(self, at: slice) -> PatchFiles: ...
    def __getitem__(self, at: int | slice) -> Path | PatchFiles:
        if isinstance(at, slice):
            return PatchFiles(self.folder, self.names[at])
        return self.folder / self.names[at]


def list_patches(folder: Path) -> PatchFiles:
    """The image files of a folder by name; HistoError where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name.lower().endswith(SUFFIXES)]
    except (FileNotFoundError, NotADirectoryError):
        raise HistoError(
            f"no images folder {folder}", "give {images} if the patches are elsewhere"
        ) from None
    for name in names:
        if not name.isprintable() and any("\udc80" <= c <= "\udcff" for c in name):
            raise HistoError(f"{folder} holds {name!r}, whose name is not UTF-8: rename it")
    return PatchFiles(folder, sorted(name for name in names if not name.startswith(".")))


class PatchIndex:
    """The files of an images folder, found by name with or without suffix."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.paths = folder, list_patches(folder)
        names = self.paths.names
        self._names = frozenset(names)
        stems = [name.rpartition(".")[0] for name in names]
        self._by_stem = dict(zip(reversed(stems), reversed(names), strict=True))
        self._twice = {stem for stem, n in Counter(stems).items() if n > 1}

    def find(self, name: str) -> Path | None:
        """The file of an id, or None; an id that could be two files is an error."""
        found = self._find(name)
        return None if found is None else self.folder / found

    def _find(self, name: str) -> str | None:
        if name in self._names:
            return name
        if name in self._twice:
            raise HistoError(f"id {name} fits several files of {self.folder} (give its suffix)")
        return self._by_stem.get(name)

    def locate(self, rows: Sequence[Row], path: Path) -> PatchFiles:
        """The file of each row; the first that is missing is an error."""
        found = []
        for row in rows:
            name = self._find(row.id)
            if name is None:
                raise HistoError(
                    f"{path.name}, line {row.line}: no patch {row.id} in {self.folder}",
                    "give {images} if the patches are elsewhere",
                )
            found.append(name)
        return PatchFiles(self.folder, found)
