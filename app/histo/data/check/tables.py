"""Findings about labels and files: whatever would make training fail."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from histo.config import CheckConfig
from histo.data.check.finding import Finding
from histo.data.check.inspect import FileLabels, InspectedFiles, base_of
from histo.data.labels import Row, missing_classes, similar_classes

SHOWN = 24
"""Patches or sets on the sheet of a finding."""


@dataclass(frozen=True)
class CheckedFiles:
    """The files of a set by row, as findings show them."""

    inspected: InspectedFiles
    listed: FileLabels
    config: CheckConfig

    @property
    def columns(self) -> list[str]:
        """The columns of `line`: the id's is called as in the label CSV, so that train reads it."""
        extra = [self.config.split_column, self.listed.unit]
        return [self.config.id_column, "file", self.config.label_column, *filter(None, extra)]

    def line(self, row: int) -> list[str]:
        """Id, name, label, split and group of one file."""
        listed = self.listed
        extra = [listed.split[row]] * bool(self.config.split_column)
        extra += [listed.group[row]] * bool(listed.unit)
        return [listed.id[row], self.name(row), listed.label[row], *extra]

    def name(self, row: int) -> str:
        """The file's name."""
        return self.inspected.paths.names[row]

    @cached_property
    def usual_size(self) -> tuple[int, int]:
        """Width and height in px that most labelled patches have; most of all, where none is labelled."""
        readable = self.inspected.readable.tolist()
        labelled = [row for row in readable if self.listed.id[row]]
        sizes = Counter(
            (int(self.inspected.sizes[row, 0]), int(self.inspected.sizes[row, 1]))
            for row in labelled or readable
        )
        return sizes.most_common(1)[0][0] if sizes else (0, 0)

    def caption(self, row: int, value: str) -> tuple[str, str]:
        """A file for a sheet of pictures, and its caption: the start of its name, and `value`."""
        name = self.name(row)
        return name, f"{name if len(name) <= 16 else name[:12] + '…'} {value}"

    def exclusions(self, rows: Iterable[int], why: str) -> dict[str, str]:
        """Exclusions of the files that have a label."""
        return {self.listed.id[row]: why for row in rows if self.listed.id[row]}


def alike(code: str, what: str, unit: str, counts: Counter[str], advice: str) -> Finding:
    """Names that look alike, with how many patches have each; `unit` is the column that they are of."""
    sets = similar_classes(counts)
    return Finding(
        code,
        "set",
        what,
        [unit, "patches"],
        [[name, str(counts[name])] for names in sets for name in names],
        advice=f"They differ in case, blanks, width, leading zeros or .0 only. {advice}",
        number=len(sets),
        examples=[", ".join(f"{n!r} ({counts[n]:,})" for n in names) for names in sets[:9]],
    )


def label_findings(
    rows: Sequence[Row], files: Sequence[str | None], config: CheckConfig
) -> list[Finding]:
    """Patches listed twice, one class only, and classes that look alike."""
    by_file: dict[str, list[Row]] = defaultdict(list)
    for row, file in zip(rows, files, strict=True):
        by_file[file or row.id].append(row)
    twice = [same for same in by_file.values() if len(same) > 1]
    agree = [same for same in twice if len({(row.label, row.split) for row in same}) == 1]
    differ = [same for same in twice if len({(row.label, row.split) for row in same}) > 1]
    counts = Counter(same[0].label for same in by_file.values())
    single = [[name] for name, count in counts.items() if count == 1]

    def shown(sets: list[list[Row]]) -> list[str]:
        return [f"{s[0].id} (lines {', '.join(str(r.line) for r in s[:3])})" for s in sets[:9]]

    def lines(sets: list[list[Row]]) -> list[list[str]]:
        return [[row.id, row.label, str(row.line)] for same in sets for row in same]

    columns = [config.id_column, config.label_column, "line"]
    return [
        Finding(
            "ids_twice_differ",
            "id",
            "twice, with different labels",
            columns,
            lines(differ),
            fatal=True,
            advice="Nobody but you can say which label is right.",
            number=len(differ),
            examples=shown(differ),
            excluded={
                row.id: "twice in the table, with different labels" for s in differ for row in s
            },
        ),
        Finding(
            "ids_twice",
            "id",
            "twice, with the same label (train keeps one)",
            columns,
            lines(agree),
            number=len(agree),
            examples=shown(agree),
        ),
        Finding(
            "one_class",
            "class",
            "only: there is nothing to learn",
            [config.label_column],
            [[name] for name in counts] if len(counts) < 2 else [],
            fatal=True,
        ),
        Finding("lone_classes", "class", "of one patch", [config.label_column], single, fatal=True),
        Finding(
            "missing_labels",
            "class",
            "whose name is that of a missing value",
            [config.label_column],
            [[name] for name in missing_classes(counts)],
            advice="If these patches have no label, take them out of the table.",
        ),
        alike(
            "similar_classes",
            "of classes that look alike",
            config.label_column,
            counts,
            "Most often it is one class, written twice: make the labels the same.",
        ),
    ]


