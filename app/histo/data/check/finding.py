"""One kind of problem that `histo check` finds: what, how many, which, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from histo.screen import counted


@dataclass(frozen=True)
class Finding:
    """A finding; `rows` become its CSV, `pictures` its sheet, `excluded` goes to the exclusions."""

    name: str
    """of its CSV"""
    noun: str
    """what was counted: one of them"""
    what: str
    """the rest of the line, to be read after number and noun"""
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    fatal: bool = False
    """training would fail"""
    advice: str = ""
    """what it means and what to do, for the page"""
    number: int | None = None
    """how many, where it is not the number of rows"""
    examples: Sequence[str] = ()
    """some, for the terminal; the first value of each row where none are given"""
    pictures: Sequence[Sequence[tuple[str, str]]] = ()
    """sets of files and captions, for the sheet"""
    excluded: dict[str, str] = field(default_factory=dict)
    """ids to leave out, and why"""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.rows) if self.number is None else self.number

    @property
    def said(self) -> str:
        """How many of what."""
        return f"{counted(self.count, self.noun)} {self.what}".rstrip()

    @property
    def line(self) -> str:
        """The same, with its severity."""
        return f"{'error' if self.fatal else 'note'}: {self.said}"

    def some(self, most: int) -> list[str]:
        """A few examples."""
        return list(self.examples or [row[0] for row in self.rows[:most]])[:most]
