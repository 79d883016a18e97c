"""The predictions table: its columns, and how it is written and read."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histo.errors import HistoError
from histo.files.limits import CLASSES, is_name
from histo.files.outputs import Output, never, starts_with
from histo.files.tables import csv_writer, read_table
from histo.files.writing import written

if TYPE_CHECKING:
    import numpy as np

LabelOf = Callable[[str], str | None]
"""The label of an id; None if it has none."""
PROBABILITY = "p_"
"""The prefix of a probability column, so that a class may be called `id` or `label`."""
ENGINE = "engine"
"""The last column of a table of `histo predict` that was not made in fp32: by which engine it was."""
SKIPPED = "skipped.csv"
"""In a run folder: ids of patches that were left out, and why."""


@dataclass(frozen=True)
class Predictions:
    """A predictions table: from a histo run or from any other system.

    `labels` are indices into `vocab`; `probabilities` is float64 [N, C], rows summing to 1.
    """

    ids: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    vocab: list[str]


def prediction_columns(vocab: Sequence[str]) -> list[str]:
    """The probability columns of a table, one per class."""
    return [f"{PROBABILITY}{name}" for name in vocab]


def write_predictions(
    path: Path, ids: Sequence[str], labels: Sequence[str], probabilities: Any, vocab: Sequence[str]
) -> None:
    """Write `id, label, p_CLASS…` with nine significant digits, enough for any float32."""
    with written(path, "w") as file:
        rows = csv_writer(file)
        rows.writerow(["id", "label", *prediction_columns(vocab)])
        for name, label, values in zip(ids, labels, probabilities, strict=True):
            rows.writerow([name, label, *(f"{value:.9g}" for value in values)])


def write_submission(table: Path, out: Path, positive: int = 1) -> None:
    """Write Kaggle's `id,label`, the probability of the positive class, from a predicted table."""
    with table.open(encoding="utf-8", newline="") as source, written(out, "w") as file:
        rows = csv.reader(source)
        header = next(rows)
        classes = sum(name.startswith(PROBABILITY) for name in header[2:])
        if classes != 2:
            raise HistoError(f"a submission needs two classes; {table} has {classes}")
        kaggle = csv_writer(file)
        kaggle.writerow(["id", "label"])
        kaggle.writerows((row[0], row[2 + positive]) for row in rows)


def skipped_row(name: str, reason: str, columns: int) -> list[str]:
    """The row of a patch that could not be used: no class, and why in place of a probability."""
    return [name, "", reason, *[""] * (columns - 3)]


def skipped_path(table: Path) -> Path:
    """Where the patches that are left out of a table are listed."""
    return table.with_name(f"{table.stem}.skipped{table.suffix}")


def move_skipped(table: Path) -> int:
    """Take the rows of patches that could not be used out of a table, into a list of their own."""
    count, listed = 0, skipped_path(table)
    listed.unlink(missing_ok=True)
    with (
        table.open(encoding="utf-8", newline="") as source,
        written(table, "w") as kept,
        written(listed, "w") as left_out,
    ):
        rows, skipped = (
            csv_writer(kept),
            csv_writer(left_out),
        )
        skipped.writerow(["id", "reason"])
        for row in csv.reader(source):
            if row[1]:
                rows.writerow(row)
            else:
                skipped.writerow([row[0], row[2]])
                count += 1
    if not count:
        listed.unlink()
    return count


def write_skipped(path: Path, reasons: dict[str, str]) -> None:
    """Write the ids of patches that were left out, and why; no file where there are none."""
    if not reasons:
        return
    with written(path, "w") as file:
        rows = csv_writer(file)
        rows.writerow(["id", "reason"])
        rows.writerows(reasons.items())


def table_outputs(out: Path | None, submission: Path | None) -> tuple[Output, Output]:
    """The files of a prediction; a submission looks like the user's own labels."""
    return (
        Output(out, "out", starts_with("id", "predicted")),
        Output(submission, "submission", never),
    )


def working_files(part: Path, out: Path) -> list[Output]:
    """The files beside a table that a prediction writes and removes: none of them may be an input."""
    names = {part.with_name(part.name + ending) for ending in ("", ".part", ".json", ".lock")}
    names = (names | {skipped_path(out)}) - {out}
    return [Output(path, "out", lambda _: True) for path in sorted(names)]


def check_distinct(ids: Sequence[str], path: Path) -> None:
    """Refuse a table that has an id twice: a patch would count twice."""
    first: dict[str, int] = {}
    for row, name in enumerate(ids, 1):
        if first.setdefault(name, row) != row:
            raise HistoError(
                f"{path.name}, row {row}: the id {name} is in row {first[name]} already"
            )


def checked_header(
    path: Path, header: list[str], vocab: Sequence[str], label_of: LabelOf | None
) -> LabelOf | None:
    """`label_of` for a table without labels, None for one that has them; HistoError for any other."""
    columns = prediction_columns(vocab)
    if (
        not 2 <= len(set(vocab)) == len(vocab)
        or not all(map(is_name, vocab))
        or header[:1] + header[2:] not in (["id", *columns], ["id", *columns, ENGINE])
        or header[1] not in ("label", "predicted")
    ):
        raise HistoError(f"{path}: the columns must be id, label, p_CLASS, p_CLASS … in this order")
    if header[1] == "label":
        return None
    if label_of is None:
        raise HistoError(
            f"{path} has predictions but no labels",
            "give their CSV as {labels}",
            "histo evaluate judges a bundle on labelled patches, histo compare a table beside a label CSV",
        )
    return label_of


def read_predictions(path: Path, label_of: LabelOf | None = None) -> Predictions:
    """Read and check a predictions table; HistoError names the wrong row.

    A table of `histo predict` has no labels: `label_of` gives that of an id, and rows without are
    left out.
    """
    import numpy as np

    rows = read_table(path)
    try:
        header = next(rows, (0, []))[1]
    except FileNotFoundError:
        raise HistoError(f"no predictions table {path}") from None
    except IsADirectoryError:
        raise HistoError(f"{path} is a folder, not a predictions table") from None
    vocab = [name[len(PROBABILITY) :] for name in header[2:] if name.startswith(PROBABILITY)]
    label_of = checked_header(path, header, vocab, label_of)
    CLASSES.check(len(vocab), str(path))
    index = {name: i for i, name in enumerate(vocab)}
    ids: list[str] = []
    labels: list[int] = []
    table = array("d")
    for i, (_, row) in enumerate(rows):
        where = f"{path.name}, row {i + 1}"
        if len(row) != len(header):
            raise HistoError(f"{where}: {len(row)} values where the header has {len(header)}")
        label = row[1] if label_of is None else label_of(row[0])
        if label is None:
            continue
        if label not in index:
            raise HistoError(f"{where}: label {label!r} has no column {PROBABILITY}{label}")
        try:
            values = [float(value) for value in row[2 : 2 + len(vocab)]]
        except ValueError:
            raise HistoError(f"{where}: a probability is not a number") from None
        if not (all(value >= 0 for value in values) and abs(sum(values) - 1) < 1e-3):
            raise HistoError(f"{where}: the probabilities do not add up to 1")
        ids.append(row[0])
        labels.append(index[label])
        table.extend(values)
    if not ids:
        raise HistoError(f"{path} has no rows" + " with a label" * (label_of is not None))
    check_distinct(ids, path)
    return Predictions(
        ids, np.array(labels, np.int64), np.array(table).reshape(-1, len(vocab)), vocab
    )
