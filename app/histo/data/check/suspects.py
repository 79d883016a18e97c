"""Findings about doubtful patches: duplicates, empty or blurred ones, leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from histo.config import TrainConfig
from histo.data import remarks
from histo.data.check.finding import Finding
from histo.data.check.inspect import FileLabels
from histo.data.check.quality import faults
from histo.data.check.tables import SHOWN, CheckedFiles, alike
from histo.data.split import (
    check_split,
    grouped_split,
    random_split,
    with_every_class,
    with_first,
)
from histo.errors import HistoError


def duplicate_findings(
    files: CheckedFiles, sets: list[NDArray[np.int64]], near: bool
) -> list[Finding]:
    """Sets of equal patches or of near-duplicates; which disagree, which are on both sides."""
    label, split = files.listed.label, files.listed.split
    differ = [rows for rows in sets if len({label[r] for r in rows} - {""}) > 1]
    both = [rows for rows in sets if len({split[r] for r in rows} - {""}) > 1]
    name, what = ("near_duplicates", "near-duplicates") if near else ("duplicates", "equal patches")
    every = "of near-duplicates" if near else "of files with the same pixels"
    how = (
        "The same picture turned, flipped, re-saved, resized or brightened. "
        if near
        else "Counted twice in training, and in the figures. "
    )
    advice = {
        "": how
        + "The exclusions keep the first of each set in the label CSV, or none where labels disagree.",
        "_disagree": "One picture, two labels: nobody but you can say which is right. "
        "The exclusions leave all of them out.",
        "_split": "The model is judged on what it was trained on: figures are too good.",
    }
    excluded = duplicate_exclusions(files, sets, near)

    def finding(ending: str, what: str, sets: list[NDArray[np.int64]], fatal: bool) -> Finding:
        lines = [[str(n + 1), *files.line(r)] for n, rows in enumerate(sets) for r in rows]
        if lines:  # the id first, as in every table
            lines = [[line[1], line[0], *line[2:]] for line in lines]
        return Finding(
            name + ending,
            "set",
            what,
            [files.columns[0], "set", *files.columns[1:]],
            lines,
            fatal,
            advice[ending],
            number=len(sets),
            examples=[", ".join(files.name(r) for r in rows[:3]) for rows in sets[:9]],
            pictures=[
                [files.caption(r, f"label {label[r] or 'none'} {split[r]}") for r in rows[:4]]
                for rows in sets[:SHOWN]
            ],
            excluded={} if ending else excluded,
        )

    return [
        finding("", every, sets, False),
        finding("_disagree", f"of {what} whose labels disagree", differ, False),
        finding("_split", f"of {what} on both sides of the split", both, not near),
    ]


def duplicate_exclusions(
    files: CheckedFiles, sets: list[NDArray[np.int64]], near: bool
) -> dict[str, str]:
    """All but the first of each set in the label CSV; all of them where labels disagree."""
    listed = files.listed
    excluded: dict[str, str] = {}
    what = "near-duplicate of" if near else "same pixels as"
    for rows in sets:
        ours = sorted((int(r) for r in rows if listed.id[r]), key=lambda r: listed.line[r])
        if not ours:
            continue
        first = listed.id[ours[0]]
        if len({listed.label[r] for r in ours}) == 1:
            excluded |= files.exclusions(ours[1:], f"{what} {first}")
        else:
            other = listed.id[ours[1]]
            excluded |= {first: f"{what} {other}, labels disagree"}
            excluded |= files.exclusions(ours[1:], f"{what} {first}, labels disagree")
    return excluded


QUALITY = {
    "black": ("black patch", "", "contrast", True, "Shows nothing: a fault of the scanner."),
    "blank": ("blank patch", "", "contrast", True, "Empty glass or paper, of one colour."),
    "blurred": (
        "blurred patch",
        "",
        "sharpness",
        False,
        "Far less sharp than most of this set. Kept, unless you give their table to train as "
        "exclusions.",
    ),
    "tissue_poor": (
        "patch",
        "with hardly any tissue",
        "tissue",
        False,
        "Under 1 % of the pixels absorb light. Often right as negatives: kept unless you give "
        "their table to train as exclusions.",
    ),
}
"""By fault: noun, rest of the line, its statistic, whether it is excluded, advice."""


def quality_findings(files: CheckedFiles) -> list[Finding]:
    """Black, blank, blurred and tissue-poor patches, the worst first."""
    readable, label, found = files.inspected.readable, files.listed.label, []
    table = files.inspected.statistics[readable]
    for name, those in faults(table).items():
        noun, what, statistic, out, advice = QUALITY[name]
        values = table[statistic][those]
        order = np.argsort(values, kind="stable")
        worst = [
            (int(row), f"{value:.3g}")
            for row, value in zip(readable[those][order], values[order], strict=True)
        ]
        found.append(
            Finding(
                name,
                noun,
                what,
                [*files.columns, statistic],
                [[*files.line(row), value] for row, value in worst],
                advice=advice,
                examples=[f"{files.name(row)} ({statistic} {value})" for row, value in worst[:9]],
                pictures=[
                    [files.caption(row, f"{statistic} {value}, label {label[row] or 'none'}")]
                    for row, value in worst[:SHOWN]
                ],
                excluded=files.exclusions([row for row, _ in worst], name) if out else {},
            )
        )
    return found


READING = {
    remarks.FIRST_PAGE: "first_page",
    remarks.TIFF_TURN: "turned",
    remarks.EXIF_TURN: "not_turned",
    remarks.DEEP: "deep",
    remarks.ALPHA: "alpha",
    remarks.INKS: "inks",
}
"""The table of each rule of reading."""


def reading_findings(files: CheckedFiles) -> list[Finding]:
    """Files whose pixels a rule of reading has changed, one finding for each rule."""
    by_rule: dict[str, list[int]] = defaultdict(list)
    for row, rules in sorted(files.inspected.remarks.items()):
        for rule in rules:
            by_rule[rule].append(row)
    return [
        Finding(
            READING[rule],
            "file",
            f"read by a rule: {rule}",
            files.columns,
            [files.line(row) for row in rows],
            advice="Every command reads them so. Nothing to do if that is what you expect.",
            examples=[files.name(row) for row in rows[:9]],
        )
        for rule, rows in by_rule.items()
    ]


def group_findings(files: CheckedFiles) -> list[Finding]:
    """Groups on both sides of a given split, and groups that look alike."""
    listed = files.listed
    sides: dict[str, Counter[str]] = defaultdict(Counter)
    for group, split in zip(listed.group, listed.split, strict=True):
        if group and split:
            sides[group][split] += 1
    both = {group: count for group, count in sides.items() if len(count) > 1}
    unit = listed.unit or "group"
    return [
        alike(
            "similar_groups",
            f"of names of groups ({unit}) that look alike",
            unit,
            Counter(sorted(filter(None, listed.group))),
            f"If it is one {unit}, written in several ways, it can be on both sides of the split: make "
            "the names the same.",
        ),
        Finding(
            "groups_split",
            "group",
            f"of {len(sides):,} ({unit}) on both sides of the split",
            [unit, "train", "valid"],
            [[g, str(count["train"]), str(count["valid"])] for g, count in sorted(both.items())],
            fatal=True,
            advice="Patches of one slide are alike: figures are too good. "
            "Train with the groups and without the given split: histo then splits by group itself.",
        ),
    ]


def split_findings(files: CheckedFiles) -> list[Finding]:
    """Why training could not split the labelled, readable patches, if it could not."""
    listed, sha1 = files.listed, files.inspected.sha1
    rows = [row for row in files.inspected.readable.tolist() if listed.id[row]]
    labels = [listed.label[row] for row in rows]
    groups = [listed.group[row] for row in rows]
    sides = [listed.split[row] for row in rows]
    if len(set(labels)) < 2 or min(Counter(labels).values()) < 2:
        return []  # found already
    pct, seed = TrainConfig.valid_pct, TrainConfig.seed
    try:
        if any(sides):
            valid = np.array([side == "valid" for side in sides])
        elif all(groups):
            valid = grouped_split(labels, groups, pct, seed)
        else:
            valid = with_first(random_split(labels, pct, seed), sha1[rows])
            valid = with_every_class(valid, labels, sha1[rows], seed)
        check_split(labels, valid)
    except HistoError as error:
        advice = "With other settings of the split, or more patches, it may be possible."
        return [
            Finding(
                "no_split",
                "reason",
                f"why no split is possible: {error.message}",
                ["reason"],
                [[error.message]],
                fatal=True,
                advice=advice,
            )
        ]
    return []


def balance(listed: FileLabels, vocab: Sequence[str]) -> list[list[str]]:
    """Patches of each class by group, the largest first; the first row holds names."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for group, label in zip(listed.group, listed.label, strict=True):
        if group and label:
            counts[group][label] += 1
    order = sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))
    head = [listed.unit, "patches", *vocab]
    return [head] + [
        [group, str(count.total()), *(str(count[name]) for name in vocab)] for group, count in order
    ]
