"""Where patches were cut from a slide, as a table says: slide, x, y and width in level-0 px."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo.data.columns import id_column, read_header, read_rows
from histo.data.ids import stem_of
from histo.errors import HistoError

NEEDED = ("slide", "x", "y", "width")


@dataclass(frozen=True)
class TilePlaces:
    """Slide, corner and side of N patches, in level-0 px."""

    slides: list[str]
    corners: NDArray[np.int64]
    """x and y of the upper left corner [N, 2]"""
    width: NDArray[np.int64]

    def pick(self, rows: Sequence[int] | NDArray[np.int64]) -> TilePlaces:
        """The places of these patches."""
        at = np.asarray(rows, np.int64)
        return TilePlaces([self.slides[row] for row in at], self.corners[at], self.width[at])


def read_places(table: Path, ids: str, wanted: Sequence[str]) -> TilePlaces | None:
    """The places of the wanted ids, as tiles.csv of histo cut has them; None where a table has none.

    HistoError where a number is none, or an id is not there.
    """
    if table.suffix.lower() != ".csv" or not set(NEEDED) <= set(read_header(table)):
        return None
    found: dict[str, tuple[str, list[int]]] = {}
    for line, (name, slide, *numbers) in read_rows(table, [id_column(ids), *NEEDED]):
        try:
            place = (slide, [round(float(number)) for number in numbers])
        except (ValueError, OverflowError):
            raise HistoError(f"{table.name}, line {line}: x, y or width is not a number") from None
        found[name] = found[stem_of(name)] = place
    lost = next((name for name in wanted if name not in found), None)
    if lost is not None:
        raise HistoError(f"{table} has no place of {lost}")
    rows = np.array([found[name][1] for name in wanted], np.int64).reshape(-1, 3)
    return TilePlaces([found[name][0] for name in wanted], rows[:, :2], rows[:, 2])
