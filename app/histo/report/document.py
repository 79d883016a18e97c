"""report.html: the report for a reader who has two minutes, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histo import __version__
from histo.report import page
from histo.report.downloads import downloads
from histo.report.figures import Figure, Section
from histo.report.results import Metrics
from histo.report.subject import Subject
from histo.report.words import (
    absent_line,
    bundle_line,
    calibration_line,
    chosen_line,
    class_rows,
    few_line,
    gradcam_line,
    group_rows,
    headline,
    methods_line,
    point_rows,
    positive_line,
    split_line,
    summary,
    threshold_line,
    unit_line,
    wanted_line,
    worst_line,
)
from histo.screen import counted

DISCLAIMER = "histo is a research tool, not a medical device: not for diagnosis."
Part = tuple[str, Sequence[str]]
"""A section of the page: its heading, its pieces of HTML."""


def write_html(folder: Path, subject: Subject, metrics: Metrics, drawn: Sequence[Figure]) -> None:
    """Write report.html with the figures drawn into the folder."""
    curves = [*_files(folder, drawn, "curves", ".svg"), *subject.figures]
    parts: list[Part] = [
        ("", _verdict(subject, metrics)),
        (f"Metrics on {counted(metrics.patches, 'patch')}", _metrics(metrics)),
        ("Curves", [page.figures(curves)]),
        ("Calibration", [page.paragraph(f"{calibration_line(metrics)}.")]),
        *_by_unit(metrics),
        *_sheets(folder, metrics, drawn),
    ]
    parts.append(("For a Methods section", [page.paragraph(methods_line(metrics, __version__))]))
    parts.append(("Tables to download", downloads(folder, metrics)))
    if subject.again:
        parts.append(("To do it again", [page.facts(subject.again)]))
    if subject.settings:
        parts.append(("Settings and versions", [page.facts(subject.settings)]))
    parts.append(("", [page.paragraph(DISCLAIMER, "small")]))
    page.write_page(folder / "report.html", subject.name, parts)


def _files(
    folder: Path, drawn: Sequence[Figure], section: Section, suffix: str
) -> list[tuple[Path, str]]:
    """Files and captions of a section's figures."""
    return [
        (folder / f"{figure.name}{suffix}", figure.caption)
        for figure in drawn
        if figure.section == section
    ]


def _verdict(subject: Subject, metrics: Metrics) -> list[str]:
    """What the split allows one to conclude, the main result, what was trained on what."""
    line, warning = split_line(metrics.split)
    pieces = [page.paragraph(line, "warning" if warning else "note")]
    if subject.unfinished:
        pieces.insert(0, page.paragraph(subject.unfinished, "warning"))
    if positive := positive_line(metrics):
        pieces.append(page.paragraph(f"{positive}. {threshold_line(metrics)}."))
    pieces.append(page.paragraph(summary(metrics), "summary"))
    if few := few_line(metrics):
        pieces.append(page.paragraph(few, "warning"))
    if subject.sides:
        pieces.append(page.table(subject.sides))
    return [*pieces, page.facts(subject.facts)] if subject.facts else pieces


def _metrics(metrics: Metrics) -> list[str]:
    """The metrics with their intervals."""
    absent = absent_line(metrics)
    pieces = [page.paragraph(absent, "warning")] if absent else []
    pieces.append(page.table(headline(metrics)))
    if metrics.classes:
        pieces.append(page.table(_stacked(class_rows(metrics)), sortable=True))
    if metrics.points:
        pieces.append(page.table(_stacked(point_rows(metrics))))
    lines = (wanted_line(metrics), bundle_line(metrics), chosen_line(metrics))
    pieces += [page.paragraph(f"{line.rstrip('.')}.") for line in lines if line]
    return [*pieces, page.paragraph(f"{unit_line(metrics)}.", "small")]


def _stacked(rows: list[list[str]]) -> list[list[str]]:
    """Rows of a name, and values each followed by its interval: the interval below its value."""
    head, *body = rows
    return [head[:1] + head[1::2]] + [
        [row[0], *(f"{value}\n{span}" for value, span in zip(row[1::2], row[2::2], strict=True))]
        for row in body
    ]


def _by_unit(metrics: Metrics) -> list[Part]:
    """The table by slide, patient or hospital, where they are known."""
    if not metrics.groups:
        return []
    worst = worst_line(metrics)
    rows = page.table(group_rows(metrics), sortable=True)
    return [(f"By {metrics.unit}", [page.paragraph(f"{worst}."), rows] if worst else [rows])]


def _sheets(folder: Path, metrics: Metrics, drawn: Sequence[Figure]) -> list[Part]:
    """The mistakes and the Grad-CAM maps, where there are any."""
    mistakes = _files(folder, drawn, "mistakes", ".png")
    maps, share = _files(folder, drawn, "gradcam", ".png"), gradcam_line(metrics)
    shown = [page.figures(maps, sheet=True)] if maps else []
    pieces = [page.paragraph(share), *shown] if share else shown
    return [
        *([("Mistakes", [page.figures(mistakes, sheet=True)])] if mistakes else []),
        *([("Grad-CAM: where the model looked", pieces)] if pieces else []),
    ]
