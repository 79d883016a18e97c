"""`histo.draw_patches`: synthetic patches, to try histo without data."""

from __future__ import annotations

from pathlib import Path

from histo.data.synth import write_dataset
from histo.errors import HistoError
from histo.screen import Progress, screen_of


def draw_patches(
    folder: str | Path,
    *,
    patches: int = 400,
    test: int = 100,
    side: int = 96,
    seed: int = 0,
    progress: Progress = False,
) -> Path:
    """Draw synthetic patches into a new folder, laid out as Kaggle's; returns the folder.

    `patches` in train/ with train_labels.csv, `test` others in test/ with test_labels.csv, half of
    each with label 1; of `side` px. They look like stained tissue and are not from patients.
    Raises HistoError if the folder is not empty.
    """
    folder, screen = Path(folder), screen_of(progress)
    if folder.exists() and any(folder.iterdir()):
        raise HistoError(f"{folder} exists and is not empty (give another folder)")
    write_dataset(folder, patches, seed, screen, side=side)
    if test:
        write_dataset(folder, test, seed + 1, screen, side=side, labels=False)
    return folder
