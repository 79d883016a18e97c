"""`histo check`: read every label and every patch, and say what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from histo.config import CheckConfig, takes
from histo.data.check import quality
from histo.data.check.colour import MEAN, SD, Colours, judge_colours
from histo.data.check.duplicates import ALIKE, equal_sets, near_sets
from histo.data.check.finding import Finding
from histo.data.check.inspect import files_of_rows, inspect_files, match_labels
from histo.data.check.suspects import (
    balance,
    duplicate_findings,
    group_findings,
    quality_findings,
    reading_findings,
    split_findings,
)
from histo.data.check.tables import (
    CheckedFiles,
    file_findings,
    label_findings,
    sha1_findings,
    size_findings,
)
from histo.data.corrections import correct_labels
from histo.data.decode import read_patch, thumbnail_jpeg
from histo.data.folders import NO_GROUPS, Rule, without_test
from histo.data.groups import read_groups
from histo.data.ids import SUFFIXES, IdLookup
from histo.data.label_table import read_labelled_folders
from histo.data.labels import Row, make_vocab, read_labels
from histo.data.patch_files import PatchIndex
from histo.data.store import store_bytes, store_folder
from histo.errors import plain
from histo.files.outputs import Output, check_outputs, starts_with
from histo.files.tables import csv_writer
from histo.files.writing import written
from histo.pixels.fit import Fit
from histo.report.check_page import Checked, open_folder, write_findings
from histo.screen import Progress, Screen, counted, screen_of

FEW = 5
JUDGED = {
    "near-duplicates": "the detail of the grey thumbnails, in the best of the eight views, "
    f"correlates to {ALIKE} or more",
    "black, blank": f"standard deviation of grey under {quality.BLANK:g} of 255; "
    f"black where its mean is under {quality.BLACK:g}",
    "blurred": "energy of the Laplacian over that of the slope under a third of the set's median",
    "hardly any tissue": f"under {100 * quality.TISSUE:g} % of the pixels have a channel below "
    f"{quality.ABSORBS} of 255 (optical density 0.15)",
}


@dataclass(frozen=True)
class CheckResult:
    """The page of a check and its findings: errors, which make training fail, and notes."""

    page: Path
    findings: Sequence[Finding]
    notes: int
    """how many findings and remarks are not errors"""

    @property
    def ready(self) -> bool:
        """Whether training can begin."""
        return not any(finding.fatal for finding in self.findings)


@takes(CheckConfig)
def check(data: str | Path, *, progress: Progress = False, **settings: Any) -> CheckResult:
    """Check labels against patches, decode every patch, and write the report of what is wrong.

    Each setting is a field of histo.config.CheckConfig. Raises HistoError where there is nothing
    to check; what is wrong with the data is in the result.
    """
    screen = screen_of(progress)
    config = CheckConfig(data=Path(data), **settings)
    read = read_listed(config, screen)
    rows, index = read.rows, read.index
    open_folder(config.out)
    check_outputs(
        [
            Output(
                config.write_exclusions, "write_exclusions", starts_with(config.id_column, "reason")
            )
        ],
        (
            config.label_table,
            config.corrections,
            Path(config.groups.partition(":")[0]) if config.groups else None,
        ),
        config.force,
        {config.data: SUFFIXES, **({config.images: SUFFIXES} if config.images else {})},
        made=[config.out],
    )
    listed = match_labels(index, rows, read.files, read.groups, read.unit)
    files = CheckedFiles(inspect_files(index.paths, screen), listed, config)
    tables = [
        *label_findings(rows, read.files, config),
        *file_findings(files),
        *size_findings(files),
        *sha1_findings(files),
    ]
    found = [finding for finding in [*tables, *suspects(files, screen)] if finding.count]
    found.sort(key=lambda finding: not finding.fatal)
    colours = judge_colours(files.inspected.statistics[files.inspected.readable])
    classes = class_rows(rows, read.files)
    checked = describe(files, rows, classes, colours, found)
    for finding in found:
        say(finding, screen)
    say_rest(checked, classes, screen)

    def picture(name: str) -> bytes:
        return thumbnail_jpeg(read_patch(index.folder / name))

    page = write_findings(config.out, found, checked, picture)
    if config.write_exclusions:
        write_exclusions(config.write_exclusions, config.id_column, found, screen)
    fatal = sum(finding.fatal for finding in found)
    notes = len(found) - fatal + len(colours.notes)
    screen.say(f"report: {page}")
    if not fatal:
        screen.say(f"{data} is ready to train on" + (f" ({counted(notes, 'note')})" * bool(notes)))
    return CheckResult(page, found, notes)


@dataclass(frozen=True)
class Listed:
    """The labelled rows, the file of each, and the files and groups they are matched to."""

    rows: list[Row]
    files: list[str | None]
    index: PatchIndex
    unit: str
    """what a group is"""
    groups: IdLookup | None


def read_listed(config: CheckConfig, screen: Screen) -> Listed:
    """What the label CSV, or the folders, list; the table of groups too where one is given."""
    if config.label_table is None:
        found = read_labelled_folders(config, screen)
        found = without_test(found, config.images_folder, screen)
        rows, index, unit = found.rows, PatchIndex(config.images_folder, found.paths), found.unit
    else:
        columns = (config.id_column, config.label_column, config.split_column)
        rows = read_labels(config.label_table, *columns, screen.say)
        index, unit = PatchIndex(config.images_folder), ""
    source = config.label_table or config.images_folder
    rows, _ = correct_labels(rows, config, source, screen)
    files = files_of_rows(index, rows)
    groups = None
    if config.groups:
        unit, groups = read_groups(config.groups, config.id_column)
    elif config.label_table is not None and config.group_from not in (None, NO_GROUPS):
        rule = Rule.parse(config.group_from, "group_from")
        unit = rule.unit
        named = zip(rows, files, strict=True)
        rows = [replace(row, group=rule.read(file or "") or "") for row, file in named]
    return Listed(rows, files, index, unit, groups)


def suspects(files: CheckedFiles, screen: Screen) -> list[Finding]:
    """Duplicates, near-duplicates, empty and blurred patches, leaks."""
    inspected = files.inspected
    readable = inspected.readable
    shown = inspected.statistics["contrast"][readable] >= quality.BLANK
    equal = [readable[rows] for rows in equal_sets(inspected.sha1[readable])]
    with screen.bar("looking for near-duplicates", 1) as advance:
        near = near_sets(inspected.thumbs[readable], inspected.sha1[readable], shown)
        advance()
    return [
        *duplicate_findings(files, equal, near=False),
        *duplicate_findings(files, [readable[rows] for rows in near], near=True),
        *quality_findings(files),
        *reading_findings(files),
        *group_findings(files),
        *split_findings(files),
    ]


def describe(
    files: CheckedFiles,
    rows: Sequence[Row],
    classes: Sequence[Sequence[str]],
    colours: Colours,
    found: Sequence[Finding],
) -> Checked:
    """The facts of the report beside its findings."""
    inspected, config = files.inspected, files.config
    width, height = files.usual_size
    facts = {
        "patches": f"{len(inspected.paths):,} files, {len(inspected.readable):,} of them readable",
        "size": f"{width}x{height} px",
    }
    named = len(inspected.named_by_sha1)
    if named and "changed_ids" not in {finding.name for finding in found}:
        facts["ids"] = f"all {named:,} ids are the SHA-1 of their pixels"
    facts |= {f"label {name}": f"{n} ({share})" for name, n, share in classes[1:]}
    side = config.size or config.crop or width
    facts["store"] = store_line(config, sum(map(bool, files.listed.id)), side)
    by_group = balance(files.listed, make_vocab([row.label for row in rows]))
    bad = "Training would fail until the errors below are mended or left out."
    return Checked(
        title=f"Check of {config.data.resolve().name}",
        verdict=bad if any(finding.fatal for finding in found) else "Ready to train on.",
        facts=facts,
        channels=channel_rows(colours),
        colours_line=colours_line(colours),
        notes=colours.notes,
        judged=JUDGED,
        groups=by_group,
        groups_line=groups_line(by_group),
    )


def say(finding: Finding, screen: Screen) -> None:
    """Show a finding: a count and the first few."""
    screen.say(finding.line)
    for item in finding.some(FEW):
        screen.say(f"  {plain(item)}")
    if finding.count > FEW:
        screen.say(f"  … and {finding.count - FEW:,} more")


def say_rest(checked: Checked, classes: Sequence[Sequence[str]], screen: Screen) -> None:
    """Show colours, ids, classes, groups and the store."""
    for note in checked.notes:
        screen.say(f"note: {note}")
    if "ids" in checked.facts:
        screen.say(checked.facts["ids"])
    screen.table(classes)
    if checked.groups_line:
        screen.say(checked.groups_line)
    screen.say(checked.colours_line)
    screen.say(f"store: {checked.facts['store']}")


def class_rows(rows: Sequence[Row], files: Sequence[str | None]) -> list[list[str]]:
    """Patches of each class, forty classes at most."""
    counts = Counter(
        {file or row.id: row.label for row, file in zip(rows, files, strict=True)}.values()
    )
    return [["label", "patches", "share"]] + [
        [name, f"{counts[name]:,}", f"{100 * counts[name] / counts.total():.1f} %"]
        for name in make_vocab(list(counts))[:40]
    ]


def store_line(config: CheckConfig, patches: int, side: int) -> str:
    """How large the store of decoded patches is, or will be."""
    folder = store_folder(config.data, config.store)
    there = store_bytes(folder, config.images_folder, Fit(config.crop, config.size))
    if there:
        return f"{there / 1e6:,.1f} MB in {folder}"
    will = patches * side * side * 3 / 1e6
    return f"none yet; training will make one of {will:,.1f} MB in {folder}"


def channel_rows(colours: Colours) -> list[list[str]]:
    """Mean and standard deviation of each channel, beside those of the reference set."""
    names = ("red", "green", "blue")
    return [["channel", "mean", "reference", "SD", "reference"]] + [
        [name, *(f"{value:.3f}" for value in values)]
        for name, *values in zip(names, colours.mean, MEAN, colours.sd, SD, strict=True)
    ]


def colours_line(colours: Colours) -> str:
    """Mean and standard deviation in one line, and their distance from the reference set."""
    mean, sd = (" ".join(f"{value:.3f}" for value in part) for part in (colours.mean, colours.sd))
    return (
        f"Colours: mean RGB {mean}, standard deviation {sd} "
        f"({colours.distance:.3f} from the reference set, PatchCamelyon)"
    )


def groups_line(rows: Sequence[Sequence[str]]) -> str:
    """How classes are distributed over groups, in a sentence."""
    head, *body = rows
    if not body:
        return ""
    single = sum(sum(count != "0" for count in row[2:]) == 1 for row in body)
    sizes = [int(row[1]) for row in body]
    few = f"{single:,}" if single else "none"
    return (
        f"{few} of {counted(len(body), 'group')} ({head[0]}) with one class only "
        f"({min(sizes):,} to {max(sizes):,} patches each)"
    )


def write_exclusions(path: Path, column: str, found: Sequence[Finding], screen: Screen) -> None:
    """Write the ids to leave out and why, for `histo train`; the first reason counts."""
    reasons: dict[str, str] = {}
    for finding in found:
        reasons = finding.excluded | reasons
    with written(path, "w") as file:
        table = csv_writer(file)
        table.writerow([column, "reason"])
        table.writerows(reasons.items())
    screen.say(f"exclusions: {path} ({counted(len(reasons), 'id')}, to be left out by histo train)")
