"""The output of `histo check`: a CSV for each finding, findings.json, report.html with its sheets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from histo.data.check.finding import Finding
from histo.errors import HistoError, plain
from histo.files.aside import is_occupied
from histo.files.tables import csv_writer
from histo.files.writing import built, read_json, write_json, written
from histo.report import page

INDEX = "findings.json"
PAGE = "report.html"
ROWS = 12
"""Rows of a finding shown on the page; its CSV has all."""
GROUPS = 500
"""Groups shown on the page; by_group.csv has all."""


@dataclass(frozen=True)
class Checked:
    """What a check reports beside its findings."""

    title: str
    verdict: str
    facts: Mapping[str, str]
    channels: Sequence[Sequence[str]]
    """rows of the table of colours, the header first"""
    colours_line: str
    notes: Sequence[str]
    """what looks wrong with the colours, swapped channels say"""
    judged: Mapping[str, str]
    """how patches were checked: name and threshold of each criterion"""
    groups: Sequence[Sequence[str]]
    """class balance by group: the header, then a row for each group that is known"""
    groups_line: str


def open_folder(path: Path) -> None:
    """HistoError where the folder of a check holds files of something else."""
    if path.exists() and not path.is_dir():
        raise HistoError(f"{path} is a file", "give {out} a folder")
    if path.is_dir() and is_occupied(path) and not (path / INDEX).is_file():
        raise HistoError(f"{path} holds files that are not of a check", "give another {out}")


def write_findings(
    folder: Path,
    findings: Sequence[Finding],
    checked: Checked,
    read: Callable[[str], bytes],
) -> Path:
    """Write the output of a check in place of an earlier one; returns the path of the page.

    `read` returns a patch by file name as a small JPEG.
    """
    tables = {f"{f.name}.csv": [f.columns, *f.rows] for f in findings}
    if len(checked.groups) > 1:
        tables["by_group.csv"] = list(checked.groups)
    index = {
        "findings": {f.name: {"count": f.count, "fatal": f.fatal} for f in findings},
        "notes": list(checked.notes),
        "files": [*tables, PAGE],
    }
    with built(folder, first=INDEX, last=PAGE, earlier=earlier_files(folder)) as made:
        write_json(made / INDEX, index)
        for name, rows in tables.items():
            write_table(made / name, rows)
        shown = [finding_part(finding, read) for finding in findings]
        parts = [*head_parts(findings, checked), *shown, *tail_parts(checked)]
        page.write_page(made / PAGE, checked.title, parts)
    return folder / PAGE


def earlier_files(folder: Path) -> list[str]:
    """The files that an earlier check wrote, by its findings.json, and no others."""
    if not (folder / INDEX).is_file():
        return []
    index = read_json(folder / INDEX)
    names = index.get("files", []) if isinstance(index, dict) else []
    return [name for name in names if isinstance(name, str) and Path(name).name == name]


def write_table(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write rows, the header first, whole or not at all; control characters in names are escaped."""
    with written(path, "w") as file:
        csv_writer(file).writerows([plain(v) for v in row] for row in rows)


# ---------------------------------------------------------------- the page


def head_parts(findings: Sequence[Finding], checked: Checked) -> list[tuple[str, list[str]]]:
    """The page above the findings: verdict, facts, list of findings, colours."""
    fatal = any(finding.fatal for finding in findings)
    top = [
        page.paragraph(checked.verdict, "warning" if fatal else "note"),
        page.facts(checked.facts),
    ]
    rows = [["finding", "table"]] + [[finding.line, f"{finding.name}.csv"] for finding in findings]
    found = page.table(rows) if findings else page.paragraph("No findings.")
    colours = [page.paragraph(f"{checked.colours_line}.", "small")]
    colours += [page.paragraph(line, "warning") for line in checked.notes]
    return [
        ("", top),
        ("Findings", [found]),
        ("Colours", [*colours, page.table(checked.channels)]),
    ]


def tail_parts(checked: Checked) -> list[tuple[str, list[str]]]:
    """The page below the findings: classes by group, and how patches were checked."""
    parts = []
    head, *body = checked.groups
    if body:
        pieces = [page.paragraph(f"{checked.groups_line}.")]
        pieces.append(page.table([head, *body[:GROUPS]], sortable=True))
        pieces.append(page.link("by_group.csv", f"by_group.csv: all {len(body):,} groups"))
        parts.append((f"Classes by {head[0]}", pieces))
    parts.append(("How patches were checked", [page.facts(checked.judged)]))
    return parts


def finding_part(finding: Finding, read: Callable[[str], bytes]) -> tuple[str, list[str]]:
    """A finding on the page: advice, sheet of patches, first rows, link to its CSV."""
    pieces = [page.paragraph(finding.advice)] if finding.advice else []
    if finding.pictures:
        sets = [[(read(name), plain(text)) for name, text in part] for part in finding.pictures]
        pieces.append(page.sheet(sets))
    # the file name mostly repeats the id, and both are too wide for the page
    places = [n for n, name in enumerate(finding.columns) if n == 0 or name != "file"]
    rows = [[plain(row[n]) for n in places] for row in [finding.columns, *finding.rows[:ROWS]]]
    pieces.append(page.table(rows))
    more = f"all {len(finding.rows):,} rows" if len(finding.rows) > ROWS else "the same rows"
    pieces.append(page.link(f"{finding.name}.csv", f"{finding.name}.csv: {more}"))
    return finding.said, pieces
