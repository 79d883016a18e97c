"""Read the predictions table of a run folder or of a file, for several commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histo.errors import HistoError
from histo.files.writing import read_json
from histo.run.folder import RunFolder
from histo.run.positive import Positive, choose_positive, recorded_positive
from histo.run.predictions import Predictions, read_predictions


def read_table(path: Path) -> Predictions:
    """The predictions of a run folder, or a table itself."""
    if path.is_file():
        return read_predictions(path)
    run = RunFolder.open(path)
    if not run.predictions.is_file():
        raise HistoError(f"{path} has no predictions: it stopped before its first epoch ended")
    return read_predictions(run.predictions)


def positive_of(path: Path, vocab: Sequence[str], given: str | None) -> Positive | None:
    """The positive class of a run folder, or of a table by the names of its classes."""
    if path.is_file():
        return choose_positive(vocab, given)
    record = read_json(RunFolder.open(path).config)
    return recorded_positive(vocab, record if isinstance(record, dict) else {}, given)
