"""The folder that is served: its runs, bundles and reviews, and no file outside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from histo.errors import HistoError
from histo.model.card import CARD

DEPTH = 5
"""Folders below the one that is served in which runs and bundles are looked for."""
MOST = 20_000
"""Folders that are looked through at most: a page must come in a second."""
RUN, SUSPECTS = "config.json", "suspects.csv"
"""The files by which a run and a review are known."""


@dataclass(frozen=True)
class Served:
    """A folder, its links resolved; every path that a request names goes through `inside`."""

    root: Path

    @classmethod
    def open(cls, folder: Path) -> Served:
        """An existing folder; HistoError if it is none."""
        if not folder.is_dir():
            raise HistoError(f"no folder {folder}")
        return cls(folder.resolve())

    def inside(self, name: str, file: str = "") -> Path:
        """The path of what a request names, `.` for the folder itself, and of a file in it.

        HistoError for whatever is not there, is hidden, or lies outside the folder by way of a
        `..`, a link or an absolute path; the message never tells which.
        """
        missing = HistoError("there is nothing of that name in the folder that is served")
        parts = [] if name == "." else name.split("/")
        if not all(is_plain(part) for part in parts):
            raise missing
        path = self.root.joinpath(*parts, *([file] if file else []))
        try:
            found = path.resolve(strict=True)
        except (OSError, RuntimeError, ValueError):  # missing, a loop of links, a NUL
            raise missing from None
        if not found.is_relative_to(self.root):
            raise missing
        return found

    def with_file(self, name: str, file: str) -> Path:
        """The path of a folder that has this regular file; HistoError otherwise."""
        if not self.inside(name, file).is_file():
            raise HistoError("there is nothing of that name in the folder that is served")
        return self.inside(name)

    def holding(self, *files: str) -> dict[str, list[str]]:
        """The folders that hold each of these files, by name, in order."""
        found: dict[str, list[str]] = {file: [] for file in files}
        for name, names in self.folders():
            for file in files:
                if file in names:
                    found[file].append(name)
        return {file: sorted(names) for file, names in found.items()}

    def runs(self) -> list[str]:
        """The run folders; a bundle's files for QuPath have a config.json too."""
        found = self.holding(CARD, RUN)
        bundles = {*found[CARD]} - {*found[RUN]}
        return [
            name
            for name in found[RUN]
            if not any(name.startswith(f"{bundle}/") for bundle in bundles)
        ]

    def bundles(self) -> list[str]:
        """The bundles: a run also keeps the card of its model, beside its settings."""
        found = self.holding(CARD, RUN)
        return sorted({*found[CARD]} - {*found[RUN]})

    def reviews(self) -> list[str]:
        """The folders with the suspects of a review."""
        return self.holding(SUSPECTS)[SUSPECTS]

    def folders(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Every folder by name, with the names in it; links to folders are not followed."""
        pending, seen = [("", self.root)], 0
        while pending and seen < MOST:
            prefix, folder = pending.pop(0)
            seen += 1
            try:
                with os.scandir(folder) as entries:
                    here = [entry for entry in entries if is_plain(entry.name)]
            except OSError:
                continue
            yield prefix or ".", [entry.name for entry in here]
            if prefix.count("/") < DEPTH - 1:
                pending += [
                    (f"{prefix}/{entry.name}" if prefix else entry.name, Path(entry.path))
                    for entry in here
                    if entry.is_dir(follow_symlinks=False)
                ]


def is_plain(part: str) -> bool:
    """Whether a part of a path may be asked for: no hidden file, no way up, no separator."""
    return (
        bool(part)
        and part.isprintable()
        and not part.startswith(".")
        and not any(mark in part for mark in "/\\:\0")
    )
