"""The tables of a measurement as Markdown, and their place in a page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from common import Tables

BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"


def tables_of(tables: Tables, errors: Mapping[str, str], device: str) -> str:
    """One table a part: medians, and each beside the first of its table."""
    lines = [f"{device}, {time.strftime('%Y-%m-%d')}, torch's own versions in `results/`.", ""]
    for title, rows in tables.items():
        first = median(next(iter(rows.values())))
        lines += [f"| {title} | median | first = 1 |", "|---|---:|---:|"]
        for name, values in rows.items():
            value = median(values)
            share = f"{value / first:.3f}" if first else ""
            lines.append(f"| {name} | {value:,.4g} | {share} |")
        lines.append("")
    lines += [f"Not measured: {part} ({why})." for part, why in errors.items()]
    return "\n".join(lines).rstrip() + "\n"


def put_between_marks(page: Path, text: str) -> None:
    """Replace what lies between the two marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{page} lacks the marks {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")
