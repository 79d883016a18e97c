"""Slides of several files: whether all of them lie in the folder of the slide."""

from __future__ import annotations

import re
from pathlib import Path

from histo.errors import HistoError
from histo.files.limits import MB, Limit, read_bytes

INDEX_BYTES = Limit("HISTO_MAX_SLIDE_INDEX_BYTES", 4 * MB, "bytes")
NAMES_A_FILE = re.compile(r"^\s*[^=]*file[^=]*=(.*)$", re.IGNORECASE | re.MULTILINE)
FOLDERS = (".mrxs", ".dcm", ".vms", ".vmu")
"""Suffixes of slides for which OpenSlide opens other files of the folder."""
MOST = 10_000


def stays_inside(path: Path, root: Path) -> bool:
    """Whether OpenSlide, given this slide, opens no file outside `root`.

    The index of a slide of several files names them, and may come from a stranger; a name in it, or
    a link beside it, may lead anywhere.
    """
    suffix = path.suffix.lower()
    if suffix not in FOLDERS:
        return True
    folder = path.with_suffix("") if suffix == ".mrxs" else path.parent
    index = folder / "Slidedat.ini" if suffix == ".mrxs" else path
    try:
        if suffix != ".dcm" and leads_away(index):
            return False
        others = [each for _, each in zip(range(MOST), folder.iterdir(), strict=False)]
        return len(others) < MOST and all(each.resolve().is_relative_to(root) for each in others)
    except (OSError, RuntimeError, HistoError):
        return False


def leads_away(index: Path) -> bool:
    """Whether an index names a file by more than its plain name."""
    text = read_bytes(index, INDEX_BYTES).decode("utf-8", errors="replace")
    return any(".." in name or "/" in name or "\\" in name for name in NAMES_A_FILE.findall(text))
