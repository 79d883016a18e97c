"""`histo import-pcam`: PatchCamelyon's HDF5 files into Kaggle's layout and the packed store."""

from __future__ import annotations

from pathlib import Path

from histo.data.pcam import find_sources
from histo.data.pcam_import import GROUPS, import_sources
from histo.screen import Progress, Screen, screen_of


def import_pcam(
    h5dir: str | Path,
    data: str | Path,
    *,
    keep_duplicates: bool = False,
    groups_only: bool = False,
    progress: Progress = False,
) -> Path:
    """Write `data` in Kaggle's layout with its store and groups.csv, or `groups_only` that table.

    Each distinct patch is kept once, where it first stands in train, valid, test. After a kill the
    same call continues; a finished import is left as it is. Returns `data`. Raises HistoError.
    """
    screen, data = screen_of(progress), Path(data)
    sources = find_sources(Path(h5dir), labels=not groups_only)
    made = import_sources(
        sources, data, screen, keep_duplicates=keep_duplicates, groups_only=groups_only
    )
    if not made:
        screen.say(f"{data} holds this import already")
    say_next(data, groups_only, screen)
    return data


def say_next(data: Path, groups_only: bool, screen: Screen) -> None:
    """Where the import is, and how to train on it by slide."""
    slides = f"--groups {data / GROUPS}"
    if groups_only:
        screen.say(f"slides: {data / GROUPS} (next: histo train {data} {slides})")
    elif (data / "train").is_dir():
        screen.say(f"data: {data} (next: histo train {data} --split-column split {slides})")
    else:
        screen.say(f"data: {data}")
