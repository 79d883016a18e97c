"""Read the predictions table of a run folder or of a file, for several commands."""

from __future__ import annotations

from pathlib import Path

from histo.errors import HistoError
from histo.run.folder import RunFolder
from histo.run.predictions import Predictions, read_predictions


def read_table(path: Path) -> Predictions:
    """The predictions of a run folder, or a table itself."""
    if path.is_file():
        return read_predictions(path)
    run = RunFolder.open(path)
    if not run.predictions.is_file():
        raise HistoError(f"{path} has no predictions: it stopped before its first epoch ended")
    return read_predictions(run.predictions)
