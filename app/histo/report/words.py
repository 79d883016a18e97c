"""What a report says: its sentences and the rows of its tables, for terminal and page alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histo.screen import counted, plural

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
POINTS = {
    "at_wanted": "{threshold:.4f} (wanted)",
    "at_bundle": "{threshold:.4f} (bundle)",
    "at_0.5": "0.5",
    "at_youden": "{threshold:.4f} (Youden)",
}
"""Thresholds, the one that matters most first, and how they are named."""
NONE = "–"
"""What stands where a figure is not defined."""


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


# ---------------------------------------------------------------- numbers


def number(value: float | None, digits: int = 4) -> str:
    """A figure with so many decimals, a dash where it is not defined."""
    return NONE if value is None else f"{value:.{digits}f}"


def span(part: dict[str, Any], name: str) -> str:
    """The interval of a figure as words."""
    return between(part["intervals"].get(name))


def between(ends: Sequence[float] | None, digits: int = 4) -> str:
    """An interval as words, nothing where there is none."""
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}" if ends else ""


def percent(value: float) -> str:
    """A share in per cent."""
    return f"{100 * value:.1f} %"


# ---------------------------------------------------------------- sentences


def what_it_allows(subject: Subject) -> tuple[str, bool]:
    """What the split allows one to say, and whether that is a warning."""
    if subject.leak:
        return f"The split leaks: {subject.leak}. The figures are too good to be believed.", True
    if not subject.split:
        return "How these patches were kept apart from those trained on is not known.", True
    if subject.split.startswith("random"):
        return (
            "The split is random over patches: patches of one slide are on both sides, so the "
            "figures are optimistic for new slides. Only a split by slide or patient tells how good the "
            "model is on new ones.",
            True,
        )
    return f"The split: {subject.split}.", False


def summary(metrics: dict[str, Any]) -> str:
    """The report in a sentence or two: figures as a person would say them."""
    said = []
    if metrics["roc_auc"] is not None:
        interval = between(metrics["intervals"].get("roc_auc"), 3)
        said.append(f"AUC {metrics['roc_auc']:.3f}" + (f" ({interval})" if interval else ""))
    point = next((metrics[key] for key in POINTS if key in metrics), None)
    if point is None:
        said.append(f"{of_hundred(metrics['accuracy'])} patches are called right")
        return f"{'; '.join(said)}."
    name = metrics["positive"]
    rates = []
    if point["sensitivity"] is not None:
        rates.append(f"it finds {of_hundred(point['sensitivity'])} patches of class '{name}'")
    if point["specificity"] is not None:
        wrongly = of_hundred(1 - point["specificity"])
        rates.append(f"calls {wrongly} others '{name}' wrongly")
    start = "" if rates[0].startswith("it") else "it "
    said.append(f"At threshold {point['threshold']:.3g} {start}{', and '.join(rates)}")
    return f"{'. '.join(said)}."


def of_hundred(rate: float) -> str:
    """A share as a count of a hundred."""
    return f"{100 * rate:.0f} of 100"


def absent_line(metrics: dict[str, Any]) -> str:
    """Which classes have no patch, and what cannot be said for that; nothing where all have."""
    if not metrics["absent"]:
        return ""
    few = ", ".join(metrics["absent"][:5])
    if metrics["roc_auc"] is not None:
        return f"No patch is of class {few}: means over classes are of the others."
    return (
        f"No patch is of class {few}: figures that compare classes (AUC, average precision, "
        "their curves, a temperature) are not defined."
    )


def unit_line(metrics: dict[str, Any]) -> str:
    """What the intervals were drawn over."""
    unit, units = metrics["unit"], metrics["units"]
    line = f"Intervals: 95 %, bootstrap over {counted(units, unit)}"
    return line + (", too narrow where patches of a slide are alike" if unit == "patch" else "")


def wanted_line(metrics: dict[str, Any]) -> str:
    """The operating point in words, with the interval of its threshold."""
    point = metrics["at_wanted"]
    ((rate, value),) = point["wanted"].items()
    text = f"For a {rate} of {value:g} the threshold is {point['threshold']:.4f}"
    interval = span(point, "threshold")
    return f"{text} ({interval})." if interval else f"{text}."


def calibration_line(metrics: dict[str, Any]) -> str:
    """Temperature and what it does, in words."""
    found = metrics["calibration"]
    before, after = found["before"], found["after"]
    as_it_is = f"log loss {before['log_loss']:.4f}, calibration error {before['error']:.4f}"
    if after is None:
        return f"As trained: {as_it_is}; no temperature can be fitted to patches of one class"
    if found["temperature"] == 1:
        return f"Calibrated as it is: {as_it_is}; temperature scaling would not lower the log loss"
    return (
        f"Temperature {found['temperature']:.3f}: on patches it was not fitted to, log loss "
        f"{before['log_loss']:.4f} to {after['log_loss']:.4f}, calibration error "
        f"{before['error']:.4f} to {after['error']:.4f}, Brier score "
        f"{before['brier']:.4f} to {after['brier']:.4f}"
    )


def gradcam_line(found: dict[str, Any]) -> str:
    """Which share of the attention falls inside the centre, and what that is to be held against."""
    side, patch = found["centre"], found["patch"]
    shares = []
    for name, part in found["classes"].items():
        ends = [100 * x for x in part["interval"] or ()]
        interval = f"{between(ends, 1)}, " if ends else ""
        many = counted(part["patches"], "patch")
        shares.append(f"{percent(part['share'])} where '{name}' was called ({interval}{many})")
    return (
        f"Attention that falls inside the centre {side}x{side} px: {'; '.join(shares)}. Even "
        f"attention would give {percent(found['even'])}: the centre's share of a patch of "
        f"{patch}x{patch} px."
    )


def worst_line(groups: Sequence[dict[str, Any]], unit: str) -> str:
    """The groups with the highest error rates, of those with a patch for each of ten errors."""
    named = [g for g in groups if g["patches"] >= 10 and g["errors"]][:3]
    shown = ", ".join(
        f"{g['group']} ({g['errors']:,} of {g['patches']:,} patches wrong)" for g in named
    )
    return f"Worst {plural(unit, len(named))}: {shown}" if named else ""


# ---------------------------------------------------------------- rows


def headline(metrics: dict[str, Any]) -> list[list[str]]:
    """Rows of the figures that need no threshold, or for many classes of all."""
    rows = [["figure", "value", "95 % interval"]]
    return rows + [
        [name, number(metrics[key]), span(metrics, key)]
        for key, name in FIGURES.items()
        if key in metrics
    ]


def points(metrics: dict[str, Any]) -> list[list[str]]:
    """Rows of the figures at each threshold, a column and its interval for each."""
    shown = [(metrics[key], name) for key, name in POINTS.items() if key in metrics]
    names = [name.format(**part) for part, name in shown]
    rows = [["at threshold"] + [text for name in names for text in (name, "95 % interval")]]
    for key in ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1"):
        cells = [text for part, _ in shown for text in (number(part[key]), span(part, key))]
        rows.append([FIGURES[key], *cells])
    return rows


def class_rows(metrics: dict[str, Any]) -> list[list[str]]:
    """One row a class, for many classes."""
    keys = ("roc_auc", "average_precision", "sensitivity", "specificity", "f1")
    head = ["class", *(text for key in keys for text in (FIGURES[key], "95 %"))]
    return [head] + [
        [name, *(text for key in keys for text in (number(part[key]), span(part, key)))]
        for name, part in metrics["classes"].items()
    ]


def group_rows(groups: Sequence[dict[str, Any]], unit: str) -> list[list[str]]:
    """One row a group, worst first."""
    head = {"group": unit, "roc_auc": "AUC"}
    names = [head.get(key, key.replace("_", " ")) for key in groups[0]]

    def shown(value: Any) -> str:
        return number(value, 3) if value is None or isinstance(value, float) else str(value)

    return [names] + [[shown(value) for value in group.values()] for group in groups]
