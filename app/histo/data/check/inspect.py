"""Every patch of a folder decoded once and measured, and the label and group listed for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.data.check.duplicates import SIDE, thumbnail
from histo.data.check.quality import STATISTICS, measure
from histo.data.decode import SHA1, decode_patch, pixel_sha1, read_image
from histo.data.decode_ahead import AHEAD
from histo.data.ids import IdLookup, stem_of
from histo.data.labels import Row
from histo.data.patch_files import PatchFiles, PatchIndex
from histo.data.remarks import remarks
from histo.distributed import ranks
from histo.distributed.prefetch import prefetch
from histo.errors import HistoError
from histo.screen import Screen

Look = tuple[bytes, tuple[int, int], tuple[Any, ...], NDArray[np.uint8], list[str]]
"""What is kept of a file: SHA-1, size, statistics, thumbnail and remarks."""


@dataclass(frozen=True)
class InspectedFiles:
    """Measurements of each file, some 800 bytes: one entry a file in every array."""

    paths: PatchFiles
    sha1: NDArray[np.bytes_]
    """of the pixels; empty where the file could not be read"""
    sizes: NDArray[np.int64]
    """[N, 2]: width and height in px"""
    statistics: NDArray[Any]
    thumbs: NDArray[np.uint8]
    unreadable: dict[int, str]
    """why, by row"""
    remarks: dict[int, list[str]]
    """rules of reading that changed a file's pixels, by row"""

    @cached_property
    def readable(self) -> NDArray[np.int64]:
        """The rows of the files that could be read."""
        return np.flatnonzero(self.sha1 != b"")

    @cached_property
    def named_by_sha1(self) -> list[int]:
        """The rows of readable files whose name looks like a SHA-1."""
        names = self.paths.names
        return [row for row in self.readable.tolist() if SHA1.fullmatch(base_of(names[row]))]


@dataclass(frozen=True)
class FileLabels:
    """What the tables list for each file, in the files' order (empty where nothing), and what is missing."""

    id: list[str]
    label: list[str]
    split: list[str]
    group: list[str]
    line: list[int]
    """in the label CSV; 0 where it has none"""
    unit: str
    """what a group is: its column's name; empty where no table was given"""
    missing: list[str]
    """ids without a file"""
    similar: list[str]
    """for each of them, a file with nearly the same name, or empty"""
    several: list[str]
    """ids that fit several files"""
    ungrouped: list[str]
    """ids that the table of groups does not name"""


def base_of(name: str) -> str:
    """The name of a file without folders and suffix."""
    return stem_of(name).rpartition("/")[2]


def inspect_files(paths: PatchFiles, screen: Screen) -> InspectedFiles:
    """Decode and measure every file, on all cores."""

    def look(path: Path) -> Look | str:
        try:
            data = read_image(path)
            pixels = decode_patch(data, path)
        except (HistoError, OSError) as error:
            return str(error)
        size = (pixels.shape[1], pixels.shape[0])
        said = remarks(data, path)
        return pixel_sha1(pixels).encode(), size, measure(pixels), thumbnail(pixels), said

    n = len(paths)
    sha1, sizes = np.zeros(n, "S40"), np.zeros((n, 2), np.int64)
    statistics, thumbs = np.zeros(n, STATISTICS), np.zeros((n, SIDE, SIDE), np.uint8)
    unreadable: dict[int, str] = {}
    noted: dict[int, list[str]] = {}
    seen = prefetch(look, paths, AHEAD, ranks.cores())
    for row, found in enumerate(screen.track(seen, "reading patches", n)):
        if isinstance(found, str):
            unreadable[row] = found
        else:
            sha1[row], sizes[row], statistics[row], thumbs[row], said = found
            if said:
                noted[row] = said
    return InspectedFiles(paths, sha1, sizes, statistics, thumbs, unreadable, noted)


def files_of_rows(index: PatchIndex, rows: Sequence[Row]) -> list[str | None]:
    """The file of each row, None where there is none, and empty where there are several."""

    def find(name: str) -> str | None:
        try:
            return index.find_name(name)
        except HistoError:
            return ""

    return [find(row.id) for row in rows]


def match_labels(
    index: PatchIndex,
    rows: Sequence[Row],
    files: Sequence[str | None],
    groups: IdLookup | None = None,
    unit: str = "",
) -> FileLabels:
    """Match label rows, whose `files` are known, and a table of groups to the files of a folder."""
    place = {name: i for i, name in enumerate(index.paths.names)}
    ids, labels, splits, units = ([""] * len(place) for _ in range(4))
    lines = [0] * len(place)
    missing, several, ungrouped = [], [], []
    for row, file in zip(rows, files, strict=True):
        if file == "":
            several.append(row.id)
            continue
        group = row.group if groups is None else groups.get(row.id) or ""
        if unit and not group:
            ungrouped.append(row.id)
        if file is None:
            missing.append(row.id)
        elif not ids[i := place[file]]:
            ids[i], labels[i], splits[i], units[i] = row.id, row.label, row.split, group
            lines[i] = row.line
    similar = [index.similar(name) for name in missing]
    return FileLabels(ids, labels, splits, units, lines, unit, missing, similar, several, ungrouped)
