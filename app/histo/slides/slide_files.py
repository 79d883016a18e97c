"""The slides that were given: files and folders of them, and what identifies a file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

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
