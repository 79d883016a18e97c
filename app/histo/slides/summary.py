"""slides.csv: a row a slide, and slide.json, which keeps a slide's row in its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histo.errors import HistoError, plain
from histo.files.tables import csv_writer
from histo.files.writing import read_json, write_json, written

SLIDE_JSON = "slide.json"
SLIDES_CSV = "slides.csv"


@dataclass(frozen=True)
class ClassFigures:
    """What a map shows of one class."""

    mm2: float
    """area called so"""
    share: float
    """of the area that tiles cover, 0 to 1"""
    maximum: float
    score: float
    """see `heat.slide_score`"""
    regions: int = 0


@dataclass(frozen=True)
class SlideRow:
    """A slide's figures; `error` says why it has none."""

    slide: str
    file: str = ""
    mpp: float = math.nan
    tiles: int = 0
    tissue_mm2: float = math.nan
    classes: Mapping[str, ClassFigures] = field(default_factory=dict)
    drift: float = math.nan
    seconds: float = math.nan
    warnings: Sequence[str] = ()
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As slide.json keeps it."""
        found = {**vars(self), "classes": {k: vars(v) for k, v in self.classes.items()}}
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in found.items()}

    @classmethod
    def read(cls, found: Any, where: Path) -> SlideRow:
        """What `as_dict` wrote; HistoError for whatever is not that."""
        try:
            classes = {
                str(name): ClassFigures(**{k: _number(v) for k, v in figures.items()})
                for name, figures in found["classes"].items()
            }
            return cls(
                str(found["slide"]),
                str(found["file"]),
                _number(found["mpp"]),
                int(found["tiles"]),
                _number(found["tissue_mm2"]),
                classes,
                _number(found["drift"]),
                _number(found["seconds"]),
                [str(line) for line in found["warnings"]],
                str(found["error"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise HistoError(f"{where} is damaged", "remove it and map the slide again") from None


def _number(value: Any) -> Any:
    """A number, NaN where it is not known; TypeError for anything else."""
    if value is not None and type(value) not in (int, float):
        raise TypeError(value)
    return math.nan if value is None else value


def write_row(path: Path, key: str, row: SlideRow) -> None:
    """Write a slide's row, and the key of the work that it is of."""
    write_json(path, {"key": key, **row.as_dict()})


def read_row(path: Path) -> tuple[str, SlideRow]:
    """The key of the work and the row."""
    found = read_json(path)
    row = SlideRow.read(found, path)
    return str(found.get("key")), row


def columns_of(classes: Sequence[str]) -> list[str]:
    """The columns of slides.csv: of one shown class plain names, of more a column a class."""
    if len(classes) == 1:
        own = ["positive_mm2", "positive_share", "max", "score", "regions"]
    else:
        own = [f"{what}_{name}" for name in classes for what in ("mm2", "share", "max", "score")]
    head = ["slide", "file", "mpp", "tiles", "tissue_mm2"]
    return [*head, *own, "drift", "seconds", "warnings", "error"]


def cells_of(row: SlideRow, classes: Sequence[str]) -> list[str]:
    """A row of slides.csv."""
    own = []
    for name in classes:
        figures = row.classes.get(name)
        if figures is None:
            own += [""] * (5 if len(classes) == 1 else 4)
            continue
        own += [f"{figures.mm2:.4f}", f"{figures.share:.6f}"]
        own += [digits(figures.maximum, 6), digits(figures.score, 6)]
        own += [str(figures.regions)] if len(classes) == 1 else []
    return [
        row.slide,
        row.file,
        "" if math.isnan(row.mpp) else f"{row.mpp:.6g}",
        str(row.tiles),
        digits(row.tissue_mm2, 4),
        *own,
        digits(row.drift, 2),
        digits(row.seconds, 1),
        "; ".join(map(plain, row.warnings)),
        plain(row.error),
    ]


def digits(value: float, places: int) -> str:
    """A number with so many decimals; blank where it is not known."""
    return "" if math.isnan(value) else f"{value:.{places}f}"


def write_slides(path: Path, rows: Sequence[SlideRow], classes: Sequence[str]) -> None:
    """Write slides.csv, whole or not at all."""
    with written(path, "w") as file:
        table = csv_writer(file)
        table.writerow(columns_of(classes))
        table.writerows(cells_of(row, classes) for row in rows)
