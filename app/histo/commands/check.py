"""`histo check`: read every label and every patch, and say what is wrong with them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histo.config import CheckConfig
from histo.data import quality
from histo.data.colour import MEAN, SD, Colours, judge_colours
from histo.data.duplicates import ALIKE, equal_sets, near_sets
from histo.data.findings import Files, of_files, of_ids, of_labels, of_sizes, usual_size
from histo.data.inspect import know, look_at
from histo.data.labels import PatchIndex, Row, make_vocab, read_groups, read_labels
from histo.data.patches import read_patch
from histo.data.store import store_bytes, store_folder
from histo.data.suspects import balance, of_groups, of_quality, of_sets
from histo.finding import Finding
from histo.report.findings import Checked, open_folder, write_findings
from histo.run import written
from histo.screen import Screen

FEW = 5
JUDGED = {
    "near-duplicate": "detail of the grey thumbnails, in the best of the eight views, correlates "
    f"to {ALIKE} or more",
    "black, blank": f"standard deviation of grey under {quality.BLANK:g} of 255, "
    f"black where its mean is under {quality.BLACK:g}",
    "blurred": "energy of the Laplacian over that of the slope under a third of the set's median",
    "hardly any tissue": f"under {quality.TISSUE:.0%} of the pixels have a channel below "
    f"{quality.ABSORBS} of 255 (optical density 0.15)",
}


@dataclass(frozen=True)
class Result:
    """The page, and how many kinds of findings are errors and notes."""

    page: Path
    fatal: int
    notes: int


def check(config: CheckConfig, screen: Screen) -> Result:
    """Check labels against patches, decode every patch, write the report; says what it finds."""
    rows = read_labels(
        config.labels_csv, config.id_column, config.label_column, config.split_column
    )
    unit, groups = read_groups(config.groups, config.id_column) if config.groups else ("", None)
    index = PatchIndex(config.images_folder)
    open_folder(config.out)
    known = know(index, rows, groups, unit)
    files = Files(look_at(index.paths, screen), known, config)
    ids, named = of_ids(files)
    found = [*of_labels(rows, config), *of_files(files), *of_sizes(files), *ids]
    found = [finding for finding in [*found, *suspects(files, screen)] if finding.count]
    colours = judge_colours(files.seen.statistics[files.seen.readable])
    for finding in found:
        say(finding, screen)
    for line in colours.notes:
        screen.say(f"note: {line}")
    facts = describe(files, rows, named, screen)
    fatal = sum(finding.fatal for finding in found)
    notes = len(found) - fatal + len(colours.notes)
    vocab = make_vocab([row.label for row in rows])
    by_group = balance(known, vocab) if unit else []
    checked = Checked(
        title=f"check of {config.data.resolve().name}",
        verdict="Training would fail until the errors below are mended or left out."
        if fatal
        else "Ready to train on.",
        facts=facts,
        channels=channel_rows(colours),
        colours=colours.notes,
        judged=JUDGED,
        groups=by_group,
        groups_line=groups_line(by_group),
        figures={
            "colours": {"mean": colours.mean.tolist(), "sd": colours.sd.tolist()},
            "notes": colours.notes,
        },
    )
    if by_group:
        screen.say(checked.groups_line)
    page = write_findings(
        config.out, found, checked, lambda name: read_patch(index.folder / name), screen
    )
    if config.write_exclusions:
        write_exclusions(config.write_exclusions, config.id_column, found, screen)
    return Result(page, fatal, notes)


def suspects(files: Files, screen: Screen) -> list[Finding]:
    """Duplicates, near-duplicates, empty and blurred patches, leaks."""
    seen, known = files.seen, files.known
    readable = seen.readable
    shown = seen.statistics["contrast"][readable] >= quality.BLANK
    equal = [readable[rows] for rows in equal_sets(seen.sha1[readable])]
    with screen.bar("looking for near-duplicates", 1) as advance:
        near = near_sets(seen.thumbs[readable], seen.sha1[readable], shown)
        advance()
    found = [
        *of_sets(files, equal, near=False),
        *of_sets(files, [readable[rows] for rows in near], near=True),
        *of_quality(files),
    ]
    return found + (of_groups(files) if files.config.split_column and known.unit else [])


def say(finding: Finding, screen: Screen) -> None:
    """A count and the first few."""
    screen.say(f"{'error' if finding.fatal else 'note'}: {finding.count:,} {finding.what}")
    for item in finding.some(FEW):
        screen.say(f"  {item}")
    if finding.count > FEW:
        screen.say(f"  … and {finding.count - FEW:,} more")


def describe(files: Files, rows: Sequence[Row], named: int, screen: Screen) -> dict[str, str]:
    """Facts that are no finding, said and for the page: ids, size, classes, store."""
    seen, config = files.seen, files.config
    width, height = usual_size(files)
    facts = {"patches": f"{len(seen.paths):,} files, {len(seen.readable):,} read"}
    facts["size"] = f"{width}x{height} px"
    changed = of_ids(files)[0][0].count
    if named and not changed:
        screen.say(f"all {named:,} ids are the SHA-1 of their pixels")
        facts["ids"] = f"all {named:,} are the SHA-1 of their pixels"
    counts = Counter({row.id: row.label for row in rows}.values())
    table = [
        [name, f"{counts[name]:,}", f"{100 * counts[name] / sum(counts.values()):.1f} %"]
        for name in make_vocab(list(counts))[:40]
    ]
    screen.table([["label", "patches", "share"], *table])
    facts |= {f"label {name}": f"{count} ({share})" for name, count, share in table}
    side = config.size or config.crop or width
    facts["store"] = store_line(config, sum(map(bool, files.known.id)), side)
    screen.say(f"store: {facts['store']}")
    return facts


def store_line(config: CheckConfig, patches: int, side: int) -> str:
    """How large the store of decoded patches is, or will be."""
    folder = store_folder(config.data, config.store)
    there = store_bytes(folder, config.images_folder, config.crop, config.size)
    if there:
        return f"{there / 1e6:,.1f} MB in {folder}"
    will = patches * side * side * 3 / 1e6
    return f"none yet; training will make one of {will:,.1f} MB in {folder}"


def channel_rows(colours: Colours) -> list[list[str]]:
    """Mean and standard deviation of each channel, beside those of the reference set."""
    head = ["channel", "mean", "reference", "standard deviation", "reference"]
    return [head] + [
        [name, f"{mean:.3f}", f"{MEAN[i]:.3f}", f"{sd:.3f}", f"{SD[i]:.3f}"]
        for i, (name, mean, sd) in enumerate(
            zip(("red", "green", "blue"), colours.mean, colours.sd, strict=True)
        )
    ]


def groups_line(rows: Sequence[Sequence[Any]]) -> str:
    """How the classes lie over groups, in a sentence."""
    if not rows:
        return ""
    head, *body = rows
    single = sum(sum(count != "0" for count in row[2:]) == 1 for row in body)
    sizes = [int(row[1]) for row in body]
    return (
        f"{head[0]}: {len(body):,} with {min(sizes, default=0):,} to {max(sizes, default=0):,} "
        f"patches; {single:,} have one class only"
    )


def write_exclusions(path: Path, column: str, found: Sequence[Finding], screen: Screen) -> None:
    """Write the ids to leave out and why, for `histo train --exclude`; the first reason counts."""
    reasons: dict[str, str] = {}
    for finding in found:
        reasons = finding.excluded | reasons
    with written(path, "w") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([column, "reason"])
        table.writerows(reasons.items())
    screen.say(f"exclusions: {path} ({len(reasons):,} ids; histo train --exclude {path})")
