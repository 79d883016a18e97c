"""`histo merge`: the parts of `predict --shard` or `evaluate --shard` become one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histo.errors import HistoError
from histo.files.writing import check_folders
from histo.run.predictions import write_submission
from histo.shards.parts import Part, join
from histo.shards.shard import whole_path


def merge(parts: Sequence[Part], out: Path | None, submission: Path | None) -> Path:
    """Join parts that `gather` found to be all of one table; returns where it is.

    The bytes are those that one process would have written. `submission` also gets Kaggle's
    `id,label`.
    """
    out = out or whole_path(parts[0].path)
    check_folders(out, submission)
    if submission is not None and len(parts[0].facts.columns) != 4:
        raise HistoError("--submission needs two classes; these parts have another number")
    join(parts, out)
    if submission is not None:
        write_submission(out, submission)
    return out
