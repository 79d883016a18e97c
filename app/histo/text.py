"""Text from anywhere as a terminal of any width and encoding can show it."""

from __future__ import annotations

import codecs
import unicodedata

from histo.errors import plain

SPELLED = {
    "…": "...",
    "–": "-",
    "—": "-",
    "×": "x",
    "≥": ">=",
    "≤": "<=",
    "µ": "u",
    "²": "2",
    "·": "-",
}
"""histo's own characters where an encoding lacks them; others are escaped, as `\\xe9`."""
REPLACES = "histo.replace"
"""The name of that rule for `str.encode` and for `reconfigure`."""


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    escaped = (SPELLED.get(c) or c.encode("unicode_escape").decode() for c in part)
    return "".join(escaped), error.end


codecs.register_error(REPLACES, _replace)


def sayable(text: str, encoding: str | None) -> str:
    """The text, with what an encoding lacks spelled out or escaped."""
    return text.encode(encoding, REPLACES).decode(encoding) if encoding else text


def visible(text: str) -> str:
    """Text of one or more lines with control characters and changes of direction escaped."""
    return "\n".join(plain(line) for line in text.split("\n"))


def width_of(text: str) -> int:
    """The columns that a terminal needs for a text: two for wide characters, none for accents."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def shortened(text: str, most: int, gap: str = "…") -> str:
    """A text of `most` columns at most: its start and its end, which tell similar names apart."""
    if width_of(text) <= most:
        return text
    head, tail, room = text, text, max(0, most - len(gap))
    while width_of(head) > room - room // 3:
        head = head[:-1]
    while width_of(tail) > room // 3:
        tail = tail[1:]
    return f"{head}{gap}{tail}"


def fitted(rows: list[list[str]], columns: int, gap: str = "…") -> list[list[str]]:
    """Rows of a table with its longest texts shortened until it fits; numbers are never cut."""
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    names = [
        n for n, column in enumerate(zip(*rows, strict=True)) if not all(map(_figure, column[1:]))
    ]
    while names and sum(widths) + 2 * (len(widths) - 1) > columns:
        longest = max(names, key=lambda n: widths[n])
        if widths[longest] <= MIN_WIDTH:
            break
        widths[longest] -= 1
    return [
        [shortened(cell, width, gap) for cell, width in zip(row, widths, strict=True)]
        for row in rows
    ]


MIN_WIDTH = 8
"""Columns below which a name is not shortened."""


def _figure(cell: str) -> bool:
    """Whether a cell is a number, or numbers: 0.95, `1,234`, `12.5 %`, `0.9 (0.8 to 1.0)`."""
    return not cell.replace("to", "").strip("0123456789.,%()+-– /")
