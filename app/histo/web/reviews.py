"""Reviews of suspected labels: suspects.csv, in which each decision is saved at once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from histo.data.corrections import CORRECTED, DECISION, REVIEWER
from histo.errors import HistoError, plain
from histo.files.limits import NAME
from histo.files.locks import locked
from histo.files.tables import csv_writer, read_table
from histo.files.writing import written
from histo.run.predictions import PROBABILITY
from histo.web.served import SUSPECTS, Served

Decided = Literal["keep", "change", "unsure", ""]
NEEDED = ("id", "label", "suggested", CORRECTED)


@dataclass(frozen=True)
class ReviewRow:
    """A review of the folder, and how far it is."""

    name: str
    suspects: int = 0
    reviewed: int = 0
    error: str = ""


@dataclass(frozen=True)
class Suspect:
    """A patch whose label is suspected, and what was decided about it."""

    id: str
    label: str
    suggested: str
    why: str
    group: str
    corrected: str
    decision: Decided
    """empty where nothing is decided yet"""
    by: str


@dataclass(frozen=True)
class Review:
    """All suspects of a review, the most suspicious first."""

    name: str
    classes: list[str]
    suspects: list[Suspect]


@dataclass(frozen=True)
class Decision:
    """What a person says about one suspect; an empty decision takes an earlier one back."""

    name: str
    id: str
    decision: Decided
    label: str = ""
    """of `change`: the right class; the suggested one by default"""
    by: str = ""


class Table:
    """The cells of suspects.csv; columns that histo does not know stay as they are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = read_table(path)
        self.header = next(rows, (0, []))[1]
        if not all(name in self.header for name in NEEDED):
            raise HistoError(f"{SUSPECTS} lacks one of the columns {', '.join(NEEDED)}")
        self.header += [name for name in (DECISION, REVIEWER) if name not in self.header]
        width = len(self.header)
        self.rows = [(row + [""] * width)[:width] for _, row in rows if row]
        self._place = {name: n for n, name in enumerate(self.header)}

    def get(self, row: Sequence[str], name: str) -> str:
        """A cell; blank where there is no such column."""
        return row[self._place[name]] if name in self._place else ""

    def classes(self) -> list[str]:
        """The classes of the model."""
        return [name[len(PROBABILITY) :] for name in self.header if name.startswith(PROBABILITY)]

    def suspects(self) -> list[Suspect]:
        """Every row."""
        return [self._suspect(row) for row in self.rows]

    def _suspect(self, row: Sequence[str]) -> Suspect:
        return Suspect(
            id=self.get(row, "id"),
            label=self.get(row, "label"),
            suggested=self.get(row, "suggested"),
            why=self.get(row, "why"),
            group=self.get(row, "group"),
            corrected=self.get(row, CORRECTED),
            decision=self._decision(row),
            by=self.get(row, REVIEWER),
        )

    def _decision(self, row: Sequence[str]) -> Decided:
        """What was decided, also by whoever filled the column by hand."""
        corrected = self.get(row, CORRECTED)
        if corrected:
            return "keep" if corrected == self.get(row, "label") else "change"
        return "unsure" if self.get(row, DECISION) == "unsure" else ""

    def decide(self, given: Decision) -> Suspect:
        """Write a decision into its row; HistoError where there is none, or no such class."""
        row = next((row for row in self.rows if self.get(row, "id") == given.id), None)
        if row is None:
            raise HistoError(f"the review has no patch {given.id}")
        label, suggested = self.get(row, "label"), self.get(row, "suggested")
        right = {"keep": label, "change": given.label or suggested}.get(given.decision, "")
        if right and right not in (*self.classes(), label, suggested):
            raise HistoError(f"{right} is no class of the review")
        if given.decision == "change" and right == label:
            raise HistoError(f"the label of {given.id} is {right} already: keep it")
        by = plain(given.by)[:NAME] if given.decision else ""
        for name, value in ((CORRECTED, right), (DECISION, given.decision), (REVIEWER, by)):
            row[self._place[name]] = value
        return self._suspect(row)

    def save(self) -> None:
        """Write the table whole or not at all, on the disk before this returns."""
        with written(self.path, "w") as file:
            rows = csv_writer(file)
            rows.writerow(self.header)
            rows.writerows(self.rows)


class Reviews:
    """The reviews of the folder that is served."""

    def __init__(self, served: Served) -> None:
        self._served, self._lock = served, threading.Lock()

    def rows(self) -> list[ReviewRow]:
        """Every review."""
        return [self._row(name) for name in self._served.reviews()]

    def _row(self, name: str) -> ReviewRow:
        try:
            suspects = self._table(name).suspects()
        except (HistoError, OSError):
            return ReviewRow(name, error=f"{SUSPECTS} cannot be read")
        return ReviewRow(name, len(suspects), sum(bool(each.decision) for each in suspects))

    def _table(self, name: str) -> Table:
        self._served.with_file(name, SUSPECTS)
        return Table(self._served.inside(name, SUSPECTS))

    def read(self, name: str) -> Review:
        """A review with all its suspects."""
        table = self._table(name)
        return Review(name, table.classes(), table.suspects())

    def decide(self, given: Decision) -> Suspect:
        """Save a decision. The file is read anew each time: others may have written to it."""
        folder = self._served.with_file(given.name, SUSPECTS)
        try:
            with self._lock, locked(folder / f".{SUSPECTS}.lock", "another process is saving"):
                table = self._table(given.name)
                suspect = table.decide(given)
                table.save()
                return suspect
        except OSError as error:
            raise HistoError(f"{SUSPECTS} cannot be saved: {error.strerror}") from None
