"""What is remembered in the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from histo.files.notes import NOTES, read_note, write_note


def test_a_note_is_kept_although_the_clock_was_set_back(tmp_path, monkeypatch):
    """The others are from the future then, and only so many are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    folder = tmp_path / "histo" / "stores"
    folder.mkdir(parents=True)
    for number in range(NOTES):
        (folder / str(number)).touch()
        os.utime(folder / str(number), (4e9, 4e9))
    write_note("stores", bytes(Path("store")), "mine")
    assert read_note("stores", bytes(Path("store"))) == "mine"
    assert len(list(folder.iterdir())) <= NOTES + 1
