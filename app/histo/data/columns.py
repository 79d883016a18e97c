"""Columns of a table, by name: the one asked for, or the only one whose name means the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from histo.config import DataConfig
from histo.errors import HistoError
from histo.files.tables import read_table

Say = Callable[[str], object]

ID_NAMES = (
    *("id", "imageid", "patchid", "tileid", "image", "imagename", "img", "imageid", "filename"),
    *("file", "filepath", "imagepath", "path", "patch", "patchname", "tile", "name", "uuid"),
)
LABEL_NAMES = (
    *("label", "labels", "target", "class", "classname", "classid", "category", "diagnosis", "dx"),
    *("groundtruth", "annotation", "y"),
)
"""Names that mean the same, without case, blanks, hyphens and underscores."""
TITLE_LINES = 10
"""A header is looked for in so many lines, to tell that it is not the first."""


@dataclass(frozen=True)
class Column:
    """A column that is wanted: `setting` names it, `similar` are names taken instead of `name`."""

    name: str
    setting: str = ""
    similar: tuple[str, ...] = ()
    what: str = ""


def id_column(name: str) -> Column:
    """The column of ids; under the default name others that mean the same are taken too."""
    default = name == DataConfig.id_column
    return Column(name, "id_column", ID_NAMES if default else (), "ids")


def label_column(name: str) -> Column:
    """The column of labels; under the default name others that mean the same are taken too."""
    default = name == DataConfig.label_column
    return Column(name, "label_column", LABEL_NAMES if default else (), "labels")


def read_header(path: Path) -> list[str]:
    """The column names of a table, without blanks around them."""
    return [name.strip() for name in next(_rows(path), (0, []))[1]]


def read_rows(
    path: Path,
    columns: Sequence[str | Column],
    may_be_empty: bool = False,
    say: Say | None = None,
) -> Iterator[tuple[int, list[str]]]:
    """The wanted columns of a table with a header, as (line number, values).

    Blank lines are skipped, and row numbers that the header has no name for (as R writes them).
    `say` is told which column was taken under another name. Raises HistoError, naming file and line.
    """
    table = _rows(path)
    header = [name.strip() for name in next(table, (0, []))[1]]
    wanted = [Column(each) if isinstance(each, str) else each for each in columns]
    check_first(header, wanted, path)
    places, row_numbers, count = [place_of(each, header, path, say) for each in wanted], False, 0
    for line, values in table:
        cells = [value.strip() for value in values]
        if not any(cells):
            continue
        if not count:
            row_numbers = len(cells) == len(header) + 1 and cells[0] in ("0", "1")
            row_numbers = row_numbers and bool(cells[-1])
        if len(cells) != len(header) + row_numbers:
            open_to_the_end = values[-1].endswith("\n")
            begun = line - sum(value.count("\n") for value in values) + open_to_the_end
            quote = f" (a quote is open from line {begun} on)" if begun < line else ""
            raise HistoError(
                f"{path.name}, line {begun}: {len(cells)} values where the header has "
                f"{len(header)}{quote}"
            )
        yield line, [cells[place + row_numbers] for place in places]
        count += 1
    if not count and not may_be_empty:
        raise HistoError(f"{path} has a header and no rows")


def check_first(header: Sequence[str], wanted: Sequence[Column], path: Path) -> None:
    """HistoError where the first line is empty, or a title or a comment above the header."""
    if any(is_in(each, header) for each in wanted):
        return
    for line, cells in islice(_rows(path), 1, TITLE_LINES):
        row = [name.strip() for cell in cells for name in re.split("[,;\t]", cell)]
        if all(is_in(each, row) for each in wanted):
            raise HistoError(
                f"{path.name}: line {line} is the header, and what stands above it is not a table",
                f"remove {'line 1' if line == 2 else f'lines 1 to {line - 1}'}",
            )
    if not any(header):
        raise HistoError(f"{path} is empty")


def is_in(column: Column, header: Sequence[str]) -> bool:
    """Whether a header has a column, under its name or one that means the same."""
    plain = map(plain_name, header)
    return column.name in header or any(name in column.similar for name in plain)


def place_of(column: Column, header: Sequence[str], path: Path, say: Say | None = None) -> int:
    """Where a column stands; HistoError where none, or more than one, can be meant."""
    if column.name in header:
        return only_place(column.name, header, path)
    way = [f"give {{{column.setting}}} NAME"] if column.setting else []
    names = {plain_name(name): name for name in header}
    same = plain_name(column.name)
    likely = [same] if column.similar and same in names else column.similar
    found = [names[name] for name in likely if name in names]
    found = list(dict.fromkeys(found))
    if not found:
        if any(name.replace(".", "", 1).isdecimal() for name in header):
            raise HistoError(
                f"{path.name}, line 1 looks like a row, not a header ({', '.join(header[:20])})",
                f"write the names of the columns above it, {column.name!r} among them",
            )
        raise HistoError(
            f"{path} has no column {column.name!r}: it has {', '.join(header[:20])}", *way
        )
    if len(found) > 1:
        raise HistoError(
            f"{path} has no column {column.name!r}, and {' or '.join(found)} may hold the "
            f"{column.what}",
            *way,
        )
    if say:
        say(f"{column.what} of {path.name}: column {found[0]!r}")
    return only_place(found[0], header, path)


def only_place(name: str, header: Sequence[str], path: Path) -> int:
    """Where the column of that name stands; HistoError where several have it."""
    if header.count(name) > 1:
        raise HistoError(f"{path} has {header.count(name)} columns {name!r} (rename all but one)")
    return header.index(name)


def plain_name(name: str) -> str:
    """A column's name without case, blanks, hyphens and underscores."""
    return "".join(c for c in name.casefold() if c not in " -_.")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table, and the ways out where there is none."""
    try:
        if path.parent.is_file():  # a file was given for the folder of the data
            raise FileNotFoundError(path)
        yield from read_table(path)
    except FileNotFoundError:
        raise HistoError(f"no label CSV {path}", "give {labels} if it is elsewhere") from None
    except IsADirectoryError:
        raise HistoError(f"{path} is a folder, not a CSV") from None
