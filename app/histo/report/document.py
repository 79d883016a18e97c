"""report.html: what a person needs to know in two minutes, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from histo.report import page
from histo.report.words import (
    Subject,
    absent_line,
    calibration_line,
    class_rows,
    gradcam_line,
    group_rows,
    headline,
    points,
    summary,
    unit_line,
    wanted_line,
    what_it_allows,
    worst_line,
)
from histo.screen import counted

DISCLAIMER = "histo is a research tool, not a medical device: not for diagnosis."
CURVES = {
    "roc": "Sensitivity against false positive rate.",
    "precision_recall": "Precision against recall; dotted: the share of positives.",
    "confusion_matrix": "Counts, and per cent of the true class.",
    "scores": "How the probabilities are spread.",
    "reliability": "Is 0.8 right 80 times of 100? With temperature: each part scaled by the others'.",
    "selective": "Accuracy if only the most certain patches are answered.",
}
"""The plots in the order of the page, with their captions."""
LOOKED = (
    "The most confident mistakes, then typical hits. Left the patch; right, bright, what spoke for "
    "the class it was called (Grad-CAM), inside the orange line at least half the peak. Such maps "
    "are coarse, lean to the borders in some networks, and say where, not why."
)

Section = tuple[str, Sequence[str]]


def write_html(
    folder: Path, subject: Subject, metrics: dict[str, Any], groups: Sequence[dict[str, Any]]
) -> None:
    """Write report.html from what lies in the folder, what is known and what was found."""
    curves = [(folder / f"{name}.svg", caption) for name, caption in CURVES.items()]
    sections: list[Section] = [
        ("", opening(subject, metrics)),
        (f"{counted(metrics['patches'], 'patch')} judged", judged(metrics)),
        ("Curves", [page.figures([*curves, *subject.figures])]),
        ("Calibration", [page.paragraph(f"{calibration_line(metrics)}.")]),
        *by_unit(groups, subject.unit),
        *sheets(folder, metrics),
    ]
    if subject.settings:
        sections.append(("To do it again", [page.facts(subject.settings)]))
    sections.append(("", [page.paragraph(DISCLAIMER, "small")]))
    page.write_page(folder / "report.html", subject.name, sections)


def opening(subject: Subject, metrics: dict[str, Any]) -> list[str]:
    """What may be believed, what was found, what was trained on what."""
    line, warning = what_it_allows(subject)
    pieces = [page.paragraph(line, "warning" if warning else "note")]
    pieces.append(page.paragraph(summary(metrics), "summary"))
    return [*pieces, page.facts(subject.facts)] if subject.facts else pieces


def judged(metrics: dict[str, Any]) -> list[str]:
    """The figures and their intervals."""
    pieces = [page.paragraph(absent_line(metrics), "warning")] if metrics["absent"] else []
    pieces.append(page.table(headline(metrics)))
    if "classes" in metrics:
        pieces.append(page.table(stacked(class_rows(metrics)), sortable=True))
    if "at_0.5" in metrics:
        pieces.append(page.table(stacked(points(metrics))))
    if "at_wanted" in metrics:
        pieces.append(page.paragraph(wanted_line(metrics)))
    return [*pieces, page.paragraph(f"{unit_line(metrics)}.", "small")]


def stacked(rows: list[list[str]]) -> list[list[str]]:
    """Rows of a name, and values each followed by its interval: the interval below its value."""
    head, *body = rows
    return [head[:1] + head[1::2]] + [
        [row[0], *(f"{value}\n{span}" for value, span in zip(row[1::2], row[2::2], strict=True))]
        for row in body
    ]


def by_unit(groups: Sequence[dict[str, Any]], unit: str) -> list[Section]:
    """The table by slide, patient or hospital, where they are known."""
    if not groups:
        return []
    worst = worst_line(groups, unit)
    rows = page.table(group_rows(groups, unit), sortable=True)
    return [(f"By {unit}", [page.paragraph(f"{worst}."), rows] if worst else [rows])]


def sheets(folder: Path, metrics: dict[str, Any]) -> list[Section]:
    """The mistakes, and where the model looked, where the patches were there to be drawn."""
    found: list[Section] = []
    mistakes, looked = folder / "mistakes.png", folder / "attention.png"
    if mistakes.is_file():
        caption = "The most confident mistakes."
        found.append(("Mistakes", [page.figures([(mistakes, caption)], sheet=True)]))
    attention = metrics.get("attention")
    pieces = [page.paragraph(gradcam_line(attention))] if attention else []
    if looked.is_file():
        pieces.append(page.figures([(looked, LOOKED)], sheet=True))
    return [*found, ("Why: where the model looked", pieces)] if pieces else found
