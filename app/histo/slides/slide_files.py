"""The slides that were given: files and folders of them, and what identifies a file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from histo.config import RANGES
from histo.data.columns import read_rows
from histo.errors import HistoError

SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
SUFFIXES += (".czi", ".dcm")
ENDS = 1 << 16
"""Bytes at both ends of a slide that identify it, with its size."""


def find_slides(given: Sequence[Path]) -> dict[str, Path]:
    """Slides by name, in order: the file's name without suffix where no other slide has it."""
    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise HistoError(f"{path} holds no slides ({', '.join(SUFFIXES[:5])} …)")
            paths += inside
        elif path.is_file():
            paths.append(path)
        else:
            raise HistoError(f"no slide {path}")
    paths = list(dict.fromkeys(paths))
    stems = Counter(path.stem for path in paths)
    names = [path.stem if stems[path.stem] == 1 else path.name for path in paths]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise HistoError(
            f"{twice[0]} is the name of several slides (map them into several folders)"
        )
    return dict(zip(names, paths, strict=True))


def fingerprint_of(path: Path) -> str:
    """Identifies a slide's file: its size, its first bytes and its last."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = path.stat().st_size
        digest.update(str(size).encode() + file.read(ENDS))
        file.seek(max(0, size - ENDS))
        digest.update(file.read(ENDS))
    return digest.hexdigest()


@dataclass(frozen=True)
class SlideMpp:
    """µm per px of slides that do not say, or say it wrongly: one for all, or by name."""

    value: float | None = None
    by_name: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, given: str | float | None) -> SlideMpp:
        """A number, or a CSV with the columns slide and mpp."""
        if given is None:
            return cls()
        try:
            return cls(_sound(float(given), "the slides"))
        except ValueError:
            table = Path(str(given))
        found = {}
        for line, (name, value) in read_rows(table, ["slide", "mpp"]):
            where = f"{table.name}, line {line}"
            try:
                found[name] = _sound(float(value), where)
            except ValueError:
                raise HistoError(f"{where}: {value!r} is not a number of µm per px") from None
        return cls(None, found)

    def of(self, name: str, path: Path) -> float | None:
        """That of a slide, if it was given: by its name, or its file's."""
        for key in (name, path.name, path.stem):
            if key in self.by_name:
                return self.by_name[key]
        return self.value


def _sound(mpp: float, where: str) -> float:
    low, high = RANGES["mpp"]
    if not low <= mpp <= (high or mpp):
        raise HistoError(f"{where}: {mpp:g} µm per px is out of the range {low:g} to {high:g}")
    return mpp
