"""A module in the working folder, or among the data, is never imported; nor is a setting obeyed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import TINY

NAMES = ("json", "csv", "random", "tempfile", "hashlib", "torch", "cv2", "numpy", "pandas", "typer")
SCRIPT = Path(sys.executable).with_name("histo")
MODULE = (sys.executable, "-m", "histo")


@pytest.fixture
def hostile(dataset: Path, tmp_path: Path) -> Path:
    """A working folder with data, and in both of them modules that say that they were imported."""
    data = shutil.copytree(dataset, tmp_path / "data", ignore=shutil.ignore_patterns(".histo"))
    for folder in (tmp_path, data, data / "train"):
        for name in NAMES:
            (folder / f"{name}.py").write_text(f"raise SystemExit('imported {name}.py')\n")
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: module://random\n")
    return tmp_path


def done_in(folder: Path, *words: object) -> str:
    """What a command says that has succeeded in a folder."""
    command = [str(word) for word in words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("start", [(SCRIPT,), MODULE], ids=["script", "module"])
def test_a_run_is_made_in_a_folder_of_hostile_modules(hostile, start: Sequence[object]):
    """From training to the report, with its figures."""
    if start == (SCRIPT,) and not SCRIPT.is_file():
        pytest.skip("histo is not installed here")
    words = ("train", "data", *TINY, "--weights", "none", "--epochs", 1, "--out", "run")
    done_in(hostile, *start, *words)
    done_in(hostile, *start, "interpret", "run")
    assert (hostile / "run" / "report" / "roc.png").stat().st_size > 0


@pytest.mark.long
def test_so_are_the_processes_of_a_launch(hostile):
    words = ("train", "data", *TINY, "--weights", "none", "--epochs", 1, "--out", "run")
    done_in(hostile, *MODULE, *words, "--devices", 2)
