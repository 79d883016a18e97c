"""tiles.csv, a row a tile, and the same as HDF5 in CLAM's layout."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo.files.tables import csv_writer
from histo.files.writing import written
from histo.run.predictions import prediction_columns
from histo.slides.grid import Grid, Places

COLUMNS = ("x", "y", "width", "height")
ROWS_AT_ONCE = 10_000


def write_tiles(
    path: Path,
    grid: Grid,
    places: Places,
    probabilities: NDArray[np.float64],
    vocab: Sequence[str],
) -> None:
    """Write x, y, width, height in level-0 px and a probability a class, as predictions have it."""
    with written(path) as file:
        file.write(text_of([[*COLUMNS, *prediction_columns(list(vocab))]]))
        for start in range(0, len(places), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            corners = grid.corners(places[part]).tolist()
            rows = zip(corners, probabilities[part].tolist(), strict=True)
            width = str(grid.width)
            file.write(
                text_of(
                    [str(x), str(y), width, width, *(f"{p:.9g}" for p in values)]
                    for (x, y), values in rows
                )
            )


def text_of(rows: Iterable[Sequence[str]]) -> bytes:
    """Rows as CSV, encoded."""
    text = io.StringIO()
    csv_writer(text).writerows(rows)
    return text.getvalue().encode()


def write_hdf5(
    path: Path,
    name: str,
    grid: Grid,
    places: Places,
    probabilities: NDArray[np.float64],
    size: tuple[int, int],
) -> None:
    """Write `coords` as CLAM does (level-0 px, its attributes), and `probabilities` beside them."""
    import h5py

    made = io.BytesIO()
    with h5py.File(made, "w") as table:
        coords = table.create_dataset("coords", data=grid.corners(places), track_times=False)
        facts = {
            "downsample": np.ones(2),
            "downsampled_level_dim": np.array(size),
            "level_dim": np.array(size),
            "name": name,
            "patch_level": 0,
            "patch_size": grid.width,
            "save_path": "",
        }
        for key, value in facts.items():
            coords.attrs[key] = value
        table.create_dataset("probabilities", data=probabilities, track_times=False)
    with written(path) as file:
        file.write(made.getbuffer())
