"""A report as a notebook shows it: the summary and the figures."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from histo.report.results import Metrics
from histo.report.words import positive_line, split_line, summary


def report_html(folder: Path, metrics: Metrics) -> str:
    """HTML that holds its figures: nothing is read when it is shown."""
    line, _ = split_line(metrics.split)
    lines = "".join(
        f"<p>{escape(text)}</p>"
        for text in (line, positive_line(metrics), summary(metrics))
        if text
    )
    figures = "".join(_figure(path) for path in sorted(folder.glob("*.png")))
    return f"{lines}<div style='display:flex;flex-wrap:wrap;gap:8px'>{figures}</div>"


def _figure(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    name = escape(path.stem.replace("_", " "))
    return f"<img alt='{name}' style='max-width:420px' src='data:image/png;base64,{data}'>"
