"""`histo merge`: the parts of `predict` or `evaluate` in shares become one table, or one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histo.commands.evaluate import write_run
from histo.commands.runs import Run
from histo.errors import HistoError
from histo.files.writing import check_folders
from histo.run.predictions import move_skipped, write_submission
from histo.screen import Progress, counted, screen_of
from histo.shards.parts import Part, join, open_parts
from histo.shards.shard import whole_path


def merge(
    parts: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    submission: str | Path | None = None,
    progress: Progress = False,
) -> Path | Run:
    """Join the parts of a prediction, files or a folder of them, once all are there.

    Returns the path of the table, or the run of an evaluation. The files equal those that one
    process would have written. `submission` also gets Kaggle's `id,label`. Raises HistoError.
    """
    given = [parts] if isinstance(parts, str | Path) else parts
    found = open_parts([Path(one) for one in given])
    place = Path(out) if out else None
    if found[0].facts.command == "predict":
        table = join_table(found, place, Path(submission) if submission else None)
        rows = counted(found[0].facts.patches, "patch")
        screen_of(progress).say(f"predictions: {table} ({rows})")
        return table
    if submission:
        raise HistoError("an evaluation has no submission", "leave {submission} out")
    whole = whole_path(found[0].path).with_suffix("")
    return Run(write_run(found, place or whole).path)


def join_table(parts: Sequence[Part], out: Path | None, submission: Path | None) -> Path:
    """The table of all parts of a prediction."""
    out = out or whole_path(parts[0].path)
    check_folders(out, submission)
    if submission is not None and len(parts[0].facts.columns) != 4:
        raise HistoError("a submission needs two classes; these parts have another number")
    join(parts, out)
    if parts[0].facts.skip_bad:
        move_skipped(out)
    if submission is not None:
        write_submission(out, submission)
    return out
