"""A run of folds on a tree of folders, with patches that are left out, survives a kill."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import rows_of, run_histo, write_image
from tests.kills import result

WORDS = ("--arch", "squeezenet1_1", "--weights", "none", "--device", "cpu", "--batch-size", "16")
WORDS += ("--epochs", "1", "--folds", "2", "--skip-bad", "--no-store", "--checkpoint-minutes", "0")


def killed(words: list[str], seen: Path) -> None:
    """Run histo in a process of its own, and kill it once a file is there."""
    command = [sys.executable, "-W", "ignore", "-m", "histo", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 100
    while not seen.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    said, _ = process.communicate()
    assert seen.exists(), said


@pytest.mark.long
def test_folds_on_folders_end_after_a_kill_as_without(dataset, tmp_path):
    """Patients stay whole, and what was left out is listed and told by the exit status again."""
    tree, whole, run = tmp_path / "tree", tmp_path / "whole", tmp_path / "run"
    for n, row in enumerate(rows_of(dataset / "train_labels.csv")[:80]):
        place = tree / f"{8860 + n % 8}" / row["label"]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(dataset / "train" / f"{row['id']}.tif", place / f"x{n}.tif")
    write_image(tree / "8860" / "1" / "edge.png", np.full((48, 8, 3), 180, np.uint8))
    assert run_histo("train", tree, *WORDS, "--out", whole).exit_code == 3
    words = ["train", str(tree), *WORDS, "--out", str(run)]
    killed(words, run / "fold-2" / "checkpoint" / "last.safetensors")
    resumed = run_histo("train", "--resume", run)
    assert resumed.exit_code == 3, resumed.output
    assert "fold 1 of 2: already finished" in resumed.stdout
    for fold in ("fold-1", "fold-2"):
        assert result(run / fold) == result(whole / fold)
    for name in ("predictions.csv", "split.csv", "skipped.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert [row["id"] for row in rows_of(run / "skipped.csv")] == ["8860/1/edge.png"]
