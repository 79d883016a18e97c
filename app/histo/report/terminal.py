"""The report as lines and tables on a screen."""

from __future__ import annotations

from histo.report.results import Metrics
from histo.report.words import (
    absent_line,
    bundle_line,
    calibration_line,
    chosen_line,
    gradcam_line,
    headline,
    many_line,
    point_rows,
    positive_line,
    short_class_rows,
    split_line,
    unit_line,
    wanted_line,
    worst_line,
)
from histo.screen import Screen, counted
from histo.text import width_of


def say_report(metrics: Metrics, screen: Screen) -> None:
    """Say what a report found; the report itself is written without this."""
    line, warning = split_line(metrics.split)
    screen.say(f"note: {line}" if warning else line)
    if absent := absent_line(metrics):
        screen.say(f"note: {absent}")
    if metrics.positive_class:
        screen.say(positive_line(metrics), *metrics.positive_class.ways)
    screen.say(f"{counted(metrics.patches, 'patch')}. {unit_line(metrics)}.")
    if many := many_line(metrics):
        screen.say(many)
    screen.table(headline(metrics))
    if metrics.classes:
        rows = short_class_rows(metrics)
        screen.table(rows)
        if (more := len(metrics.classes) - len(rows) + 1) > 0:
            screen.say(f"… {more} more classes are in the report")
    if metrics.points:
        for rows in split_table(point_rows(metrics), screen.columns):
            screen.table(rows)
    lines = (
        wanted_line(metrics),
        bundle_line(metrics),
        chosen_line(metrics),
        calibration_line(metrics),
        gradcam_line(metrics),
        worst_line(metrics),
    )
    for each in filter(None, lines):
        screen.say(each)


def split_table(rows: list[list[str]], columns: int) -> list[list[list[str]]]:
    """A table of names and of pairs of columns, as tables with as many pairs as fit `columns`."""
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    tables: list[list[int]] = []
    for at in range(1, len(widths), 2):
        chosen = [0, *(tables[-1][1:] if tables else []), at, at + 1]
        if tables and sum(widths[n] + 2 for n in chosen) - 2 <= columns:
            tables[-1] = chosen
        else:
            tables.append([0, at, at + 1])
    return [[[row[n] for n in chosen] for row in rows] for chosen in tables]
