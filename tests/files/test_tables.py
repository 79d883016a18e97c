"""Tables as spreadsheets and other programs write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from histo.errors import HistoError
from histo.files.tables import read_table

ROWS = [["id", "label"], ["a", "x, y"], ["b", "z"]]


def read(path: Path) -> list[list[str]]:
    return [values for _, values in read_table(path)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separator_and_encoding_are_found(tmp_path, separator, encoding, end):
    """UTF-16 with a byte-order mark or without; commas in a value stay there."""
    text = end.join(separator.join(f'"{value}"' for value in row) for row in ROWS) + end
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    assert read(tmp_path / "t.csv") == ROWS


def test_excels_own_line_about_the_separator_is_passed_over_and_lines_are_counted(tmp_path):
    (tmp_path / "t.csv").write_text("sep=;\nid;label\na;1\n")
    assert list(read_table(tmp_path / "t.csv")) == [(2, ["id", "label"]), (3, ["a", "1"])]


def test_the_header_decides_not_the_values(tmp_path):
    (tmp_path / "t.csv").write_text("id,label\na;b;c,1\n")
    assert read(tmp_path / "t.csv")[1] == ["a;b;c", "1"]
    (tmp_path / "t.csv").write_text("id\na,1\n")
    assert read(tmp_path / "t.csv") == [["id"], ["a", "1"]]


@pytest.mark.parametrize("data", [b"id,label\n\xff,1\n", "id;l\na;1\n".encode("utf-16")[:-1]])
def test_text_in_no_known_encoding_is_refused(tmp_path, data):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(HistoError, match="is not UTF-8 text"):
        read(tmp_path / "t.csv")
