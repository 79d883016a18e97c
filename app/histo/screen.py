"""What a command shows: lines, tables and one progress bar.

In a terminal the bar is rich's and moves; elsewhere, and where TERM is dumb, there are plain lines
only.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from histo.errors import Spell, Way, spell_in_python, with_ways
from histo.launcher import rank
from histo.text import fitted, sayable, visible, width_of

T = TypeVar("T")
Advance = Callable[..., None]
PLAIN_SECONDS = 30.0
"""Seconds between two lines of progress if output is not a terminal."""
PACE_SECONDS = 30.0
"""Seconds of the past from which the speed is taken."""
MIN_COLUMNS = 40
"""A narrower terminal gets tables of this width."""


class Screen:
    """Prints lines, tables and progress to standard output; `quiet=True` prints nothing.

    `spell` is how the caller writes settings, for the ways out that a note names.
    """

    def __init__(self, quiet: bool = False, spell: Spell = spell_in_python) -> None:
        self.quiet, self.spell = quiet, spell
        dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
        self.terminal = sys.stdout.isatty() and not dumb and not quiet
        self._header = ""

    def say(self, line: str = "", *ways: Way) -> None:
        """Print one or more lines, above the progress bar if there is one; `ways` as in HistoError.

        Control characters are escaped, so that a terminal does not obey text from files; what the
        terminal's encoding lacks is replaced.
        """
        if self.quiet:
            return
        self._header = ""
        line = self._shown(with_ways(line, ways, self.spell))
        if self.terminal:
            from rich import get_console

            get_console().print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, flush=True)

    def _shown(self, text: str) -> str:
        return sayable(visible(text), getattr(sys.stdout, "encoding", None))

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Print rows of equal length in aligned columns: the first flush left, the others flush right.

        Long names are shortened until the table fits the terminal, or 80 columns.
        """
        gap = self._shown("…")
        cells = fitted([[self._shown(c) for c in row] for row in rows], self.columns, gap)
        widths = [max(map(width_of, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            blanks = [" " * (w - width_of(c)) for c, w in zip(row, widths, strict=True)]
            first, *others = zip(row, blanks, strict=True)
            parts = ["".join(first), *(blank + cell for cell, blank in others)]
            self.say("  ".join(parts).rstrip())

    def row(self, header: str, line: str) -> None:
        """Print a row of a table that grows, under its header: again where other lines came between."""
        if self._header != header:
            self.say(header)
        self.say(line)
        self._header = header

    @property
    def columns(self) -> int:
        """Columns of the terminal, or of the variable COLUMNS; 80 where neither is known."""
        return max(MIN_COLUMNS, shutil.get_terminal_size().columns)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Say what is done for some seconds: while it is done in a terminal, else in a line before."""
        if not self.terminal:
            self.say(what)
            yield
            return
        from rich import get_console

        with get_console().status(self._shown(what), spinner="line"):
            yield

    @contextmanager
    def bar(
        self, what: str, total: int, done: int = 0, unit: str = "", each: int = 1
    ) -> Iterator[Advance]:
        """A progress bar of `total` steps, `done` of them before; yields `advance(steps=1, what=None)`.

        With a `unit`, the steps are counted by `what`, which each call may change, and the speed is
        said in units, of which a step has `each`.
        """
        pace = Pace(total, done, unit, each)
        if not self.terminal:
            yield self._plain(what, pace)
            return
        from rich import get_console, progress

        console = get_console()
        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(max(4, min(40, console.width - 50))),
            progress.TextColumn("{task.fields[pace]}", markup=False),
        )
        with progress.Progress(*columns, console=console, transient=True) as bar:
            text = self._shown(what)
            task = bar.add_task(text, total=total, completed=done, pace=pace.counted)

            def advance(steps: int = 1, what: str | None = None) -> None:
                pace.advance(steps)
                text = self._shown(what) if what else None
                bar.update(task, advance=steps, description=text, pace=pace.counted)

            yield advance

    def _plain(self, what: str, pace: Pace) -> Advance:
        last = time.monotonic()

        def advance(steps: int = 1, what: str | None = what) -> None:
            nonlocal last
            pace.advance(steps)
            if time.monotonic() - last > PLAIN_SECONDS and pace.done < pace.total:
                last = time.monotonic()
                self.say(f"{what}: {pace.line}")

        return advance

    def track(self, items: Iterable[T], what: str, total: int) -> Iterator[T]:
        """The items, with a bar that moves by one for each."""
        with self.bar(what, total) as advance:
            for item in items:
                yield item
                advance()


class Pace:
    """How far work is, how fast of late, and how long the rest takes; steps done before do not count as speed."""

    def __init__(self, total: int, done: int = 0, unit: str = "", each: int = 1) -> None:
        self.total, self.done, self.unit, self.each = total, done, unit, each
        self._seen = deque([(time.monotonic(), done)])

    def advance(self, steps: int) -> None:
        """So many steps more are done."""
        self.done += steps
        now = time.monotonic()
        if now - self._seen[-1][0] >= PACE_SECONDS / 100:
            self._seen.append((now, self.done))
            while now - self._seen[0][0] > PACE_SECONDS:
                self._seen.popleft()

    @property
    def speed(self) -> float:
        """Steps a second, of late; 0 where it is not yet known."""
        (start, before), (end, after) = self._seen[0], self._seen[-1]
        return (after - before) / (end - start) if end > start else 0.0

    @property
    def parts(self) -> list[str]:
        """Speed and time left, where known."""
        if not self.speed or self.done >= self.total:
            return []
        left = timedelta(seconds=round((self.total - self.done) / self.speed))
        speed = [f"{self.speed * self.each:,.0f} {self.unit}/s"] if self.unit else []
        return [*speed, f"{left} left"]

    @property
    def counted(self) -> str:
        """For a bar, which has `what` before it."""
        return ", ".join([*([] if self.unit else [f"{self.done:,}/{self.total:,}"]), *self.parts])

    @property
    def line(self) -> str:
        """For a line."""
        count = [] if self.unit else [f"{self.done:,} of {self.total:,}"]
        return ", ".join([*count, *self.parts])


Progress = bool | Screen
"""Whether a command prints its progress: yes, no, or on this screen."""


def screen_of(progress: Progress) -> Screen:
    """The screen that a command prints to: of several processes the first alone prints."""
    return progress if isinstance(progress, Screen) else Screen(quiet=not progress or rank() > 0)


def plural(word: str, count: int) -> str:
    """The word, in the plural unless the count is 1."""
    if count == 1:
        return word
    return f"{word}es" if word.endswith(("ch", "s", "x")) else f"{word}s"


def short(name: str, most: int = 18) -> str:
    """A class name that fits into a table or beside an axis, with control characters escaped."""
    name = visible(name)
    return name if len(name) <= most else name[: most - 1] + "…"


def counted(count: int, word: str) -> str:
    """A count and the word for it."""
    return f"{count:,} {plural(word, count)}"
