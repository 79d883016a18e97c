"""Read the predictions table of a run folder or of a file, for several commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histo.errors import Call, HistoError
from histo.files.writing import read_json
from histo.run.folder import RunFolder
from histo.run.positive import Positive, choose_positive, recorded_positive
from histo.run.predictions import LabelOf, Predictions, read_predictions
from histo.run.whole import unfinished
from histo.screen import Screen


def labels_by_id(path: Path, id_column: str, label_column: str) -> LabelOf:
    """The labels of a CSV, found with and without the suffix of a file name."""
    from histo.data.ids import IdLookup
    from histo.data.labels import read_labels

    found = IdLookup()
    for row in read_labels(path, id_column, label_column):
        if found.add(row.id, row.label) != row.label:
            raise HistoError(f"{path.name}, line {row.line}: id {row.id} has two labels")
    return found.get


def read_table(path: Path, label_of: LabelOf | None = None) -> Predictions:
    """The predictions of a run folder, or a table itself; `label_of` for one of `histo predict`."""
    if path.is_file():
        return read_predictions(path, label_of)
    run = RunFolder.open(path)
    unfinished(run)  # HistoError where the table is not there, or may be of another epoch
    return read_predictions(run.predictions)


def say_unfinished(run: RunFolder, screen: Screen) -> str:
    """Say that a run has not finished; returns the sentence, nothing for one that has."""
    if not (cut := unfinished(run)):
        run.tidy()
        return ""
    screen.say(
        f"note: {run.path} has not finished training: {cut}",
        Call("to finish it", "train", {"resume": run.path}),
    )
    return f"This run had not finished training: {cut}."


def positive_of(path: Path, vocab: Sequence[str], given: str | None) -> Positive | None:
    """The positive class of a run folder, or of a table by the names of its classes."""
    if path.is_file():
        return choose_positive(vocab, given)
    record = read_json(RunFolder.open(path).config)
    return recorded_positive(vocab, record if isinstance(record, dict) else {}, given)
