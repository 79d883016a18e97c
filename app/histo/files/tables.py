"""Tables of unknown origin: CSV, row by row, within bounds.

The separator is found: commas, semicolons (Excel in much of Europe), tabs, bars. So is UTF-16, which
Excel calls Unicode text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, TextIO

from histo.errors import HistoError
from histo.files.limits import MB, ROWS, TABLE_BYTES, read_bytes

LINE = MB
"""Characters of a line: splitting one of nothing but commas takes sixteen times its length."""
SEPARATORS = ",;\t|"


def csv_writer(file: IO[str]) -> Any:
    """A writer of CSV rows that end with a line feed; a cell with a carriage return is quoted too.

    Before Python 3.13 the writer of `csv` quotes what stands in its line end alone, and its reader
    takes any carriage return outside quotes for the end of a row.
    """
    return csv.writer(_LineFeeds(file), lineterminator="\r\n")


class _LineFeeds:
    """A file to which rows are written with a line feed in place of their line end."""

    def __init__(self, file: IO[str]) -> None:
        self._write = file.write

    def write(self, row: str) -> int:
        """Write a row that ends with CR LF."""
        return self._write(f"{row[:-2]}\n")


def read_table(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV, its header first, each with the number of the line where it ends.

    UTF-8 or UTF-16, any line ends. Raises HistoError, naming the file and the line;
    FileNotFoundError and IsADirectoryError pass: callers name what was missing.
    """
    data, most = read_bytes(path, TABLE_BYTES), ROWS.value
    lines = _lines(io.TextIOWrapper(io.BytesIO(data), encoding_of(data), newline=""), path)
    at = 0
    try:
        first = next(lines, "")
        said = re.fullmatch(r"sep=(.)", first.strip("\r\n"))  # Excel's own line before the header
        if said:
            first, at = next(lines, ""), 1
        separator = said[1] if said else separator_of(first)
        reader = csv.reader(chain([first], lines), delimiter=separator)
        for number, values in enumerate(reader):
            if number > most:
                ROWS.check(number, str(path))
            yield at + reader.line_num, values
    except csv.Error as error:
        line = at + reader.line_num
        raise HistoError(f"{path.name}, line {line}: not a CSV row ({error})") from None
    except UnicodeError:
        raise HistoError(f"{path} is not UTF-8 text (save it as CSV UTF-8)") from None


def encoding_of(data: bytes) -> str:
    """UTF-16 where a byte-order mark says so or every second byte of the start is zero, else UTF-8."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    start = data[:64]
    odd, even = start[1::2], start[0::2]
    if len(start) >= 4 and not any(odd) and all(even):
        return "utf-16-le"
    return "utf-16-be" if len(start) >= 4 and not any(even) and all(odd) else "utf-8-sig"


def separator_of(header: str) -> str:
    """The separator that the header has most of, outside quotes; a comma where it has none."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=bare.count)


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    while line := file.readline(LINE + 1):
        if len(line) > LINE:
            raise HistoError(f"{path} has a line of more than {LINE:,} characters")
        yield line
