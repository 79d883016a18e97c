"""JSON, arrays and cells that a stranger wrote, each a result or one error."""

from __future__ import annotations

import io
import math
import struct
import zipfile

import pytest

from histo.errors import HistoError
from histo.files.arrays import parse_arrays
from histo.files.tables import csv_writer, read_table
from histo.files.writing import read_json


@pytest.mark.parametrize("number", ["1e999", "-Infinity", "1" + "0" * 400, str(2**63), "NaN"])
def test_a_number_that_no_column_holds_is_none(tmp_path, number):
    """int() and float() of it would raise what nobody expects."""
    (tmp_path / "a.json").write_text(f'{{"a": {number}, "b": {2**63 - 1}, "c": 0.5}}')
    found = read_json(tmp_path / "a.json")
    assert math.isnan(found["a"])
    assert (found["b"], found["c"]) == (2**63 - 1, 0.5)


@pytest.mark.parametrize("text", ["\\ud800", "\\udfff x", "\\ud83d\\u0041", "a\\u0000b"])
def test_half_a_pair_of_surrogates_or_a_nul_is_refused(tmp_path, text):
    """It could be written to no table and no page, or be no path."""
    for data in (f'["{text}"]', f'{{"{text}": 1}}'):
        (tmp_path / "a.json").write_text(data)
        with pytest.raises(HistoError, match="not readable JSON"):
            read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('["\\ud83d\\ude00", "C:\\\\u0000"]')
    assert read_json(tmp_path / "a.json") == ["\U0001f600", "C:\\u0000"]


def npy(header: str) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode()


def packed(data: bytes, kind: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as members:
        members.writestr("a.npy", data)
    return file.getvalue()


def damaged_lzma() -> bytes:
    data = bytearray(packed(npy("x" * 100), zipfile.ZIP_LZMA))
    at = data.index(b"a.npy") + 17
    data[at : at + 20] = b"\xff" * 20
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [damaged_lzma(), *(packed(npy(text)) for text in ("(" * 9000, "-" * 9000 + "1", "{[]: 1}\n"))],
    ids=["lzma", "brackets", "signs", "list"],
)
def test_arrays_whose_header_is_no_header_are_damaged(data):
    with pytest.raises(ValueError, match="damaged"):
        parse_arrays(data, 1 << 20)


@pytest.mark.parametrize("cell", ["a\rb", "a\nb", "a\r\nb", 'a"b', "\r", "a,b", " "])
def test_any_cell_is_read_as_it_was_written(tmp_path, cell):
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv_writer(file).writerows([["id", "group"], ["1", cell], ["2", ""]])
    rows = [row for _, row in read_table(tmp_path / "t.csv")]
    assert rows == [["id", "group"], ["1", cell], ["2", ""]]
    if "\r" not in cell:
        assert b"\r" not in (tmp_path / "t.csv").read_bytes()
