"""Runs survive: a kill, a full disk, changed data, a second process, Ctrl-C."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from fastai.callback.core import Callback

from histo.config import TrainConfig
from histo.errors import HistoError
from histo.files.writing import write_json
from histo.model.checkpoint import Checkpoint, Position
from histo.run.folder import RunFolder
from histo.screen import Screen
from histo.training.recipe import Plan, fit
from histo.training.recording import record_resumed, session
from histo.training.resume import read_settings
from histo.training.stopping import stop_asked
from tests.conftest import TINY, assert_one_line_error, histo_process, run_histo, unfinish
from tests.kills import result
from tests.small import watched_learner

NOTHING = ("--weights", "none")


def begun(dataset: Path, out: Path) -> subprocess.Popen[str]:
    """A training of 200 epochs in a process of its own, its first epoch done."""
    command = [sys.executable, "-W", "ignore", "-m", "histo", "train", dataset, *TINY, *NOTHING]
    command += ["--epochs", 200, "--out", out]
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 100
    while not (out / "predictions.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


@pytest.mark.long
def test_a_run_killed_at_random_moments_ends_bit_for_bit_as_an_unbroken_one(tmp_path):
    """Real processes, SIGKILL, several times a life: weights, history and predictions."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.kills", str(tmp_path), "--kills", "3"]
    where = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=where, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "same end: True" in done.stdout


