"""Writes that are cut off: by a kill, by a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from histo.files.aside import ENDING, sweep
from histo.files.writing import built, write_text, written

COMMANDS = "export,merge,check"


@pytest.mark.long
def test_commands_killed_at_a_write_or_on_a_full_disk_end_as_unbroken_ones(tmp_path):
    """Two writes of three commands; `just writes` tries all of all."""
    words = [str(tmp_path / "walk"), "--commands", COMMANDS, "--faults", "kill,full", "--most", "2"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.writes", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" 0 fell") == len(COMMANDS.split(","))


def die_while_writing(path: Path) -> None:
    """A process that is killed while it writes a file and builds a folder."""
    code = (
        "import os, sys, pathlib; from histo.files.writing import built, written\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "with written(path) as file, built(path.with_name('folder'), last='x') as made:\n"
        "    file.write(b'half'); (made / 'x').write_bytes(b'half'); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == -9


def test_what_a_dead_process_left_is_removed_by_the_next(tmp_path):
    die_while_writing(tmp_path / "table.csv")
    assert len([path for path in tmp_path.iterdir() if path.name.endswith(ENDING)]) == 2
    write_text(tmp_path / "other.csv", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["other.csv"]


def test_a_store_and_hidden_files_of_that_ending_are_not_taken_for_left_over(tmp_path):
    """`.histo` in a folder of data holds decoded patches, and features that took hours."""
    kept = [".histo", ".mine.histo", ".my.notes.histo", ".x.0123ABCD.histo", "x.01234567.histo"]
    for name in kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    write_text(tmp_path / "table.csv", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "table.csv"])
    assert all((tmp_path / name / "file").is_file() for name in kept)


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    with written(tmp_path / "table.csv", "w") as file, built(tmp_path / "b", last="x") as made:
        code = "import sys, pathlib; from histo.files.aside import sweep; sweep(pathlib.Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
        file.write("whole")
        (made / "x").write_text("whole")
    sweep(tmp_path)
    assert (tmp_path / "table.csv").read_text() == (tmp_path / "b" / "x").read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_is_renewed_and_the_users_own_files_stay(tmp_path):
    """Without its last file it is not whole: that one goes first and comes last."""
    place = tmp_path / "report"
    with built(place, last="page") as made:
        for name in ("page", "old"):
            (made / name).write_text("1")
    (place / "mine").write_text("mine")
    with suppress(RuntimeError), built(place, last="page", earlier=["page", "old"]) as made:
        (made / "page").write_text("2")
        raise RuntimeError
    assert {path.name: path.read_text() for path in place.iterdir()} == {
        "page": "1",
        "old": "1",
        "mine": "mine",
    }
    with built(place, last="page", earlier=["page", "old"]) as made:
        (made / "page").write_text("2")
    assert {path.name: path.read_text() for path in place.iterdir()} == {
        "page": "2",
        "mine": "mine",
    }


@pytest.mark.skipif(not hasattr(os, "umask"), reason="no umask")
def test_files_are_shared_as_the_umask_says(tmp_path):
    write_text(tmp_path / "table.csv", "whole")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "table.csv").stat().st_mode & 0o777 == 0o666 & ~mask
