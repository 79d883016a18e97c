"""What is drawn in a report: its plots, and its sheets of patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histo.errors import HistoError
from histo.report import plots
from histo.report.calibration import cross_fitted, reliability
from histo.report.gradcam import enlarge, share_inside
from histo.report.metrics import scorable_classes, selective
from histo.report.words import POINTS, Subject
from histo.run.gradcam import GradCam
from histo.run.predictions import Predictions
from histo.screen import Screen

SHEET = 12
"""Patches on the sheet of mistakes."""
LOOKED = 6
"""Mistakes, and hits, on the sheet of attention."""
Reader = Callable[[Sequence[str]], list[Any]]
"""The pixels of patches by id, uint8 [S, S, 3] each; raises HistoError where they are not there."""


def drawings(
    folder: Path, table: Predictions, subject: Subject, metrics: dict[str, Any], threshold: float
) -> list[Callable[[], None]]:
    """The plots that need the table alone; those that its patches do not define are left out."""
    labels, probabilities, vocab = table.labels, table.probabilities, table.vocab
    point = next((metrics[at] for at in POINTS if at in metrics), metrics)
    at = f", threshold {threshold:.3g}" if len(vocab) == 2 else ""
    bins = [("as trained", reliability(labels, probabilities))]
    if metrics["calibration"]["after"] is not None:
        scaled = cross_fitted(labels, probabilities, subject.groups)
        bins.append(("with temperature", reliability(labels, scaled)))
    found = [
        lambda: plots.draw_confusion_matrix(
            folder / "confusion_matrix", point["confusion_matrix"], vocab, at
        ),
        lambda: plots.draw_scores(folder / "scores", labels, probabilities, vocab, threshold),
        lambda: plots.draw_reliability(folder / "reliability", bins),
        lambda: plots.draw_selective(folder / "selective", selective(labels, probabilities)),
    ]
    if scorable_classes(labels, len(vocab)):
        rest = (labels, probabilities, vocab)
        found.append(lambda: plots.draw_roc(folder / "roc", *rest))
        found.append(lambda: plots.draw_precision_recall(folder / "precision_recall", *rest))
    return found


def called_at(table: Predictions, threshold: float) -> np.ndarray:
    """The class each patch is called, int64 [N]."""
    if len(table.vocab) == 2:
        return (table.probabilities[:, 1] >= threshold).astype(np.int64)
    return np.asarray(table.probabilities.argmax(1))


def worst_mistakes(table: Predictions, threshold: float, most: int) -> np.ndarray:
    """Rows of the mistakes, the most confident first."""
    called = called_at(table, threshold)
    wrong = np.flatnonzero(called != table.labels)
    return wrong[np.argsort(-table.probabilities[wrong, called[wrong]], kind="stable")][:most]


def draw_mistakes(
    path: Path, table: Predictions, threshold: float, read: Reader | None, screen: Screen
) -> None:
    """The sheet of the most confident mistakes, where the patches are still there."""
    worst = worst_mistakes(table, threshold, SHEET)
    if not len(worst):
        screen.say("no mistakes: no sheet of them")
        return
    patches = read_for("mistakes", [table.ids[row] for row in worst], read, screen)
    if patches is None:
        return
    called = called_at(table, threshold)
    captions = [
        f"true {plots.short(table.vocab[table.labels[row]])}, called "
        f"{plots.short(table.vocab[called[row]])} ({table.probabilities[row, called[row]]:.3f})"
        for row in worst
    ]
    plots.draw_sheet(path, patches, captions, "The most confident mistakes")


def read_for(
    sheet: str, ids: Sequence[str], read: Reader | None, screen: Screen
) -> list[Any] | None:
    """The patches of a sheet; None, and a word, where nobody knows where they are."""
    if read is None:
        screen.say(f"no sheet of {sheet}: where the patches are is not known", "give {images}")
        return None
    try:
        return read(ids)
    except HistoError as error:
        screen.say(f"no sheet of {sheet}: {error.message}", "give {images}")
        return None


def draw_gradcam_sheet(
    path: Path,
    table: Predictions,
    found: GradCam,
    centre: int,
    read: Reader | None,
    screen: Screen,
) -> None:
    """The sheet of where the model looked: its most confident mistakes, then typical hits."""
    picked = pick(found, table)
    row_of = {name: row for row, name in enumerate(table.ids)}
    patches = read_for("attention", [found.ids[n] for n in picked], read, screen)
    if not picked or patches is None:
        return
    if any(patch.shape != (found.side, found.side, 3) for patch in patches):
        screen.say("no sheet of attention: the patches are of another size than the model saw")
        return
    maps = found.maps[picked]
    shares = share_inside(maps, found.side, centre) if centre else None
    captions = []
    for k, n in enumerate(picked):
        row = row_of[found.ids[n]]
        sure = table.probabilities[row, table.vocab.index(found.called[n])]
        true = plots.short(table.vocab[table.labels[row]], 12)
        kind = "hit" if table.vocab[table.labels[row]] == found.called[n] else "mistake"
        text = f"{kind}: true {true}, called {plots.short(found.called[n], 12)} ({sure:.3f})"
        inside = "" if shares is None else f"\n{100 * np.nan_to_num(shares[k]):.0f} % in the centre"
        captions.append(text + inside)
    plots.draw_gradcam(path, patches, enlarge(maps, found.side), captions, centre)


def pick(found: GradCam, table: Predictions) -> list[int]:
    """Places in the maps: of those not drawn at random the surest mistakes, then hits as they come."""
    row_of = {name: row for row, name in enumerate(table.ids)}
    mistakes: list[tuple[int, float]] = []
    hits: list[tuple[int, float]] = []
    for n in np.flatnonzero(~found.drawn).tolist():
        row = row_of.get(found.ids[n])
        if row is None or found.called[n] not in table.vocab:
            continue
        right = table.vocab[table.labels[row]] == found.called[n]
        (hits if right else mistakes).append((n, table.probabilities[row].max()))
    mistakes.sort(key=lambda each: -each[1])
    return [n for n, _ in mistakes[:LOOKED] + hits[:LOOKED]]
