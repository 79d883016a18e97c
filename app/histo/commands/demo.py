"""`histo demo`: the whole of histo on synthetic patches, by its own functions."""

from __future__ import annotations

import csv
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from histo.commands.check import check
from histo.commands.export import export
from histo.commands.interpret import interpret
from histo.commands.predict import predict_to
from histo.commands.train import train
from histo.data.labels import read_labels
from histo.data.split import random_split
from histo.data.synth import synthetic_patches, write_dataset
from histo.errors import HistoError
from histo.screen import Progress, Screen, screen_of

TRAIN, TEST, COLOUR, SEED = 1500, 400, 400, 20
"""Patches to train on, to test, and to learn mean colours from."""
EPOCHS, CROP = 5, 64
"""From nothing, on the centre 64x64 px: what two cores learn in two minutes."""


def demo(folder: str | Path = "histo-demo", *, progress: Progress = False) -> Path:
    """Draw patches into `folder`, then check, train, interpret, export and predict them.

    Returns the folder. Raises HistoError where something is in it already.
    """
    folder, screen = Path(folder), screen_of(progress)
    if folder.exists() and any(folder.iterdir()):
        raise HistoError(f"{folder} exists and is not empty (give another folder)")
    start = time.monotonic()
    data, run = folder / "data", folder / "run"
    draw_patches(folder, data, screen)
    run_commands(folder, data, run, screen)
    screen.say(
        f"\non {TEST} patches it never saw: AUC {unseen_auc(data, folder / 'predictions.csv'):.4f} "
        f"({time.monotonic() - start:.0f} s in all)"
    )
    screen.say(f"report: {run / 'report'}")
    screen.say(f"bundle: {run / 'export'}")
    return folder


def draw_patches(folder: Path, data: Path, screen: Screen) -> None:
    """The synthetic patches to train on and to test, and how far mean colour goes on them."""
    try:
        write_dataset(data, TRAIN, SEED, screen)
        write_dataset(data, TEST, SEED + 1, screen, labels=False)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    colour = mean_colour_auc(COLOUR)
    screen.say(f"{TRAIN:,} synthetic patches in {data}, drawn by histo, of no patient")
    screen.say(f"by mean colour alone, a logistic regression reaches AUC {colour:.3f} on them")


def run_commands(folder: Path, data: Path, run: Path, screen: Screen) -> None:
    """The way from patches to predictions, each step as a user would type it."""
    check_out, table = folder / "check", folder / "predictions.csv"
    training: dict[str, Any] = {"weights": "none", "crop": CROP, "epochs": EPOCHS}
    quick = f"--weights none --crop {CROP} --epochs {EPOCHS} --no-store"
    screen.say(f"\n$ histo check {data} --out {check_out}")
    check(data, out=check_out, progress=screen)
    screen.say(f"\n$ histo train {data} --out {run} {quick}")
    train(data, out=run, no_store=True, progress=screen, **training)
    screen.say(f"\n$ histo interpret {run}")
    interpret(run, progress=screen)
    screen.say(f"\n$ histo export {run}")
    bundle = export(run, progress=screen)
    screen.say(f"\n$ histo predict {bundle} {data / 'test'} --out {table}")
    predict_to(bundle, data / "test", table, screen)


def unseen_auc(data: Path, table: Path) -> float:
    """The AUC of a table by `histo predict` on the demo's test patches."""
    from histo.report.metrics import macro_auc

    truth = {row.id: int(row.label) for row in read_labels(data / "test_labels.csv")}
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    probabilities = np.array([[float(row["p_0"]), float(row["p_1"])] for row in rows])
    return macro_auc(np.array([truth[row["id"]] for row in rows]), probabilities)


def mean_colour_auc(count: int) -> float:
    """How far mean colour goes: the AUC of a logistic regression on other synthetic patches."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from histo.report.metrics import macro_auc

    pairs = list(synthetic_patches(count, SEED + 2))
    colours = StandardScaler().fit_transform([pixels.mean((0, 1)) for pixels, _ in pairs])
    labels = np.array([label for _, label in pairs])
    valid = random_split([str(label) for label in labels], 50, 0)
    model = LogisticRegression().fit(colours[~valid], labels[~valid])
    return macro_auc(labels[valid], model.predict_proba(colours[valid]))
