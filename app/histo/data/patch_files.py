"""The image files below a folder, found by id: by relative path, with or without suffix."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, overload

from histo.data.ids import SUFFIXES, similar_key
from histo.errors import HistoError
from histo.files.packed import PACK, packed_names

if TYPE_CHECKING:
    from histo.data.labels import Row

NOT_DATA = ("environment.json", "findings.json")
"""A folder that holds one of these is a run, or the report of a check: its pictures are no patches."""


class PatchFiles(Sequence[Path]):
    """Files below a folder, held by relative path: for a million patches Paths take a gigabyte."""

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

    def pick(self, rows: Iterable[int]) -> PatchFiles:
        """The files in these places."""
        return PatchFiles(self.folder, [self.names[row] for row in rows])


def list_patches(folder: Path) -> PatchFiles:
    """The image files of a folder and the folders in it, by relative path.

    Hidden files and folders, macOS's own, runs and reports are left out. HistoError where there is no such
    folder, or where a link to a folder leads out of it.
    """
    try:
        names = sorted(_walk(folder))
    except (FileNotFoundError, NotADirectoryError):
        raise HistoError(
            f"no images folder {folder}", "give {images} if the patches are elsewhere"
        ) from None
    for name in names:
        if not name.isprintable() and any("\udc80" <= c <= "\udcff" for c in name):
            raise HistoError(f"{folder} holds {name!r}, whose name is not UTF-8: rename it")
    return PatchFiles(folder, names)


def _walk(root: Path) -> Iterator[str]:
    """Relative paths, with slashes, of the image files below a folder."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        inner, names, packed = [], list[str](), list[str]()
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(".") or name == "__MACOSX":
                    continue
                if name.lower().endswith(SUFFIXES):
                    names.append(prefix + name)
                elif name == PACK:
                    found = packed_names(root / prefix)
                    packed = [prefix + one for one in found if one.lower().endswith(SUFFIXES)]
                elif prefix and name in NOT_DATA:
                    break
                elif entry.is_dir() and _is_inside(entry, root):
                    inner.append(f"{prefix}{name}/")
            else:
                yield from dict.fromkeys([*names, *packed])
                pending += inner


def _is_inside(entry: os.DirEntry[str], root: Path) -> bool:
    """Whether to descend into a folder: a link to one within the root is seen there already."""
    if not entry.is_symlink():
        return True
    if Path(entry.path).resolve().is_relative_to(root.resolve()):
        return False
    raise HistoError(f"{entry.path} is a link out of {root} (copy the folder, or give it itself)")


class PatchIndex:
    """The files below an images folder, found by id."""

    def __init__(self, folder: Path, paths: PatchFiles | None = None) -> None:
        self.folder, self.paths = folder, list_patches(folder) if paths is None else paths
        names = self.paths.names
        self._names = frozenset(names)
        stems = [name.rpartition(".")[0] for name in names]
        self._by_stem = dict(zip(reversed(stems), reversed(names), strict=True))
        self._several = {stem for stem, n in Counter(stems).items() if n > 1}

    def find(self, name: str) -> Path | None:
        """The file of an id, or None; an id that could be two files is an error."""
        found = self.find_name(name)
        return None if found is None else self.folder / found

    def find_name(self, name: str) -> str | None:
        """The relative path of an id's file, or None; an id that could be two files is an error.

        An id may have the suffix or not, may begin with the images folder's own name, and may leave
        out the folders where one file only has that name.
        """
        if name in self._names:
            return name
        if name in self._several:
            raise HistoError(f"id {name} fits several files of {self.folder} (give its suffix)")
        found = self._by_stem.get(name)
        return self._find_otherwise(name) if found is None else found

    def _find_otherwise(self, name: str) -> str | None:
        own, _, rest = name.partition("/")
        if rest and own == self.folder.resolve().name:
            return self.find_name(rest)
        places = self._by_base_name.get(unicodedata.normalize("NFC", name))
        if places is not None and len(places) > 1:
            raise HistoError(
                f"id {name} fits several files of {self.folder}, as {places[0]} (give its path)"
            )
        return places[0] if places else None

    @cached_property
    def _by_base_name(self) -> dict[str, list[str]]:
        """Files in inner folders, or whose name is not in NFC, by name with and without suffix."""
        found: dict[str, list[str]] = {}
        for name in self.paths.names:
            base = name.rpartition("/")[2]
            if base != name or not name.isascii():
                for key in (base, base.rpartition(".")[0]):
                    found.setdefault(unicodedata.normalize("NFC", key), []).append(name)
        return found

    def similar(self, name: str) -> str:
        """A file whose name differs in suffix, case, folder or leading zeros only; else empty."""
        return self._by_similar_key.get(similar_key(name), "")

    @cached_property
    def _by_similar_key(self) -> dict[str, str]:
        names = self.paths.names
        return {similar_key(name): name for name in reversed(names)}

    def locate(self, rows: Sequence[Row], path: Path) -> PatchFiles:
        """The file of each row; the first that is missing is an error."""
        found = []
        for row in rows:
            name = self.find_name(row.id)
            if name is None:
                there = self.similar(row.id)
                raise HistoError(
                    f"{path.name}, line {row.line}: no patch {row.id} in {self.folder}",
                    *([f"there is {there}"] if there else []),
                    "give {images} if the patches are elsewhere",
                )
            found.append(name)
        return PatchFiles(self.folder, found)
