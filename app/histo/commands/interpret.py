"""`histo interpret`: from a predictions table to figures and metrics, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from histo.errors import HistoError
from histo.run import Predictions, Run, read_predictions, write_json
from histo.screen import Screen

SHEET = 12
"""Patches on the sheet of mistakes."""


def interpret(
    path: Path, out: Path | None, images: Path | None, screen: Screen
) -> tuple[Path, dict[str, Any]]:
    """Judge a run folder, or any predictions table; returns the report folder and the metrics."""
    run = None if path.is_file() else Run.open(path)
    if run is not None and not run.predictions.is_file():
        raise HistoError(f"{path} has no predictions: it stopped before its first epoch ended")
    table = read_predictions(run.predictions if run else path)

    from histo.report import plots
    from histo.report.metrics import judge

    metrics = judge(table.labels, table.probabilities, table.vocab)
    folder = out or (run.report if run else path.with_name("report"))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", metrics)
    rest = (table.labels, table.probabilities, table.vocab)
    matrix = metrics["at_0.5"] if len(table.vocab) == 2 else metrics
    with screen.bar("drawing", 5) as advance:
        plots.draw_roc(folder / "roc", *rest)
        advance()
        plots.draw_confusion_matrix(
            folder / "confusion_matrix", matrix["confusion_matrix"], table.vocab
        )
        advance()
        plots.draw_precision_recall(folder / "precision_recall", *rest)
        advance()
        plots.draw_scores(folder / "scores", *rest)
        advance()
        draw_mistakes(folder / "mistakes", table, run, images, screen)
        advance()
    screen.table(summary(metrics))
    return folder, metrics


def draw_mistakes(
    path: Path, table: Predictions, run: Run | None, images: Path | None, screen: Screen
) -> None:
    """The sheet of the most confident mistakes, where the patches are still there."""
    called = table.probabilities.argmax(1)
    wrong = np.flatnonzero(called != table.labels)
    if not len(wrong):
        screen.say("no mistakes: no sheet of them")
        return
    worst = wrong[np.argsort(-table.probabilities[wrong, called[wrong]], kind="stable")][:SHEET]
    settings = run.settings() if run else {}
    folder = images or (Path(settings["images"]) if settings.get("images") else None)
    if folder is None:
        screen.say("no sheet of mistakes: give --images to say where the patches are")
        return

    from histo.data.labels import PatchIndex
    from histo.data.patches import fit_patch, read_patch
    from histo.report.plots import draw_sheet, short

    try:
        index = PatchIndex(folder)
        patches = []
        for row in worst:
            found = index.find(table.ids[row])
            if found is None:
                raise HistoError(f"no patch {table.ids[row]} in {folder}")
            pixels = read_patch(found)
            patches.append(fit_patch(pixels, settings.get("crop"), settings.get("size"), found))
    except HistoError as error:
        screen.say(f"no sheet of mistakes: {error} (give --images)")
        return
    captions = [
        f"true {short(table.vocab[table.labels[row]])}, "
        f"called {short(table.vocab[called[row]])} ({table.probabilities[row, called[row]]:.3f})"
        for row in worst
    ]
    draw_sheet(path, patches, captions, "The most confident mistakes")


def summary(metrics: dict[str, Any]) -> list[list[str]]:
    """The metrics as rows for the terminal."""
    rows = [["patches", f"{metrics['patches']:,}"]]
    names = {
        "roc_auc": "AUC",
        "average_precision": "average precision",
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "f1": "F1",
        "log_loss": "log loss",
    }
    rows += [[name, f"{metrics[key]:.4f}"] for key, name in names.items() if key in metrics]
    if "at_0.5" not in metrics:
        return rows
    rows = [[*row, ""] for row in rows]
    half, youden = metrics["at_0.5"], metrics["at_youden"]
    rows.append(["at threshold", "0.5", f"{youden['threshold']:.4f} (Youden)"])
    for key in ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1"):
        name = "F1" if key == "f1" else key.replace("_", " ")
        rows.append([name, f"{half[key]:.4f}", f"{youden[key]:.4f}"])
    return rows
