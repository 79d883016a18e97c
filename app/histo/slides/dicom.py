"""The files of a slide where it is several: a DICOM series, or MIRAX's folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

DICOM = ".dcm"
HEAD = 1 << 20
"""Bytes of a DICOM file that are searched for its series."""
SERIES = re.compile(
    rb"\x20\x00\x0d\x00UI..[0-9.\x00 ]{1,64}\x20\x00\x0e\x00UI..([0-9.]{1,64})", re.DOTALL
)
"""The UIDs of study and series, neighbours in every file; references to others lack the study's."""


def series_of(path: Path) -> bytes:
    """The UID of the series that a DICOM file is of; empty where it is not found."""
    try:
        with path.open("rb") as file:
            found = SERIES.search(file.read(HEAD))
    except OSError:
        return b""
    return found[1] if found else b""


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files that lie in a folder."""
    return sorted(p for p in folder.glob("[!.]*") if p.suffix.lower() == DICOM and p.is_file())


def one_a_series(paths: Sequence[Path]) -> list[Path]:
    """The paths with one for each DICOM series.

    That is the folder where it holds this series alone, else the first file of the series.
    """
    found: list[Path] = []
    folders: dict[Path, dict[bytes, Path]] = {}
    for path in paths:
        if path.suffix.lower() != DICOM:
            found.append(path)
        elif path.parent not in folders:
            firsts = folders[path.parent] = {}
            for each in dicom_files(path.parent):
                firsts.setdefault(series_of(each), each)
            # resolved, as the name of `.` is none
            found += [path.parent.resolve()] if len(firsts) == 1 else firsts.values()
    return found


def files_of(slide: Path) -> list[Path]:
    """The files of a slide: one, all of a DICOM series, or a MIRAX file and those in its folder."""
    if slide.is_dir():
        return dicom_files(slide)
    if slide.suffix.lower() == DICOM:
        series = series_of(slide)
        return [path for path in dicom_files(slide.parent) if series_of(path) == series]
    inside = slide.with_suffix("")
    if slide.suffix.lower() == ".mrxs" and inside.is_dir():
        return [slide, *sorted(path for path in inside.iterdir() if path.is_file())]
    return [slide]


def name_of(slide: Path) -> str:
    """A slide's name: the file's without suffix, or the folder's."""
    return slide.name if slide.is_dir() else slide.stem
