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
from histo.config import TrainConfig
from histo.data.labels import read_labels
from histo.data.split import random_split
from histo.data.synth import synthetic_patches, write_dataset
from histo.errors import HistoError
from histo.screen import Progress, Screen, screen_of

PATCHES, EPOCHS, CROP, SEED = 1500, 5, 64, 20
"""Trained without pretrained weights on the centre 64x64 px: two minutes on two cores."""


def demo(
    folder: str | Path = "histo-demo",
    *,
    patches: int = PATCHES,
    epochs: int = EPOCHS,
    arch: str = TrainConfig.arch,
    progress: Progress = False,
) -> Path:
    """Draw patches into `folder`, then check, train, interpret, export and predict them.

    Returns the folder. Raises HistoError if it is not empty.
    """
    folder, screen = Path(folder), screen_of(progress)
    if folder.exists() and any(folder.iterdir()):
        raise HistoError(f"{folder} exists and is not empty (give another folder)")
    start, test = time.monotonic(), 4 * patches // 15
    draw_patches(folder, patches, test, screen)
    training = {"weights": "none", "crop": CROP, "epochs": epochs, "no_store": True}
    if arch != TrainConfig.arch:
        training["arch"] = arch
    run_commands(folder, training, screen)
    auc, seconds = unseen_auc(folder), time.monotonic() - start
    screen.say(f"\non {test} patches it never saw: AUC {auc:.4f} ({seconds:.0f} s in all)")
    screen.say(f"report: {folder / 'run' / 'report'}")
    screen.say(f"bundle: {folder / 'run' / 'export'}")
    screen.say(f"to see it in a browser: histo serve {folder}")
    return folder


def draw_patches(folder: Path, count: int, test: int, screen: Screen) -> None:
    """Draw the patches to train and to test on, and print what mean colour alone achieves."""
    try:
        write_dataset(folder / "data", count, SEED, screen)
        write_dataset(folder / "data", test, SEED + 1, screen, labels=False)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    colour = mean_colour_auc(max(40, test))
    screen.say(
        f"{count:,} synthetic patches in {folder / 'data'}, drawn by histo, not from patients"
    )
    screen.say(f"by mean colour alone, a logistic regression reaches AUC {colour:.3f} on them")


def run_commands(folder: Path, training: dict[str, Any], screen: Screen) -> None:
    """Run each step from patches to predictions, printed as the command that a user would type."""
    data, run, table = folder / "data", folder / "run", folder / "predictions.csv"
    options = "".join(
        f" --{name.replace('_', '-')}" + ("" if value is True else f" {value}")
        for name, value in training.items()
    )
    screen.say(f"\n$ histo check {data} --out {folder / 'check'}")
    check(data, out=folder / "check", progress=screen)
    screen.say(f"\n$ histo train {data} --out {run}{options}")
    train(data, out=run, progress=screen, **training)
    screen.say(f"\n$ histo interpret {run}")
    interpret(run, progress=screen)
    screen.say(f"\n$ histo export {run}")
    bundle = export(run, progress=screen)
    screen.say(f"\n$ histo predict {bundle} {data / 'test'} --out {table}")
    predict_to(bundle, [data / "test"], table, screen)


def unseen_auc(folder: Path) -> float:
    """The AUC of the predictions of the test patches."""
    from histo.report.metrics import macro_auc

    truth = {row.id: int(row.label) for row in read_labels(folder / "data" / "test_labels.csv")}
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    probabilities = np.array([[float(row["p_0"]), float(row["p_1"])] for row in rows])
    return macro_auc(np.array([truth[row["id"]] for row in rows]), probabilities)


def mean_colour_auc(count: int) -> float:
    """The AUC of a logistic regression on mean colour, on other synthetic patches."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from histo.report.metrics import macro_auc

    pairs = list(synthetic_patches(count, SEED + 2))
    colours = StandardScaler().fit_transform([pixels.mean((0, 1)) for pixels, _ in pairs])
    labels = np.array([label for _, label in pairs])
    valid = random_split([str(label) for label in labels], 50, 0)
    model = LogisticRegression().fit(colours[~valid], labels[~valid])
    return macro_auc(labels[valid], model.predict_proba(colours[valid]))
