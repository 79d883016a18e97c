"""The patches to predict: files, folders and CSVs of names, each patch once under an id of its own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histo.data.columns import id_column, read_rows
from histo.data.ids import check_id, stem_of
from histo.data.label_table import say_formulas
from histo.data.labels import Row
from histo.data.patch_files import PatchFiles, PatchIndex, list_patches
from histo.errors import HistoError
from histo.files.packed import find_member
from histo.screen import Screen, counted


@dataclass(frozen=True)
class Inputs:
    """Files and the id of each."""

    paths: PatchFiles
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def pick(self, places: Sequence[int]) -> Inputs:
        """The patches in these places."""
        return Inputs(self.paths.pick(places), [self.ids[place] for place in places])


def plain_ids(names: Sequence[str]) -> list[str]:
    """Ids of relative paths: the name without suffix where it is plain and no other file has it.

    `a.png` and `a.tif` keep their suffixes, and paths stay as they are.
    """
    stems = [stem_of(name) for name in names]
    counts = Counter(stems)
    return [
        name if "/" in name or counts[stem] > 1 else stem
        for name, stem in zip(names, stems, strict=True)
    ]


def find_inputs(given: Sequence[Path], images: Path | None, ids: str, screen: Screen) -> Inputs:
    """Every patch that files, folders and CSVs name; a CSV's patches are in `images` or beside it.

    Ids of a folder's patches are relative to it; of several inputs that share ids, to where they
    were given. A patch that is named twice is taken once.
    """
    if not given:
        raise HistoError("no patches were given")
    parts = [_find(path, images, ids, screen) for path in given]
    keys = _keys(parts)
    found = parts[0] if len(parts) == 1 else _join(given, parts, keys)
    places = list({key: n for n, key in reversed(list(enumerate(keys)))}.values())
    if len(places) < len(found):
        screen.say(f"{counted(len(found) - len(places), 'patch')} named twice, taken once")
        found = found.pick(sorted(places))
    twice = [name for name, n in Counter(found.ids).items() if n > 1]
    if twice:
        raise HistoError(f"the id {twice[0]} is of several files (give their suffixes or paths)")
    say_formulas(found.ids, screen)
    return found


def _find(path: Path, images: Path | None, ids: str, screen: Screen) -> Inputs:
    if path.is_dir():
        paths = list_patches(path)
        if not paths:
            raise HistoError(f"{path} holds no image (TIF, PNG, JPEG, BMP, WebP)")
        return Inputs(paths, plain_ids(paths.names))
    if path.suffix.lower() != ".csv":
        if not path.exists() and find_member(path) is None:
            raise HistoError(f"no image, folder or CSV {path}")
        return Inputs(PatchFiles(path.parent, [path.name]), plain_ids([path.name]))
    rows = [
        Row(check_id(name, f"{path.name}, line {line}"), "", line)
        for line, (name,) in read_rows(path, [id_column(ids)], say=screen.say)
    ]
    paths = PatchIndex(images or path.parent).locate(rows, path)
    names = list(dict.fromkeys(row.id for row in rows))
    plain = dict(zip(names, plain_ids(names), strict=True))
    return Inputs(paths, [plain[row.id] for row in rows])


def _keys(parts: Sequence[Inputs]) -> list[str]:
    """What tells the files apart, however the way to their folders was written."""
    places = [os.path.realpath(part.paths.folder) for part in parts]
    return [
        f"{place}/{name}"
        for place, part in zip(places, parts, strict=True)
        for name in part.paths.names
    ]


def _join(given: Sequence[Path], parts: Sequence[Inputs], keys: Sequence[str]) -> Inputs:
    """All parts as one; ids begin with the folder as it was given where they would clash."""
    files, short, long = [], [], []
    for path, part in zip(given, parts, strict=True):
        folder = path if path.is_dir() else path.parent
        files += [(part.paths.folder / name).as_posix() for name in part.paths.names]
        short += part.ids
        long += [(folder / name).as_posix() for name in part.ids]
    count = len(set(keys))
    distinct = [ids for ids in (short, long) if len(set(zip(ids, keys, strict=True))) == count]
    distinct = [ids for ids in distinct if len(set(ids)) == count]
    return Inputs(PatchFiles(Path(), files), distinct[0] if distinct else files)
