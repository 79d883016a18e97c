"""The output of `histo review`: suspects.csv, to be corrected, and a page of the patches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histo.data.corrections import CORRECTED, DECISION
from histo.errors import HistoError, plain
from histo.files.aside import is_occupied
from histo.files.tables import csv_writer, read_table
from histo.files.writing import built, written
from histo.report import page
from histo.report.label_errors import LabelErrors
from histo.run.predictions import Predictions, prediction_columns
from histo.screen import counted

TABLE, PAGE = "suspects.csv", "review.html"
SHOWN = 500
"""Patches on the page, the most suspicious; the CSV has all."""
GROUPS = 20
"""Groups on the page, those with the most suspects first."""
HOW = (
    "Confident learning (Northcutt et al., 2021, arXiv:1911.00068): a patch is suspected if the "
    "model gives another class a larger probability than its label, and it is among as many "
    "patches of that pair of classes as are estimated to be labelled wrongly. A suspect is a patch "
    "to look at, not an error found: unusual but correctly labelled patches are among them."
)


@dataclass(frozen=True)
class Suspects:
    """The suspected label errors of a predictions table, the most suspicious first."""

    table: Predictions
    errors: LabelErrors
    groups: Sequence[str] | None
    """the group of each row of the table, where the run knows them"""
    unit: str
    """what a group is: slide, patient, hospital"""
    found: int
    """how many there were before the least suspicious were dropped"""

    @property
    def line(self) -> str:
        """How many labels are suspected, and how many of those are listed."""
        some = f"; the {len(self):,} most suspicious are listed" if len(self) < self.found else ""
        return f"{self.found:,} of {counted(len(self.table.ids), 'label')} suspected{some}"

    def __len__(self) -> int:
        return len(self.errors.rows)

    @property
    def ids(self) -> list[str]:
        """Their ids."""
        return [self.table.ids[row] for row in self.errors.rows]

    def pairs(self) -> list[tuple[str, str, int]]:
        """Label, suggested class and count of each pair, the most frequent first."""
        vocab, given = self.table.vocab, self.table.labels[self.errors.rows].tolist()
        counts = Counter(zip(given, self.errors.suggested.tolist(), strict=True))
        return [(vocab[a], vocab[b], n) for (a, b), n in counts.most_common()]

    def by_group(self) -> list[tuple[str, int, int]]:
        """Name, suspects and patches of each group that has suspects, the most first."""
        if not self.groups:
            return []
        every = Counter(self.groups)
        mine = Counter(self.groups[row] for row in self.errors.rows)
        return [(name, n, every[name]) for name, n in mine.most_common()]


def open_folder(folder: Path) -> None:
    """HistoError where the folder of a review holds other files, or corrections by hand."""
    if folder.exists() and not folder.is_dir():
        raise HistoError(f"{folder} is a file", "give {out} a folder")
    if folder.is_dir() and is_occupied(folder):
        if not (folder / TABLE).is_file():
            raise HistoError(f"{folder} holds files that are not of a review", "give another {out}")
        if is_filled(folder / TABLE):
            raise HistoError(
                f"{folder / TABLE} holds corrections, which a new review would lose",
                "give another {out}",
                "move the file",
            )


def is_filled(path: Path) -> bool:
    """Whether the user has written labels, or decisions, into the columns for them."""
    rows = read_table(path)
    header = next(rows, (0, []))[1]
    places = [header.index(name) for name in (CORRECTED, DECISION) if name in header]
    return any(row[n : n + 1] not in ([], [""]) for _, row in rows for n in places)


def write_review(
    folder: Path, title: str, note: str, suspects: Suspects, pictures: Sequence[bytes]
) -> Path:
    """Write suspects.csv and the page, and return the page's path.

    `note` says which patches were judged, and by what; `pictures` are JPEGs of the first suspects,
    none where the patches are not to be found.
    """
    parts = [("", head_of(note, suspects)), ("Suspects", patches_of(suspects, pictures))]
    groups = suspects.by_group()
    if groups:
        rows = [[suspects.unit, "suspects", "patches", "share"]]
        rows += [[g, f"{n:,}", f"{of:,}", f"{100 * n / of:.1f} %"] for g, n, of in groups[:GROUPS]]
        parts.append((f"Suspects by {suspects.unit}", [page.table(rows, sortable=True)]))
    parts.append(
        ("How they were found", [page.paragraph(HOW), page.table(thresholds_of(suspects))])
    )
    with built(folder, first=TABLE, last=PAGE) as made:
        write_suspects(made / TABLE, suspects)
        page.write_page(made / PAGE, title, parts)
    return folder / PAGE


def write_suspects(path: Path, suspects: Suspects) -> None:
    """Write `id, label, suggested, why, corrected`, the group where there is one, p_CLASS…."""
    table, errors = suspects.table, suspects.errors
    unit = ["group"] if suspects.groups else []
    with written(path, "w") as file:
        rows = csv_writer(file)
        columns = ["id", "label", "suggested", "why", CORRECTED, *unit]
        rows.writerow([*columns, *prediction_columns(table.vocab)])
        for row, suggested in zip(errors.rows.tolist(), errors.suggested.tolist(), strict=True):
            group = [suspects.groups[row]] if suspects.groups else []
            label, other = (table.vocab[c] for c in (table.labels[row], suggested))
            values = (f"{value:.9g}" for value in table.probabilities[row])
            why = why_of(suspects, row, suggested)
            rows.writerow([table.ids[row], label, other, why, "", *group, *values])


def why_of(suspects: Suspects, row: int, suggested: int) -> str:
    """What the model says about a suspect, beside what it says about that class in general."""
    vocab, values = suspects.table.vocab, suspects.table.probabilities[row]
    label = int(suspects.table.labels[row])
    usual = suspects.errors.thresholds[suggested]
    return (
        f"{vocab[suggested]} has probability {values[suggested]:.3f} (patches labelled so: "
        f"{usual:.3f} on average), {vocab[label]} {values[label]:.3f}"
    )


def head_of(note: str, suspects: Suspects) -> list[str]:
    """The page above the patches: what was judged, how many are suspected of what."""
    rows = [["labelled", "seems", "patches"]]
    rows += [[label, other, f"{n:,}"] for label, other, n in suspects.pairs()]
    pieces = [
        page.paragraph(f"{suspects.line}.", "summary"),
        page.paragraph(note, "note"),
    ]
    if not len(suspects):
        return pieces
    todo = f"Write the right label into the column {CORRECTED} where a label is wrong."
    return [*pieces, page.table(rows), page.link(TABLE, TABLE), page.paragraph(todo)]


def patches_of(suspects: Suspects, pictures: Sequence[bytes]) -> list[str]:
    """The patches with their captions, or the captions alone where no patch is to be found."""
    captions = [plain(text) for text in captions_of(suspects)]
    if not captions:
        return [page.paragraph("None.")]
    said = "The most suspicious first."
    if len(suspects) > len(captions):
        said = f"The {len(captions):,} most suspicious of {len(suspects):,}; {TABLE} has all."
    if pictures:
        shown = page.sheet([[each] for each in zip(pictures, captions, strict=True)])
    else:
        shown = page.table([["patch"], *([text] for text in captions)])
    return [page.paragraph(said, "small"), shown]


def captions_of(suspects: Suspects) -> list[str]:
    """Id, group, label, what the patch seems to be, and both probabilities."""
    table, errors = suspects.table, suspects.errors
    captions = []
    for row, suggested in zip(errors.rows[:SHOWN], errors.suggested[:SHOWN], strict=True):
        label, values = table.labels[row], table.probabilities[row]
        group = f"{suspects.unit} {suspects.groups[row]}: " if suspects.groups else ""
        captions.append(
            f"{table.ids[row]}: {group}labelled {table.vocab[label]} ({values[label]:.3f}), "
            f"seems {table.vocab[suggested]} ({values[suggested]:.3f})"
        )
    return captions


def thresholds_of(suspects: Suspects) -> list[list[str]]:
    """A row a class: patches labelled so, their mean probability of it, how many it is thought to have."""
    errors, labels = suspects.errors, suspects.table.labels
    rows = [["class", "labelled", "mean probability of it", "estimated to be it"]]
    for c, name in enumerate(suspects.table.vocab):
        mine = int((labels == c).sum())
        usual = f"{errors.thresholds[c]:.3f}" if mine else "–"
        rows.append([name, f"{mine:,}", usual, f"{int(errors.joint[:, c].sum()):,}"])
    return rows
