"""patches.zip: what a folder's patches lie in, its own or a stranger's."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from histo.errors import HistoError
from histo.files.limits import ROWS
from histo.files.packed import EPOCH, PACK, packed_names
from tests.conftest import Memory


def write_pack(folder: Path, count: int, remark: bytes = b"", large: bool = False) -> Path:
    """Empty patches; `large` as ZIP64 has them."""
    with zipfile.ZipFile(folder / PACK, "w") as file:
        for n in range(count):
            file.writestr(zipfile.ZipInfo(f"{n}.png", EPOCH), b"")
        file.comment = remark
        if large:
            limit, zipfile.ZIP_FILECOUNT_LIMIT = zipfile.ZIP_FILECOUNT_LIMIT, 1
            try:
                file.close()
            finally:
                zipfile.ZIP_FILECOUNT_LIMIT = limit
    return folder / PACK


@pytest.mark.parametrize("remark", [b"", b"x" * 60_000])
@pytest.mark.parametrize("large", [False, True])
def test_every_form_of_the_list_is_read(tmp_path, remark, large):
    write_pack(tmp_path, 9, remark, large)
    assert packed_names(tmp_path) == [f"{n}.png" for n in range(9)]


def test_a_list_of_too_many_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """A thousand bytes of memory an entry of 51."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, *[0] * 4, 33, *[0] * 3, 5, *[0] * 6)
    listed = (entry + b"a.png") * 200_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, len(listed), 0, 0)
    (tmp_path / PACK).write_bytes(listed + end)
    monkeypatch.setenv(ROWS.name, "50000")
    memory = Memory()
    with pytest.raises(HistoError, match=ROWS.name):
        packed_names(tmp_path)
    assert memory.taken < 3 * len(listed)


@pytest.mark.parametrize("data", [b"", b"PK\5\6", b"PK\5\6" + bytes(18), b"x" * 100, b"PK\5\6" * 9])
def test_what_is_no_zip_is_damaged(tmp_path, data):
    (tmp_path / PACK).write_bytes(data)
    if data == b"PK\5\6" + bytes(18):
        assert packed_names(tmp_path) == []
        return
    with pytest.raises(HistoError, match="is damaged"):
        packed_names(tmp_path)
