"""Tables that others wrote: CSV, row by row, within bounds."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from histo.errors import HistoError
from histo.files.limits import MB, ROWS, TABLE_BYTES, read_bytes

LINE = MB
"""Characters of a line: one of commas alone would take sixteen times its length to split."""


def read_table(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV, its header first, each with the number of the line where it ends.

    UTF-8 with or without a byte-order mark, any line ends. Raises HistoError, naming the file and
    the line; FileNotFoundError and IsADirectoryError pass, for the caller knows what was wanted.
    """
    data, most = io.BytesIO(read_bytes(path, TABLE_BYTES)), ROWS.value
    reader = csv.reader(_lines(io.TextIOWrapper(data, "utf-8-sig", newline=""), path))
    try:
        for number, values in enumerate(reader):
            if number > most:
                ROWS.check(number, str(path))
            yield reader.line_num, values
    except csv.Error as error:
        raise HistoError(f"{path.name}, line {reader.line_num}: not a CSV row ({error})") from None
    except UnicodeDecodeError:
        raise HistoError(f"{path} is not UTF-8 text (save it as CSV UTF-8)") from None


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    while line := file.readline(LINE + 1):
        if len(line) > LINE:
            raise HistoError(f"{path} has a line of more than {LINE:,} characters")
        yield line
