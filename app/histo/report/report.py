"""The report of a predictions table: metrics.json, the plots, report.html; no torch."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from histo.config import Wanted
from histo.errors import HistoError
from histo.report import page, plots
from histo.report.calibration import cross_fitted, judge_calibration, reliability
from histo.report.intervals import (
    ROUNDS,
    Counts,
    Ranked,
    Scores,
    add_intervals,
    count_rounds,
    intervals,
    wanted_threshold,
)
from histo.report.metrics import at_threshold, by_group, judge, selective
from histo.run import Predictions, write_json, written
from histo.screen import Screen

SHEET = 12
"""Patches on the sheet of mistakes."""
FIGURES = {
    "roc_auc": "AUC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f1": "F1",
    "log_loss": "log loss",
    "brier": "Brier score",
}
POINTS = ("at_wanted", "at_bundle", "at_0.5")
"""Thresholds, the one that matters most first."""
DISCLAIMER = "histo is a research tool, not a medical device: not for diagnosis."


@dataclass(frozen=True)
class Subject:
    """What is judged, and what is known about it beside its table."""

    name: str
    split: str = ""
    """how training and validation patches were parted, for a person; empty where unknown"""
    leak: str = ""
    """what is on both sides"""
    unit: str = ""
    """what a group is: slide, patient, hospital"""
    groups: list[str] | None = None
    """the group of each row of the table"""
    threshold: float = 0.5
    """for two classes: where class 1 is called, if the model says so itself"""
    facts: dict[str, str] = field(default_factory=dict)
    """what was trained on what"""
    settings: dict[str, str] = field(default_factory=dict)
    """settings and versions, to do it again"""
    figures: Sequence[tuple[Path, str]] = ()
    """more figures, with captions"""


def write_report(
    folder: Path,
    table: Predictions,
    subject: Subject,
    screen: Screen,
    *,
    wanted: Wanted | None = None,
    read: Callable[[Sequence[str]], list[Any]] | None = None,
) -> dict[str, Any]:
    """Judge a table and write all of its report into `folder`; returns metrics.json's content.

    `read` gives the pixels of patches by id, or raises HistoError.
    """
    metrics = judge(table.labels, table.probabilities, table.vocab)
    metrics |= {"split": subject.split, "leak": subject.leak}
    metrics |= {"unit": subject.unit if subject.groups else "patch"}
    metrics["units"] = len(set(subject.groups or table.ids))
    threshold = subject.threshold
    if threshold != 0.5 and len(table.vocab) == 2:
        metrics["at_bundle"] = at_threshold(table.labels, table.probabilities[:, 1], threshold)
    if wanted:
        threshold = add_operating_point(metrics, table, subject, wanted)
    with screen.bar("resampling", count_rounds(metrics)) as advance:
        add_intervals(metrics, table.labels, table.probabilities, subject.groups, advance)
    metrics["calibration"] = judge_calibration(table.labels, table.probabilities, subject.groups)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", metrics)
    groups = []
    if subject.groups:
        groups = by_group(table.labels, table.probabilities, subject.groups, threshold)
        write_groups(folder / "by_group.csv", groups, subject.unit)
    with screen.bar("drawing", 8) as advance:
        for draw in drawings(folder, table, subject, metrics, threshold):
            draw()
            advance()
        draw_mistakes(folder / "mistakes", table, threshold, read, screen)
        advance()
    write_html(folder, subject, metrics, groups)
    say(metrics, subject, groups, screen)
    return metrics


def all_figures(labels: Any, probabilities: Any) -> Callable[[Any], dict[str, float]]:
    """Every figure of a table for any weights, two classes called at 0.5."""
    scores = Scores(labels, probabilities)
    called = probabilities.argmax(1)
    if probabilities.shape[1] == 2:
        called = (probabilities[:, 1] >= 0.5).astype(np.int64)
    counts = Counts(labels, called, probabilities.shape[1])
    return lambda weights: scores(weights) | counts(weights)


def add_operating_point(
    metrics: dict[str, Any], table: Predictions, subject: Subject, wanted: Wanted
) -> float:
    """Add `at_wanted`: the threshold for a wanted rate, its interval, the figures there."""
    threshold = wanted_threshold(table.labels, table.probabilities, wanted)
    scores = table.probabilities[:, 1]
    ranked = Ranked(table.labels == 1, scores)

    def find(weights: Any) -> dict[str, float]:
        return {"threshold": ranked.threshold(weights, wanted.rate, wanted.value)}

    n = len(scores)
    low, high = intervals(find, n, subject.groups, rounds=ROUNDS)["threshold"]
    point = at_threshold(table.labels, scores, threshold)
    metrics["at_wanted"] = {
        "wanted": {wanted.rate: wanted.value},
        **point,
        "intervals": {"threshold": None if np.isnan(low) else [low, high]},
    }
    return threshold


def drawings(
    folder: Path, table: Predictions, subject: Subject, metrics: dict[str, Any], threshold: float
) -> list[Callable[[], None]]:
    """The plots that need the table alone."""
    rest = (table.labels, table.probabilities, table.vocab)
    point = next(metrics[at] for at in POINTS if at in metrics) if "at_0.5" in metrics else metrics
    scaled = cross_fitted(table.labels, table.probabilities, subject.groups)
    bins = [
        ("as trained", reliability(table.labels, table.probabilities)),
        ("with temperature", reliability(table.labels, scaled)),
    ]
    at = f", threshold {threshold:.3g}" if len(table.vocab) == 2 else ""
    return [
        lambda: plots.draw_roc(folder / "roc", *rest),
        lambda: plots.draw_confusion_matrix(
            folder / "confusion_matrix", point["confusion_matrix"], table.vocab, at
        ),
        lambda: plots.draw_precision_recall(folder / "precision_recall", *rest),
        lambda: plots.draw_scores(folder / "scores", *rest, threshold),
        lambda: plots.draw_reliability(folder / "reliability", bins),
        lambda: plots.draw_selective(
            folder / "selective", selective(table.labels, table.probabilities)
        ),
    ]


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
    path: Path,
    table: Predictions,
    threshold: float,
    read: Callable[[Sequence[str]], list[Any]] | None,
    screen: Screen,
) -> None:
    """The sheet of the most confident mistakes, where the patches are still there."""
    for suffix in (".png", ".svg"):
        path.with_suffix(suffix).unlink(missing_ok=True)  # an older report's
    worst = worst_mistakes(table, threshold, SHEET)
    if not len(worst):
        screen.say("no mistakes: no sheet of them")
        return
    if read is None:
        screen.say("no sheet of mistakes: give --images to say where the patches are")
        return
    try:
        patches = read([table.ids[row] for row in worst])
    except HistoError as error:
        screen.say(f"no sheet of mistakes: {error} (give --images)")
        return
    called = called_at(table, threshold)
    captions = [
        f"true {plots.short(table.vocab[table.labels[row]])}, called "
        f"{plots.short(table.vocab[called[row]])} ({table.probabilities[row, called[row]]:.3f})"
        for row in worst
    ]
    plots.draw_sheet(path, patches, captions, "The most confident mistakes")


def write_groups(path: Path, groups: Sequence[dict[str, Any]], unit: str) -> None:
    """One row a group, the worst first."""
    with written(path, "w") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([unit, *list(groups[0])[1:]])
        for group in groups:
            rows.writerow(
                f"{value:.6g}" if isinstance(value, float) else value for value in group.values()
            )


# ---------------------------------------------------------------- words and rows


def what_it_allows(subject: Subject) -> tuple[str, bool]:
    """What the split allows one to say, and whether that is a warning."""
    if subject.leak:
        return f"The split leaks: {subject.leak}. The figures are too good to be believed.", True
    if not subject.split:
        return "How these patches were kept apart from those trained on is not known.", True
    if subject.split.startswith("random"):
        return (
            "The split is random over patches: patches of one slide are on both sides, so the "
            "figures are optimistic for new slides. Believe those of a split by slide (--groups).",
            True,
        )
    return f"The split: {subject.split}.", False


def unit_line(metrics: dict[str, Any]) -> str:
    """What the intervals were drawn over."""
    unit, units = metrics["unit"], metrics["units"]
    line = f"Intervals: 95 %, bootstrap over {units:,} {plural(unit, units)}"
    return line + (", too narrow where patches of a slide are alike" if unit == "patch" else "")


def plural(unit: str, count: int) -> str:
    """The word for a count of units."""
    if count == 1:
        return unit
    return f"{unit}es" if unit.endswith("ch") else f"{unit}s"


def span(part: dict[str, Any], name: str) -> str:
    """The interval of a figure as words."""
    found = part["intervals"].get(name)
    return f"{found[0]:.4f} to {found[1]:.4f}" if found else ""


def headline(metrics: dict[str, Any]) -> list[list[str]]:
    """Rows of the figures that need no threshold, or for many classes of all."""
    rows = [["figure", "value", "95 % interval"]]
    return rows + [
        [name, f"{metrics[key]:.4f}", span(metrics, key)]
        for key, name in FIGURES.items()
        if key in metrics
    ]


def points(metrics: dict[str, Any]) -> list[list[str]]:
    """Rows of the figures at each threshold, a column and its interval for each."""
    parts = {
        "at_0.5": "0.5",
        "at_youden": "{threshold:.4f} (Youden)",
        "at_wanted": "{threshold:.4f} (wanted)",
        "at_bundle": "{threshold:.4f} (bundle)",
    }
    shown = [
        (metrics[key], name.format(**metrics[key])) for key, name in parts.items() if key in metrics
    ]
    rows = [["at threshold"] + [text for _, name in shown for text in (name, "95 % interval")]]
    for key in ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1"):
        cells = [text for part, _ in shown for text in (f"{part[key]:.4f}", span(part, key))]
        rows.append([FIGURES[key], *cells])
    return rows


def wanted_line(metrics: dict[str, Any]) -> str:
    """The operating point in words, with the interval of its threshold."""
    point = metrics["at_wanted"]
    ((rate, value),) = point["wanted"].items()
    text = f"For a {rate} of {value:g} the threshold is {point['threshold']:.4f}"
    between = span(point, "threshold")
    return f"{text} ({between})." if between else f"{text}."


def calibration_line(metrics: dict[str, Any]) -> str:
    """Temperature and what it does, in words."""
    found = metrics["calibration"]
    before, after = found["before"], found["after"]
    if found["temperature"] == 1:
        return (
            f"Calibrated as it is: log loss {before['log_loss']:.4f}, calibration error "
            f"{before['error']:.4f}; temperature scaling would not lower the log loss"
        )
    return (
        f"Temperature {found['temperature']:.3f}: on patches it was not fitted to, log loss "
        f"{before['log_loss']:.4f} to {after['log_loss']:.4f}, calibration error "
        f"{before['error']:.4f} to {after['error']:.4f}, Brier score "
        f"{before['brier']:.4f} to {after['brier']:.4f}"
    )


def worst_line(groups: Sequence[dict[str, Any]], unit: str) -> str:
    """The groups with the highest error rates, of those with a patch for each of ten errors."""
    named = [g for g in groups if g["patches"] >= 10 and g["errors"]][:3]
    shown = ", ".join(
        f"{g['group']} ({g['errors']:,} of {g['patches']:,} patches wrong)" for g in named
    )
    return f"worst {plural(unit, len(named))}: {shown}" if named else ""


def say(
    metrics: dict[str, Any], subject: Subject, groups: Sequence[dict[str, Any]], screen: Screen
) -> None:
    """The report in the terminal."""
    line, warning = what_it_allows(subject)
    screen.say(f"note: {line}" if warning else line)
    screen.say(f"{metrics['patches']:,} patches. {unit_line(metrics)}.")
    screen.table(headline(metrics))
    if "at_0.5" in metrics:
        screen.table(points(metrics))
    if "at_wanted" in metrics:
        screen.say(wanted_line(metrics))
    screen.say(calibration_line(metrics))
    if line := worst_line(groups, subject.unit):
        screen.say(line)


# ---------------------------------------------------------------- the page


def write_html(
    folder: Path, subject: Subject, metrics: dict[str, Any], groups: Sequence[dict[str, Any]]
) -> None:
    """report.html: what a person needs to know in two minutes, in one file."""
    line, warning = what_it_allows(subject)
    top = [
        page.paragraph(line, "warning" if warning else "note"),
        page.facts(subject.facts) if subject.facts else "",
    ]
    judged = [page.table(headline(metrics)), page.paragraph(f"{unit_line(metrics)}.", "small")]
    if "classes" in metrics:
        judged.append(page.table(class_rows(metrics), sortable=True))
    if "at_0.5" in metrics:
        judged.append(page.table(points(metrics)))
    if "at_wanted" in metrics:
        judged.append(page.paragraph(wanted_line(metrics)))
    curves = [
        (folder / f"{name}.svg", caption)
        for name, caption in (
            ("roc", "Sensitivity against false positive rate."),
            ("precision_recall", "Precision against recall; dotted: the share of positives."),
            ("confusion_matrix", "Counts, and per cent of the true class."),
            ("scores", "How the probabilities are spread."),
            (
                "reliability",
                "Is 0.8 right 80 times of 100? After: each half scaled by the other's.",
            ),
            ("selective", "Accuracy if only the most certain patches are answered."),
        )
    ]
    parts = [
        ("", top),
        (f"{metrics['patches']:,} patches judged", judged),
        ("Curves", [page.figures([*curves, *subject.figures])]),
        ("Calibration", [page.paragraph(f"{calibration_line(metrics)}.")]),
    ]
    if groups:
        rows = group_rows(groups, subject.unit)
        worst = worst_line(groups, subject.unit)
        parts.append(
            (f"By {subject.unit}", [page.paragraph(worst), page.table(rows, sortable=True)])
        )
    mistakes = folder / "mistakes.png"
    if mistakes.is_file():
        parts.append(
            ("Mistakes", [page.figures([(mistakes, "The most confident mistakes.")], wide=True)])
        )
    if subject.settings:
        parts.append(("To do it again", [page.facts(subject.settings)]))
    parts.append(("", [page.paragraph(DISCLAIMER, "small")]))
    page.write_page(folder / "report.html", subject.name, parts)


def class_rows(metrics: dict[str, Any]) -> list[list[str]]:
    """One row a class, for many classes."""
    keys = ("roc_auc", "average_precision", "sensitivity", "specificity", "f1")
    head = ["class", *(text for key in keys for text in (FIGURES[key], "95 %"))]
    return [head] + [
        [name, *(text for key in keys for text in (f"{part[key]:.4f}", span(part, key)))]
        for name, part in metrics["classes"].items()
    ]


def group_rows(groups: Sequence[dict[str, Any]], unit: str) -> list[list[str]]:
    """One row a group, worst first."""
    head = {"group": unit, "roc_auc": "AUC"}
    names = [head.get(key, key.replace("_", " ")) for key in groups[0]]

    def shown(value: Any) -> str:
        if value is None:
            return ""
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    return [names] + [[shown(value) for value in group.values()] for group in groups]
