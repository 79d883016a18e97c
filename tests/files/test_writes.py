"""Writes that are cut off: by a kill, by a disk that is full or becomes read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from histo.files.aside import ENDING, sweep
from histo.files.writing import built, write_bytes, write_text, written
from tests import disks
from tests.conftest import assert_one_line_error, run_histo

COMMANDS = "export,merge,check"
GOLDEN = Path(__file__).parents[1] / "golden" / "bundle-2"


@pytest.mark.long
@pytest.mark.parametrize("faults", ["kill,full", "readonly", "remounted"])
def test_commands_cut_off_at_a_write_end_as_unbroken_ones(tmp_path, faults):
    """By a kill, a full disk, one that becomes read-only: two writes of three commands.

    `just writes` tries all of all. A real disk, which the kernel makes read-only, needs root.
    """
    if faults == "remounted" and (why := disks.why_not()):
        pytest.skip(why)
    words = [str(tmp_path / "walk"), "--commands", COMMANDS, "--faults", faults, "--most", "2"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.writes", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if disks.NONE in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" 0 fell") == len(COMMANDS.split(","))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which a test may mount read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(place)]
    if not hasattr(os, "geteuid") or os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    "words", [("predict", GOLDEN, "disk", "--out"), ("check", "disk", "--out")]
)
def test_a_read_only_file_system_is_one_line_and_the_same_words_later_go_on(
    words, dataset, disk, tmp_path
):
    """What was to be written lies beside the patches."""
    shutil.copytree(dataset, disk, dirs_exist_ok=True)
    given = [disk if word == "disk" else word for word in words]
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert_one_line_error(run_histo(*given, disk / "out"), "Read-only file system", str(disk))
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert run_histo(*given, disk / "out").exit_code == 0
    assert run_histo(*given, tmp_path / "out").exit_code == 0
    assert [path.name for path in disk.iterdir() if path.name.endswith(ENDING)] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_write_that_fails_names_its_file():
    with pytest.raises(OSError, match="/dev/full"):
        write_bytes(Path("/dev/full"), b"more than nothing")


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