@pytest.fixture(scope="module")
def cut(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that Ctrl-C has cut, and what the process said; meanwhile another wanted the run."""
    run = tmp_path_factory.mktemp("cut") / "run"
    process = begun(dataset, run)
    second = run_histo("train", "--resume", run)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    (run.parent / "said").write_text(f"{process.returncode} {said}")
    (run.parent / "second").write_text(f"{second.exit_code} {second.stderr}")
    return run, run.parent / "said"


def test_of_two_processes_on_one_run_the_second_is_told(cut):
    """And once the first is gone its lock is gone with it."""
    said = cut[0].with_name("second").read_text()
    assert said.startswith(f"1 error: {cut[0]} is being trained by another process")
    with RunFolder(cut[0]).lock():
        pass


def test_ctrl_c_checkpoints_and_says_how_to_go_on(cut):
    run, said = cut
    assert said.read_text().startswith("130 error: stopped in epoch ")
    assert said.read_text().endswith(f"(to resume: histo train --resume {run})\n")
    assert len(said.read_text().splitlines()) == 1
    checkpoint = Checkpoint.read(run / "checkpoint")
    assert checkpoint
    assert checkpoint.position.epoch >= 1


@pytest.mark.slow
def test_a_run_that_was_cut_can_be_judged_and_exported_as_it_stands(cut, tmp_path):
    run = shutil.copytree(cut[0], tmp_path / "run")
    assert run_histo("interpret", run).exit_code == 0
    assert run_histo("export", run).exit_code == 0


@pytest.mark.slow
def test_a_run_goes_on_and_ctrl_c_twice_stops_it_at_once(cut, tmp_path):
    """The checkpoint before stays readable, and environment.json names both processes."""
    run = shutil.copytree(cut[0], tmp_path / "run")
    words = [sys.executable, "-W", "ignore", "-m", "histo", "train", "--resume", str(run)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert any("resuming in epoch" in line for line in process.stdout)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.005)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(said.splitlines()) == 1
    assert Checkpoint.read(run / "checkpoint")
    assert len(json.loads((run / "environment.json").read_text())["resumed"]) == 1


def test_a_scheduler_asks_once_and_a_second_time_interrupts(monkeypatch: pytest.MonkeyPatch):
    """What comes at once after the first is the same: a launcher passes on what its terminal sent."""
    with stop_asked() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        monkeypatch.setattr("histo.training.stopping.AGAIN", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--epochs", 300), "epochs 200, not 300: the learning rate schedule depends on it"),
        (("--seed", 1), "seed 0, not 1"),
        (("--batch-size", 8), "batch_size 16, not 8"),
        (("--augment", "none"), "augment stain, not none"),
    ],
)
def test_other_settings_than_the_runs_are_refused(cut, words, said):
    before = (cut[0] / "checkpoint" / "last.safetensors").read_bytes()
    assert_one_line_error(run_histo("train", "--resume", cut[0], *words), said)
    assert (cut[0] / "checkpoint" / "last.safetensors").read_bytes() == before


def other_label(data: Path) -> str:
    table = data / "train_labels.csv"
    lines = table.read_text().splitlines()
    name, label = lines[1].split(",")
    lines[1] = f"{name},{1 - int(label)}"
    table.write_text("\n".join(lines) + "\n")
    return "the labels of"


def other_pixels(data: Path) -> str:
    first, second = sorted((data / "train").iterdir())[:2]
    shutil.copy(first, second)
    return "the pixels of"


def one_more(data: Path) -> str:
    shutil.copy(next((data / "train").iterdir()), data / "train" / "more.tif")
    with (data / "train_labels.csv").open("a") as file:
        file.write("more,0\n")
    return "more is not in the run's split"


@pytest.mark.parametrize("change", [other_label, other_pixels, one_more])
def test_other_data_than_the_runs_are_refused(cut, dataset, tmp_path, change):
    data = shutil.copytree(dataset, tmp_path / "data")
    said = change(data)
    assert_one_line_error(run_histo("train", data, "--resume", cut[0]), said)


@pytest.mark.slow
def test_the_same_data_may_lie_elsewhere(tiny_run, dataset, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    unfinish(run)  # as if killed before its first checkpoint
    shutil.rmtree(run / "checkpoint")
    data = shutil.copytree(dataset, tmp_path / "data")
    done = run_histo("train", data, "--resume", run)
    assert done.exit_code == 0, done.output
    assert result(run) == result(tiny_run)


def test_data_given_anew_are_laid_out_as_is_said_now(tiny_run):
    """Kaggle's names in the new folder, but where labels or images are given too."""
    new, csv = Path("new"), Path("l.csv")
    asked = TrainConfig(new, given=frozenset({"data"}))
    found = read_settings(RunFolder(tiny_run), asked)
    assert (found.labels_csv, found.images_folder) == (new / "train_labels.csv", new / "train")
    found = read_settings(RunFolder(tiny_run), replace(asked, labels=csv, given={"data", "labels"}))
    assert (found.labels_csv, found.images_folder) == (csv, new / "train")


def test_what_is_no_training_run_cannot_go_on(tmp_path):
    RunFolder(tmp_path).config.write_text('{"bundle": {"value": "b", "source": "given"}}')
    assert_one_line_error(run_histo("train", "--resume", tmp_path), "of a training run")


def test_other_versions_than_the_run_began_with_are_said(tmp_path, capsys):
    then = session(torch.device("cpu"))
    then["versions"]["torch"] = "1.0"
    write_json(RunFolder(tmp_path).environment, then)
    record_resumed(RunFolder(tmp_path), torch.device("cpu"), Screen())
    said = capsys.readouterr().out
    assert said == (
        f"note: results may differ slightly from an uninterrupted run: "
        f"torch 1.0 at the start, {version('torch')} now\n"
    )


def test_another_number_of_threads_than_the_run_began_with_is_said(tmp_path, capsys):
    """Sums are then added in another order, and bits may differ."""
    then = session(torch.device("cpu"))
    then["threads"] += 1
    write_json(RunFolder(tmp_path).environment, then)
    record_resumed(RunFolder(tmp_path), torch.device("cpu"), Screen())
    now = torch.get_num_threads()
    assert (
        f"may differ slightly from an uninterrupted run: {now + 1} threads at the start, {now} now"
        in (capsys.readouterr().out)
    )


def test_a_finished_run_has_nothing_to_go_on_with(tiny_run):
    assert_one_line_error(run_histo("train", "--resume", tiny_run), "is finished")
    assert not (tiny_run / "checkpoint" / "last.safetensors").exists()


def test_without_data_and_run_the_command_says_what_it_needs():
    done = run_histo("train")
    assert done.exit_code == 2
    assert "--resume RUN" in done.stderr


def test_a_damaged_checkpoint_is_refused(cut, tmp_path):
    run = shutil.copytree(cut[0], tmp_path / "run")
    last = run / "checkpoint" / "last.safetensors"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    assert_one_line_error(run_histo("train", "--resume", run), "last.safetensors is damaged")


@pytest.fixture
def as_tiny(dataset: Path, weights: Path) -> tuple[object, ...]:
    """The command line of `tiny_run`, which nothing broke, but for --out."""
    return ("train", dataset, *TINY, "--weights", weights, "--epochs", 2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB: one checkpoint fits, the next one beside it does not."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_keeps_the_checkpoint_before_and_the_run_goes_on_with_room(
    as_tiny, tiny_run, small_disk
):
    run = small_disk / "run"
    full = run_histo(*as_tiny, "--out", run)
    assert_one_line_error(full, "No space left on device", f"histo train --resume {run}")
    assert Checkpoint.read(run / "checkpoint")
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    done = run_histo("train", "--resume", run)
    assert done.exit_code == 0, done.output
    assert result(run) == result(tiny_run)


@contextmanager
def files_of_at_most(most: int) -> Iterator[None]:
    """The system refuses to let a file grow above so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_write_cut_short_keeps_the_checkpoint_before(as_tiny, tiny_run, tmp_path):
    """The checkpoint of the head's first epoch is 6 MB; that of the whole model breaks off."""
    run = tmp_path / "run"
    with files_of_at_most(9_000_000):
        cut = run_histo(*as_tiny, "--out", run, "--checkpoint-minutes", 0.0001)
    assert_one_line_error(cut, "File too large")
    assert not [path for path in (run / "checkpoint").iterdir() if path.name.startswith(".")]
    assert Checkpoint.read(run / "checkpoint")
    assert run_histo("train", "--resume", run, "--checkpoint-minutes", 5).exit_code == 0
    assert result(run) == result(tiny_run)


class Spoil(Callback):
    """Makes the loss of one batch not finite."""

    order = 50

    def after_loss(self) -> None:
        """Of the third batch of the second epoch."""
        if self.training and (self.epoch, self.dls.train.epoch, self.iter) == (1, 1, 2):
            self.learn.loss = self.loss * float("inf")


def test_a_loss_that_is_not_finite_names_batch_and_rate_and_keeps_the_checkpoint_before():
    torch.manual_seed(0)
    learn, _, kept = watched_learner(Spoil())
    with pytest.raises(HistoError, match=r"batch 3 of epoch 2, at learning rate \d"):
        fit(learn, Plan(0, 3, 1e-3, discriminative=False))
    assert kept[-1].position == Position(1, 2)
    assert all(torch.isfinite(value).all() for value in kept[-1].tensors.values())


def test_the_schedule_goes_on_where_it_was():
    """Each batch after a break has the rate and momentum it would have had."""
    plan, seen = Plan(1, 2, 1e-3, discriminative=True), []

    class Look(Callback):
        order = 70

        def before_batch(self) -> None:
            """After the schedule."""
            if self.training:
                hyper = self.opt.hypers[-1]
                place = (self.watch.at.epoch, self.watch.at.batch)
                seen.append((place, hyper["lr"], hyper["mom"], hyper["wd"]))

    learn, _, kept = watched_learner(Look())
    fit(learn, plan)
    whole, middle = {s[0]: s[1:] for s in seen}, kept[6]
    assert middle.position == Position(1, 3)
    seen.clear()
    learn, watch, _ = watched_learner(Look())
    watch.begin, watch.at = middle, middle.position
    fit(learn, plan, middle.position)
    assert seen[0][0] == (1, 3)
    assert all(whole[place] == tuple(values) for place, *values in seen)


def begun_elsewhere(run: Path, to: Path, **said: str) -> Path:
    """A copy of a run whose config.json says other things, with a store and not in memory."""
    made = shutil.copytree(run, to)
    unfinish(made)
    record = json.loads((made / "config.json").read_text())
    for name, value in {"no_store": False, **said}.items():
        record[name] = {"value": value, "source": "given"}
    (made / "config.json").write_text(json.dumps(record))
    return made


@pytest.mark.slow
def test_a_run_from_elsewhere_writes_no_store_where_it_says(tiny_run, dataset, tmp_path):
    """Nor beside the data that it names: into this user's cache, or where the user says now."""
    forged = begun_elsewhere(tiny_run, tmp_path / "forged", store=str(tmp_path / "victim"))
    cache, named = tmp_path / "cache", tmp_path / "named"
    where = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = histo_process("train", "--resume", forged, env=where)
    assert done.returncode == 0, done.stderr
    assert f"{forged} was not started here by this user: patches are decoded into" in done.stdout
    assert not (tmp_path / "victim").exists()
    assert not (dataset / ".histo").exists()
    assert list(cache.rglob("*.npy"))
    again = begun_elsewhere(tiny_run, tmp_path / "again", store=str(tmp_path / "victim"))
    done = histo_process("train", "--resume", again, "--store", named, env=where)
    assert done.returncode == 0, done.stderr
    assert "not started here" not in done.stdout
    assert list(named.glob("*.npy"))
    assert not (tmp_path / "victim").exists()


@pytest.mark.slow
def test_a_run_from_elsewhere_sends_nothing_to_its_tracker(tiny_run, tmp_path):
    forged = begun_elsewhere(tiny_run, tmp_path / "forged", tracker="tensorboard", store="s")
    done = run_histo("train", "--resume", forged, "--no-store")
    assert done.exit_code == 0, done.output
    assert "nothing is sent to tensorboard (give --tracker)" in done.output
    assert not (forged / "tensorboard").exists()
    assert not (forged / "tracker.json").exists()


@pytest.mark.slow
def test_a_run_of_ones_own_goes_on_in_its_store(dataset, weights, tmp_path):
    """Also where its store was named; the run of a fold too."""
    store, run = tmp_path / "store", tmp_path / "run"
    words = [word for word in TINY if word != "--no-store"]
    words = ["train", dataset, *words, "--weights", weights, "--out", run, "--store", store]
    assert run_histo(*words, "--epochs", 1).exit_code == 0
    unfinish(run)
    shutil.rmtree(store)
    done = run_histo("train", "--resume", run)
    assert done.exit_code == 0, done.output
    assert "not started here" not in done.output
    assert list(store.glob("*.npy"))
