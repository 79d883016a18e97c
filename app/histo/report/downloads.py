"""Tables of a report inside its page, to download: metrics and, where small enough, predictions."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from histo.files.tables import csv_writer
from histo.report.results import Metrics
from histo.report.words import class_rows, group_rows, headline, point_rows

MOST = 1 << 20
"""Bytes of a table in the page; a larger one is left out."""


def downloads(folder: Path, metrics: Metrics) -> list[str]:
    """Links that hold the tables of the page as CSV, by_group.csv as in the folder.

    Names that a spreadsheet would run as formulas have a quote before them.
    """
    vocab = list(metrics.vocab)
    matrix = [["true \\ predicted", *vocab]]
    matrix += [
        [name, *map(str, row)] for name, row in zip(vocab, metrics.confusion_matrix, strict=True)
    ]
    tables = {"metrics": headline(metrics), "confusion_matrix": matrix}
    if metrics.points:
        tables["thresholds"] = point_rows(metrics)
    if metrics.classes:
        tables["classes"] = class_rows(metrics)
    if metrics.groups:
        tables["by_group"] = group_rows(metrics)
    found = {f"{name}.csv": _csv(rows) for name, rows in tables.items()}
    if (folder / "by_group.csv").is_file():
        lines = (folder / "by_group.csv").read_text(encoding="utf-8").splitlines()
        found["by_group.csv"] = _csv(list(csv.reader(lines)))
    links = [_link(name, data) for name, data in found.items() if len(data) <= MOST]
    return [f'<p class="downloads">{" ".join(links)}</p>']


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv_writer(text).writerows([*map(_harmless, row)] for row in rows)
    return text.getvalue().encode()


def _harmless(cell: str) -> str:
    """A cell that a spreadsheet shows and does not run: names that begin as formulas get a quote before them."""
    if not cell.startswith(("=", "+", "-", "@")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def _link(name: str, data: bytes) -> str:
    source = f"data:text/csv;charset=utf-8;base64,{base64.b64encode(data).decode()}"
    return f'<a href="{source}" download="{escape(name, quote=True)}">{escape(name)}</a>'
