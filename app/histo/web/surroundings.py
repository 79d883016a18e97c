"""The surroundings of a patch of a review, in the slide that `histo cut` cut it from."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from histo.data.decode import read_patch
from histo.errors import HistoError
from histo.files.tables import read_table
from histo.web.patches import Patches, real
from histo.web.served import is_plain
from histo.web.slides import Box, Slides

TABLE = "tiles.csv"
"""That a cut writes for each slide: where each patch lies."""
COLUMNS = ("x", "y", "width", "height")


class Surroundings:
    """Where the patches of reviews lie in slides, and what is around them."""

    def __init__(self, patches: Patches, slides: Slides) -> None:
        self._patches, self._slides = patches, slides

    def picture(self, review: str, patch: str) -> bytes | None:
        """A JPEG with the patch outlined; None where the slide, or the place in it, is not known."""
        slide, _, own = patch.rpartition("/")
        if not is_plain(slide) or not is_plain(own):
            return None
        try:
            table = self._table(review, slide)
            box = boxes_of(table, table.stat().st_mtime_ns).get(patch) if table else None
            if box is None:
                return None
            return self._slides.around(slide, box, read_patch(self._patches.find(review, patch)))
        except (HistoError, OSError):
            return None

    def _table(self, review: str, slide: str) -> Path | None:
        """The table of a slide's patches, beside the folder of the patches or in it."""
        folder = self._patches.folder(review)
        for place in (folder.parent, folder):
            table = real(place / "slides" / slide / TABLE)
            if self._patches.is_served(table) and table.is_file():
                return table
        return None


@lru_cache(maxsize=32)
def boxes_of(table: Path, changed: int) -> dict[str, Box]:
    """Where each patch lies, by id; HistoError where the table is no cut's."""
    rows = (row for _, row in read_table(table))
    head = next(rows, [])
    try:
        own, places = head.index("id"), [head.index(name) for name in COLUMNS]
        found = {row[own]: [float(row[place]) for place in places] for row in rows}
    except (ValueError, IndexError):
        raise HistoError(f"{table.name} does not say where the patches lie") from None
    return {name: (x, y, wide, high) for name, (x, y, wide, high) in found.items()}
