"""What `histo check` leaves behind: a CSV a finding, findings.json, report.html with the sheets."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from histo.data.check.finding import Finding
from histo.errors import HistoError, plain
from histo.files.writing import read_json, write_json, written
from histo.report import page

INDEX = "findings.json"
PAGE = "report.html"
ROWS = 12
"""Rows of a finding's table on the page; the CSV has all."""
GROUPS = 500
"""Rows of the table of groups on the page."""


@dataclass(frozen=True)
class Checked:
    """All that a check has to say beside its findings."""

    title: str
    verdict: str
    facts: Mapping[str, str]
    channels: Sequence[Sequence[str]]
    """a table of colours, its head first"""
    colours_line: str
    notes: Sequence[str]
    """what looks mixed up in the colours"""
    judged: Mapping[str, str]
    """how patches were judged: names, and thresholds in words"""
    groups: Sequence[Sequence[str]]
    """class balance by group, its head first, nothing else where no groups are known"""
    groups_line: str


def open_folder(path: Path) -> None:
    """Make a check's folder; HistoError where another's files are in it."""
    if path.exists() and not path.is_dir():
        raise HistoError(f"{path} is a file", "give {out} a folder")
    if path.is_dir() and any(path.iterdir()) and not (path / INDEX).is_file():
        raise HistoError(f"{path} holds other files than those of a check", "give another {out}")
    path.mkdir(parents=True, exist_ok=True)


def write_findings(
    folder: Path,
    findings: Sequence[Finding],
    checked: Checked,
    read: Callable[[str], bytes],
) -> Path:
    """Write all of a check into its folder in place of an earlier one's; returns the page.

    `read` gives a file by name as a small JPEG.
    """
    remove_earlier(folder)
    tables = {f"{f.name}.csv": [f.columns, *f.rows] for f in findings}
    if len(checked.groups) > 1:
        tables["by_group.csv"] = list(checked.groups)
    index = {
        "findings": {f.name: {"count": f.count, "fatal": f.fatal} for f in findings},
        "notes": list(checked.notes),
        "files": [*tables, PAGE],
    }
    write_json(folder / INDEX, index)
    for name, rows in tables.items():
        write_table(folder / name, rows)
    sections = [section(finding, read) for finding in findings]
    parts = [*opening(findings, checked), *sections, *closing(checked)]
    page.write_page(folder / PAGE, checked.title, parts)
    return folder / PAGE


def remove_earlier(folder: Path) -> None:
    """Remove the files that an earlier check says it wrote, and no others."""
    if not (folder / INDEX).is_file():
        return
    index = read_json(folder / INDEX)
    for name in index.get("files", []) if isinstance(index, dict) else []:
        if isinstance(name, str) and Path(name).name == name:
            (folder / name).unlink(missing_ok=True)


def write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write rows, the first of them the head, whole or not at all; names of files may hold anything."""
    with written(path, "w") as file:
        csv.writer(file, lineterminator="\n").writerows([plain(v) for v in row] for row in rows)


# ---------------------------------------------------------------- the page


def opening(findings: Sequence[Finding], checked: Checked) -> list[tuple[str, list[str]]]:
    """The page up to the findings: verdict, facts, what was found, colours."""
    fatal = any(finding.fatal for finding in findings)
    top = [
        page.paragraph(checked.verdict, "warning" if fatal else "note"),
        page.facts(checked.facts),
    ]
    rows = [["found", "all of them"]] + [
        [finding.line, f"{finding.name}.csv"] for finding in findings
    ]
    found = page.table(rows) if findings else page.paragraph("Nothing.")
    colours = [page.paragraph(f"{checked.colours_line}.", "small")]
    colours += [page.paragraph(line, "warning") for line in checked.notes]
    return [
        ("", top),
        ("Found", [found]),
        ("Colours", [*colours, page.table(checked.channels)]),
    ]


def closing(checked: Checked) -> list[tuple[str, list[str]]]:
    """The page after the findings: classes by group, and how patches were judged."""
    parts = []
    head, *body = checked.groups
    if body:
        pieces = [page.paragraph(f"{checked.groups_line}.")]
        pieces.append(page.table([head, *body[:GROUPS]], sortable=True))
        pieces.append(page.link("by_group.csv", f"by_group.csv: all {len(body):,}"))
        parts.append((f"Classes by {head[0]}", pieces))
    parts.append(("How it was judged", [page.facts(checked.judged)]))
    return parts


def section(finding: Finding, read: Callable[[str], bytes]) -> tuple[str, list[str]]:
    """One finding on the page: what to do, its sheet, its first rows, the way to all of them."""
    pieces = [page.paragraph(finding.advice)] if finding.advice else []
    if finding.pictures:
        sets = [[(read(name), plain(text)) for name, text in part] for part in finding.pictures]
        pieces.append(page.sheet(sets))
    # a file is mostly called as its id is, and two such columns are too wide for the page
    places = [n for n, name in enumerate(finding.columns) if n == 0 or name != "file"]
    rows = [[plain(row[n]) for n in places] for row in [finding.columns, *finding.rows[:ROWS]]]
    pieces.append(page.table(rows))
    more = f"all {len(finding.rows):,} rows" if len(finding.rows) > ROWS else "the same rows"
    pieces.append(page.link(f"{finding.name}.csv", f"{finding.name}.csv: {more}"))
    return finding.said, pieces
