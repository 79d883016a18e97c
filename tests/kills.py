"""Kill a training at random moments, go on with it, and hold its end against an unbroken one's.

    python -m tests.kills FOLDER [--kills 20] [--times 1] [--seed 0] [--precision fp32]

A process that has imported all forks one child for each piece of a run, so that none pays for the
imports; each child is a whole `histo train` of its own, and dies by SIGKILL.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from histo.cli import app
from histo.data.synth import write_dataset
from histo.screen import Screen

TRAIN = ("--arch", "squeezenet1_1", "--weights", "none", "--device", "cpu", "--batch-size", "16")
TRAIN += ("--epochs", "2", "--freeze-epochs", "1", "--checkpoint-minutes", "0", "--precision")

LOSSES = {"train_loss": 1.0, "valid_loss": 1.0}


def start(
    words: list[str], log: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> int:
    """Fork a child that runs one histo command line, with more in its environment; its process id."""
    child = os.fork()
    if child:
        return child
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    try:
        os._exit(app(words, standalone_mode=False) or 0)
    except BaseException:
        traceback.print_exc()
        os._exit(70)


def ended(child: int, within: float) -> int | None:
    """The exit status of a child, minus a signal that ended it; None where it still runs."""
    deadline = time.monotonic() + within
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)


def result(run: Path) -> tuple[bytes, bytes, list[tuple[str, ...]]]:
    """What must not differ: weights, predictions, and the history without its seconds."""
    with (run / "history.csv").open(newline="") as file:
        rows = [tuple(row.values())[:5] for row in csv.DictReader(file)]
    weights = (run / "checkpoint" / "best.safetensors").read_bytes()
    return weights, (run / "predictions.csv").read_bytes(), rows


def live_and_die(
    data: Path, run: Path, rng: random.Random, most: int, life: float, precision: str
) -> int:
    """Train to the end, killed up to `most` times on the way; how often it was."""
    kills = 0
    while True:
        known = (run / "config.json").is_file()
        if not known:
            shutil.rmtree(run, ignore_errors=True)  # nothing is there yet
        words = (
            ["train", "--resume", str(run)] if known else ["train", str(data), *TRAIN, precision]
        )
        child = start(words if known else [*words, "--out", str(run)], run.with_suffix(".log"))
        status = ended(child, rng.uniform(0, life) if kills < most else 600)
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
        elif status == 0 or "is finished" in (said := run.with_suffix(".log").read_text()):
            return kills
        else:
            raise SystemExit(f"after {kills} kills: {said}")


def once(folder: Path, seed: int, kills: int, precision: str) -> tuple[int, bool]:
    """Several lives with `kills` kills in all: how many lives, and whether all ended alike."""
    rng, data, whole = random.Random(seed), folder / "data", folder / "whole"
    begun = time.monotonic()
    if not whole.is_dir():
        write_dataset(data, 96, 5, Screen(quiet=True), side=48)
        live_and_die(data, whole, rng, 0, 0, precision)  # the first also decodes into the store
        shutil.rmtree(whole)
        begun = time.monotonic()
        live_and_die(data, whole, rng, 0, 0, precision)
        (folder / "life").write_text(str(time.monotonic() - begun))
    life, lives, same = float((folder / "life").read_text()), 0, True
    while kills > 0:
        run = folder / f"run-{seed}-{lives}"
        kills -= live_and_die(data, run, rng, kills, life, precision)
        same = same and result(run) == result(whole)
        lives += 1
        shutil.rmtree(run)
    return lives, same


def main() -> None:
    """Parse, run, say a line a time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="fp32")
    asked = parser.parse_args()
    import fastai.vision.learner  # noqa: F401
    import onnxruntime  # noqa: F401
    import pandas  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch

    import histo.commands.train
    import histo.data.loaders
    import histo.report.plots  # all that the children use
    import histo.training.recipe

    torch.set_num_threads(1)  # no threads before a fork
    asked.folder.mkdir(parents=True, exist_ok=True)
    histo.report.plots.draw_learning_curve(
        asked.folder / "warm", [dict.fromkeys(("epoch", "roc_auc", "accuracy"), 1.0) | LOSSES]
    )
    good = 0
    for seed in range(asked.seed, asked.seed + asked.times):
        lives, same = once(asked.folder, seed, asked.kills, asked.precision)
        good += same
        print(f"seed {seed}: {asked.kills} kills in {lives} lives, same end: {same}", flush=True)
    sys.exit(good != asked.times)


if __name__ == "__main__":
    main()