def file_findings(files: CheckedFiles) -> list[Finding]:
    """Labels and files that do not meet, files that cannot be read."""
    listed, inspected = files.listed, files.inspected
    column = [files.config.id_column]
    bad = [(row, said) for row, said in inspected.unreadable.items() if listed.id[row]]
    rest = [(row, said) for row, said in inspected.unreadable.items() if not listed.id[row]]

    def id_finding(name: str, noun: str, what: str, ids: list[str], why: str) -> Finding:
        rows, excluded = [[id_] for id_ in ids], dict.fromkeys(ids, why)
        return Finding(name, noun, what, column, rows, fatal=True, excluded=excluded)

    missing = list(zip(listed.missing, listed.similar, strict=True))
    several = "of which there are several files (give the suffix)"
    ungrouped = f"of which no {listed.unit or 'group'} is named"
    return [
        Finding(
            "missing",
            "label",
            "without a patch",
            [*column, "there_is"],
            [list(pair) for pair in missing],
            fatal=True,
            examples=[f"{name} (there is {near})" if near else name for name, near in missing[:9]],
            excluded=dict.fromkeys(listed.missing, "no such patch"),
        ),
        id_finding("several_files", "id", several, listed.several, "fits several files"),
        id_finding("ungrouped", "patch", ungrouped, listed.ungrouped, f"no {listed.unit} is named"),
        Finding(
            "unlabelled",
            "patch",
            "without a label",
            ["file"],
            [[files.name(row)] for row, name in enumerate(listed.id) if not name],
        ),
        Finding(
            "unreadable",
            "patch",
            "that cannot be read",
            [*files.columns, "reason"],
            [[*files.line(row), said] for row, said in bad],
            fatal=True,
            examples=[said for _, said in bad[:9]],
            excluded=files.exclusions([row for row, _ in bad], "cannot be read"),
        ),
        Finding(
            "unreadable_unlabelled",
            "unlabelled file",
            "that cannot be read",
            ["file", "reason"],
            [[files.name(row), said] for row, said in rest],
            examples=[said for _, said in rest[:9]],
        ),
    ]


def size_findings(files: CheckedFiles) -> list[Finding]:
    """Patches of another size than most, and a size that is not square."""
    inspected, config = files.inspected, files.config
    common, fits = files.usual_size, config.size is not None or config.crop is not None
    odd = [int(row) for row in inspected.readable if tuple(inspected.sizes[row]) != common]
    shown = ["{}x{} px".format(*inspected.sizes[row]) for row in odd]
    square = common[0] == common[1] or fits
    out = [row for row in odd if not _usable(config, *inspected.sizes[row].tolist())]
    return [
        Finding(
            "odd_sizes",
            "patch",
            f"not of {common[0]}x{common[1]} px{mostly_of_class(files, odd)}",
            [*files.columns, "size"],
            [[*files.line(row), size] for row, size in zip(odd, shown, strict=True)],
            fatal=not fits,
            advice="Leave these out with the exclusions. Patches cut at the edge of a slide would be "
            "squeezed by a size, and a model can learn that. Only where all are square, and show the "
            "same field at several resolutions, give the same size to check and to train.",
            excluded=files.exclusions(out, "another size"),
            examples=[f"{files.name(r)}: {s}" for r, s in zip(odd[:9], shown[:9], strict=True)],
        ),
        Finding(
            "not_square",
            "size",
            "for most that is not square (train with a crop)",
            ["size"],
            [] if square else [["x".join(map(str, common))]],
            fatal=True,
        ),
    ]


def mostly_of_class(files: CheckedFiles, rows: Sequence[int]) -> str:
    """That nearly all of these patches are of one class, where others are not: their shape tells it."""
    labels = files.listed.label
    every = Counter(label for label in labels if label)
    ours = Counter(labels[row] for row in rows if labels[row])
    if len(every) < 2 or sum(ours.values()) < 5:
        return ""
    name, count = ours.most_common(1)[0]
    total = sum(ours.values())
    if count < 0.9 * total or every[name] > 0.8 * sum(every.values()):
        return ""
    return f", {count:,} of them of class '{name}', which a model would learn from their shape"


def _usable(config: CheckConfig, width: int, height: int) -> bool:
    """Whether a patch of another size than most comes out right: cropped, or a square resized."""
    if config.crop is not None:
        return min(width, height) >= config.crop
    return config.size is not None and width == height


def sha1_findings(files: CheckedFiles) -> list[Finding]:
    """Files whose name is a SHA-1, but not that of their pixels."""
    named = files.inspected.named_by_sha1
    sha1 = {row: files.inspected.sha1[row].decode() for row in named}
    changed = [row for row in named if sha1[row] != base_of(files.name(row))]
    return [
        Finding(
            "changed_ids",
            "file",
            f"of {len(named):,} named by a SHA-1 that is not of the pixels",
            [*files.columns, "sha1"],
            [[*files.line(row), sha1[row]] for row in changed],
            advice="The pixels are not those that were published under these names.",
            examples=[files.name(row) for row in changed[:9]],
            pictures=[[files.caption(row, "")] for row in changed[:SHOWN]],
        )
    ]
