"""The report of a predictions table: metrics.json, the plots, report.html; no torch."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from histo.config import Wanted
from histo.files.writing import write_json, written
from histo.report.calibration import judge_calibration
from histo.report.document import write_html
from histo.report.drawings import Reader, draw_gradcam_sheet, draw_mistakes, drawings
from histo.report.gradcam import share_in_centre
from histo.report.intervals import (
    Figures,
    Floats,
    Ranked,
    add_intervals,
    as_json,
    count_rounds,
    intervals,
    wanted_threshold,
)
from histo.report.metrics import at_threshold, by_group, compute_metrics
from histo.report.words import (
    Subject,
    absent_line,
    calibration_line,
    gradcam_line,
    headline,
    points,
    unit_line,
    wanted_line,
    what_it_allows,
    worst_line,
)
from histo.run.gradcam import GradCam
from histo.run.predictions import Predictions
from histo.screen import Screen, counted

MAY_BE_ABSENT = ("roc", "precision_recall", "mistakes", "attention")
"""Drawings that some reports have and others not: those of an older report are taken away."""


def write_report(
    folder: Path,
    table: Predictions,
    subject: Subject,
    screen: Screen,
    *,
    wanted: Wanted | None = None,
    read: Reader | None = None,
    attention: GradCam | None = None,
    centre: int = 0,
) -> dict[str, Any]:
    """Judge a table and write all of its report into `folder`; returns metrics.json's content.

    `centre` is the side in px of the part of a patch that labels speak of, 0 where none is known.
    """
    metrics, threshold = judge_all(table, subject, wanted, screen)
    if attention and centre:
        group_of = dict(zip(table.ids, subject.groups, strict=True)) if subject.groups else {}
        groups = [group_of.get(name, name) for name in attention.ids] if group_of else None
        metrics["attention"] = share_in_centre(attention, centre, groups)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", metrics)
    rows = []
    if subject.groups:
        rows = by_group(table.labels, table.probabilities, subject.groups, threshold)
        write_groups(folder / "by_group.csv", rows, subject.unit)
    for name in MAY_BE_ABSENT:
        for suffix in (".png", ".svg"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
    plots = drawings(folder, table, subject, metrics, threshold)
    with screen.bar("drawing", len(plots) + 2) as advance:
        for draw in plots:
            draw()
            advance()
        draw_mistakes(folder / "mistakes", table, threshold, read, screen)
        advance()
        if attention:
            draw_gradcam_sheet(folder / "attention", table, attention, centre, read, screen)
        advance()
    write_html(folder, subject, metrics, rows)
    say(metrics, subject, rows, screen)
    return metrics


def judge_all(
    table: Predictions, subject: Subject, wanted: Wanted | None, screen: Screen
) -> tuple[dict[str, Any], float]:
    """The figures with their intervals, and the threshold that matters most."""
    labels, probabilities = table.labels, table.probabilities
    metrics = compute_metrics(labels, probabilities, table.vocab)
    metrics |= {"split": subject.split, "leak": subject.leak}
    metrics |= {"unit": subject.unit if subject.groups else "patch"}
    metrics["units"] = len(set(subject.groups or table.ids))
    threshold = subject.threshold
    if threshold != 0.5 and len(table.vocab) == 2:
        metrics["at_bundle"] = at_threshold(labels, probabilities[:, 1], threshold)
    if wanted:
        threshold = add_operating_point(metrics, table, subject, wanted)
    with screen.bar("resampling", count_rounds(metrics)) as advance:
        add_intervals(metrics, labels, probabilities, subject.groups, advance)
    metrics["calibration"] = judge_calibration(labels, probabilities, subject.groups)
    return metrics, threshold


def add_operating_point(
    metrics: dict[str, Any], table: Predictions, subject: Subject, wanted: Wanted
) -> float:
    """Add `at_wanted`: the threshold for a wanted rate, its interval, the figures there."""
    threshold = wanted_threshold(table.labels, table.probabilities, table.vocab, wanted)
    scores = table.probabilities[:, 1]
    ranked = Ranked(table.labels == 1, scores)

    def find(weights: Floats) -> Figures:
        return {"threshold": ranked.threshold(weights, wanted.rate, wanted.value)}

    ends = intervals(find, len(scores), subject.groups)["threshold"]
    metrics["at_wanted"] = {
        "wanted": {wanted.rate: wanted.value},
        **at_threshold(table.labels, scores, threshold),
        "intervals": {"threshold": as_json(ends)},
    }
    return threshold


def write_groups(path: Path, groups: Sequence[dict[str, Any]], unit: str) -> None:
    """One row a group, the worst first."""
    with written(path, "w") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([unit, *list(groups[0])[1:]])
        for group in groups:
            rows.writerow(
                f"{value:.6g}" if isinstance(value, float) else value for value in group.values()
            )


def say(
    metrics: dict[str, Any], subject: Subject, groups: Sequence[dict[str, Any]], screen: Screen
) -> None:
    """The report in the terminal."""
    line, warning = what_it_allows(subject)
    screen.say(f"note: {line}" if warning else line)
    if absent := absent_line(metrics):
        screen.say(f"note: {absent}")
    screen.say(f"{counted(metrics['patches'], 'patch')}. {unit_line(metrics)}.")
    screen.table(headline(metrics))
    if "at_0.5" in metrics:
        screen.table(points(metrics))
    if "at_wanted" in metrics:
        screen.say(wanted_line(metrics))
    screen.say(calibration_line(metrics))
    if "attention" in metrics:
        screen.say(gradcam_line(metrics["attention"]))
    if line := worst_line(groups, subject.unit):
        screen.say(line)
