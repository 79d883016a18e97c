"""`histo demo`: the whole of histo on synthetic patches, by its own commands."""

from __future__ import annotations

import csv
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from histo.data.labels import read_labels
from histo.data.split import random_split
from histo.data.synth import synthetic_patches, write_dataset
from histo.errors import HistoError
from histo.screen import Screen

TRAIN, TEST, COLOUR, SEED = 1500, 400, 400, 20
"""Patches to train on, to test, and to learn mean colours from."""
TRAINING = ("--weights", "none", "--crop", "64", "--epochs", "5", "--no-store")
"""From nothing, on the centre 64x64 px: what two cores learn in two minutes."""


def demo(folder: Path, invoke: Callable[[list[str]], None], screen: Screen) -> None:
    """Draw patches into `folder`, then check, train, interpret, export and predict them.

    `invoke` runs one histo command line in this process.
    """
    if folder.exists() and any(folder.iterdir()):
        raise HistoError(f"{folder} exists and is not empty (give another folder)")
    start = time.monotonic()
    data, run = folder / "data", folder / "run"
    bundle, table = run / "export", folder / "predictions.csv"
    try:
        write_dataset(data, TRAIN, SEED, screen)
        write_dataset(data, TEST, SEED + 1, screen, labels=False)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    colour = mean_colour_auc(COLOUR)
    screen.say(f"{TRAIN:,} synthetic patches in {data}, drawn by histo, of no patient")
    screen.say(f"by mean colour alone, a logistic regression reaches AUC {colour:.3f} on them")
    for words in (
        ["check", str(data), "--out", str(folder / "check")],
        ["train", str(data), "--out", str(run), *TRAINING],
        ["interpret", str(run)],
        ["export", str(run)],
        ["predict", str(bundle), str(data / "test"), "--out", str(table)],
    ):
        screen.say(f"\n$ histo {shlex.join(words)}")
        invoke(words)
    screen.say(
        f"\non {TEST} patches it never saw: AUC {unseen_auc(data, table):.4f} "
        f"({time.monotonic() - start:.0f} s in all)"
    )
    screen.say(f"report: {run / 'report'}")
    screen.say(f"bundle: {bundle}")


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
