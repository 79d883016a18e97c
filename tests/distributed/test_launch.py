"""Training by several processes gives what one gives, and none hangs when another is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from histo.config import TrainConfig
from histo.data.synth import write_dataset
from histo.errors import HistoError
from histo.screen import Screen
from histo.training.prepare import divide
from tests.launched import MINUTE, PATCHES

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Found:
    """What trainings by 1 and 2 processes gave, and one of which a process was killed."""
    folder = tmp_path_factory.mktemp("launched") / "here"
    command = [sys.executable, "-W", "ignore", "-m", "tests.launched", str(folder), "--most", "2"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    whole: Found = json.loads((folder / "result.json").read_text())
    return whole


@pytest.mark.long
def test_several_processes_take_the_steps_of_one(found: Found):
    """The same losses in every batch, and the same predictions; `just launches` tries four."""
    one, several = found["plain-1"], found["plain-2"]
    assert several["statuses"] == [0] * 2
    assert len(one["losses"]) == 11
    assert several["losses"] == pytest.approx(one["losses"], abs=1e-6)
    assert several["p"] == pytest.approx(one["p"], abs=1e-6)


@pytest.mark.long
def test_batch_norm_is_over_the_patches_of_all_processes(found: Found):
    one, two = found["normed-1"], found["normed-2"]
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-6)
    assert two["p"] == pytest.approx(one["p"], abs=1e-6)
    assert "batch norm over all processes" in two["logs"][0]


@pytest.mark.long
@pytest.mark.parametrize("name", ["plain-2", "normed-2"])
def test_the_table_has_every_validation_patch_once(found: Found, name: str):
    assert found[name]["ids"] == found["plain-1"]["ids"]
    assert len(set(found[name]["ids"])) == len(found[name]["ids"]) == PATCHES - 162


@pytest.mark.long
def test_the_first_process_speaks_for_all(found: Found):
    logs = found["plain-2"]["logs"]
    assert "2 processes, 8 patches per batch and process" in logs[0]
    assert logs[1:] == [""]


@pytest.mark.long
def test_a_killed_process_ends_the_other_with_one_line_and_one_goes_on_alone(found: Found):
    killed, victim = found["killed-0"], found["killed-0"]["victim"]
    assert killed["statuses"][victim] == -9
    assert killed["statuses"][1 - victim] == 1
    assert killed["seconds"] < MINUTE
    assert len(killed["errors"]) == 1
    assert "another process of the launch is lost" in killed["errors"][0]
    assert killed["resumed"] == [0]
    assert killed["p"] == pytest.approx(found["plain-1"]["p"], abs=1e-6)


@pytest.mark.long
def test_the_table_is_by_the_model_that_is_kept_where_batch_norm_is_not_shared(found: Found):
    """Validation uses the running statistics of rank 0, and so does who predicts anew afterwards."""
    assert "batch norm" not in found["apart-2"]["logs"][0]
    assert found["apart-2"]["p"] == pytest.approx(found["anew-2"]["p"], abs=1e-6)


@pytest.mark.long
def test_processes_that_seldom_agree_on_a_pause_stop_at_the_end_of_an_epoch(found: Found):
    """As on GPUs: SIGTERM, a checkpoint, and one line of the first process."""
    stopped = found["stopped"]
    assert stopped["statuses"][0] == stopped["statuses"][1] != 0
    assert "to resume: histo train --resume" in stopped["logs"][0]


def test_there_is_a_patch_to_judge_for_each_process(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "8")
    config, cpu = TrainConfig(Path("data")), torch.device("cpu")
    with pytest.raises(HistoError, match="7 validation patches are too few for 8 processes"):
        divide(config, 256, 7, cpu, torch.nn.Identity(), Screen(quiet=True))


def train(*words: str) -> subprocess.CompletedProcess[str]:
    """`histo train` on a CPU with two processes."""
    command = [sys.executable, "-W", "ignore", "-m", "histo", "train", *words]
    command += ["--device", "cpu", "--devices", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_devices_is_all_it_takes_on_one_machine(tmp_path: Path):
    write_dataset(tmp_path / "data", 40, 0, Screen(quiet=True))
    words = [str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--weights", "none"]
    done = train(*words, "--arch", "squeezenet1_1", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    assert "2 processes, 16 patches per batch and process" in done.stdout
    assert done.stdout.count("run: ") == 1
    assert (tmp_path / "run" / "predictions.csv").is_file()


@pytest.mark.slow
def test_the_launcher_adds_nothing_to_the_lines_of_its_processes(tmp_path: Path):
    """An expected problem is a line of each process that met it, without the launcher's page."""
    done = train(str(tmp_path / "missing"))
    assert done.returncode == 1
    assert done.stderr
    assert all(line.startswith("error") for line in done.stderr.splitlines()), done.stderr
