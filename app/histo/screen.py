"""What a command shows: lines, tables and one progress bar.

In a terminal the bar is rich's and moves; elsewhere there are plain lines only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from histo.errors import Spell, Way, plain, spell_in_python, with_ways

T = TypeVar("T")
Advance = Callable[..., None]
PLAIN_SECONDS = 30.0
"""Seconds between two lines of progress if output is not a terminal."""


class Screen:
    """Prints lines, tables and progress to standard output; `quiet=True` prints nothing.

    `spell` is how the caller writes settings, for the ways out that a note names.
    """

    def __init__(self, quiet: bool = False, spell: Spell = spell_in_python) -> None:
        self.quiet, self.spell = quiet, spell
        self.terminal = sys.stdout.isatty() and not self.quiet

    def say(self, line: str = "", *ways: Way) -> None:
        """Print one or more lines, above the progress bar if there is one; `ways` as in HistoError.

        Control characters are escaped, so that a terminal does not obey text from files.
        """
        if self.quiet:
            return
        line = with_ways(line, ways, self.spell)
        line = "\n".join(plain(part) for part in line.split("\n"))
        if self.terminal:
            from rich import get_console

            get_console().print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, flush=True)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Print rows of equal length in aligned columns: the first flush left, the others flush right."""
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            cells = [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
            self.say("  ".join(cells).rstrip())

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Advance]:
        """A progress bar of `total` steps; yields `advance(steps=1, what=None)`."""
        if self.terminal:
            from rich import progress

            columns = (
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(),
            )
            from rich import get_console

            with progress.Progress(*columns, console=get_console(), transient=True) as bar:
                task = bar.add_task(what, total=total)

                def advance(steps: int = 1, what: str | None = None) -> None:
                    bar.update(task, advance=steps, description=what)

                yield advance
        else:
            yield self._plain(what, total)

    def _plain(self, what: str, total: int) -> Advance:
        done, last = 0, time.monotonic()

        def advance(steps: int = 1, what: str | None = what) -> None:
            nonlocal done, last
            done += steps
            if time.monotonic() - last > PLAIN_SECONDS and done < total:
                last = time.monotonic()
                self.say(f"{what}: {done:,} of {total:,}")

        return advance

    def track(self, items: Iterable[T], what: str, total: int) -> Iterator[T]:
        """The items, with a bar that moves by one for each."""
        with self.bar(what, total) as advance:
            for item in items:
                yield item
                advance()


Progress = bool | Screen
"""Whether a command prints its progress: yes, no, or on this screen."""


def screen_of(progress: Progress) -> Screen:
    """The screen that a command prints to."""
    return progress if isinstance(progress, Screen) else Screen(quiet=not progress)


def plural(word: str, count: int) -> str:
    """The word, in the plural unless the count is 1."""
    if count == 1:
        return word
    return f"{word}es" if word.endswith(("ch", "s", "x")) else f"{word}s"


def short(name: str, most: int = 18) -> str:
    """A class name that fits into a table or beside an axis."""
    return name if len(name) <= most else name[: most - 1] + "…"


def counted(count: int, word: str) -> str:
    """A count and the word for it."""
    return f"{count:,} {plural(word, count)}"
