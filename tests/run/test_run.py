"""Files of a run: whole under their names, or not there."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from histo.errors import HistoError
from histo.files.writing import write_text, written
from histo.run.folder import RunFolder


def test_a_file_is_on_disk_before_it_takes_its_name_and_its_folder_after(tmp_path, monkeypatch):
    """Else a loss of power leaves an empty file under the name, or none."""
    seen, flush, path = [], os.fsync, tmp_path / "a.txt"

    def spy(handle: int) -> None:
        kind = os.fstat(handle)
        folder = stat.S_ISDIR(kind.st_mode)
        seen.append((folder, None if folder else kind.st_size, path.exists()))
        flush(handle)

    monkeypatch.setattr(os, "fsync", spy)
    write_text(path, "seven\r\n")
    assert seen == [(False, 7, False), (True, None, True)]
    assert path.read_bytes() == b"seven\r\n"


def test_a_write_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def break_off() -> None:
        with written(path, "w") as file:
            file.write("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_is_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path(tmp_path / "a.txt").stat().st_mode) == 0o640


def test_a_damaged_run_names_the_file(tmp_path):
    run = RunFolder(tmp_path)
    run.config.write_text("[1]")
    run.split.write_bytes(b"id,label\n\xff")
    with pytest.raises(HistoError, match=r"config.json is not a histo config"):
        run.settings()
    paths = {"arch": "a", "data": "d", "weights": "none", "images": "a\0b"}
    run.config.write_text(json.dumps({name: {"value": path} for name, path in paths.items()}))
    with pytest.raises(HistoError, match=r"config.json is not readable JSON"):
        run.settings()  # no path holds a NUL: every use of it would be a ValueError
    paths["images"] = "a b"
    run.config.write_text(json.dumps({name: {"value": path} for name, path in paths.items()}))
    assert run.settings() == paths
    with pytest.raises(HistoError, match=r"split.csv is not UTF-8 text"):
        run.read_split()
    assert run.read_history() == []
