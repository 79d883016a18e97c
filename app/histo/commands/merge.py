"""`histo merge`: the parts of `predict`, `evaluate` or `map` in shares become one table or run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histo.commands.evaluated_run import write_run, written_before
from histo.commands.predict import check_submission
from histo.commands.runs import Run
from histo.errors import HistoError
from histo.files.outputs import check_outputs
from histo.run.positive import Positive, recorded_positive
from histo.run.predictions import PROBABILITY, move_skipped, table_outputs, write_submission
from histo.screen import Progress, Screen, counted, screen_of
from histo.shards.parts import Part, join, open_parts
from histo.shards.shard import whole_path
from histo.slides.maps_folder import MAPS_JSON
from histo.slides.summary import SLIDES_CSV


def merge(
    parts: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    submission: str | Path | None = None,
    positive: str | None = None,
    force: bool = False,
    progress: Progress = False,
) -> Path | Run:
    """Join the parts of a prediction, files or a folder of them, once all are there.

    Returns the path of the table, or the run of an evaluation; for a folder of maps that of its
    slides.csv. The files equal those that one process would have written. `submission` also gets
    Kaggle's `id,label`, of the class `positive` if the parts do not say; `force` writes over files
    that histo did not write. Raises HistoError.
    """
    given = [Path(one) for one in ([parts] if isinstance(parts, str | Path) else parts)]
    if any((one / MAPS_JSON).is_file() for one in given):
        return merge_maps(given, out or submission, screen_of(progress))
    found = open_parts(given)
    place = Path(out) if out else None
    if found[0].facts.command == "predict":
        screen, known = screen_of(progress), positive_of_part(found[0], positive)
        kaggle = Path(submission) if submission else None
        if kaggle:
            check_submission(known, len(vocab_of(found[0])), screen)
        table = join_table(found, place, kaggle, known.index if known else 1, force)
        rows = counted(found[0].facts.patches, "patch")
        screen.say(f"predictions: {table} ({rows})")
        return table
    if submission:
        raise HistoError("an evaluation has no submission", "leave {submission} out")
    whole = whole_path(found[0].path).with_suffix("")
    cut = written_before(found, place or whole)  # killed before its report was whole
    run = cut if cut and not (cut.report / "report.html").is_file() else None
    return Run((run or write_run(found, place or whole)).path)


def vocab_of(part: Part) -> list[str]:
    """The classes of a prediction, by its columns."""
    names = [name for name in part.facts.columns[2:] if name.startswith(PROBABILITY)]
    return [name.removeprefix(PROBABILITY) for name in names]


def positive_of_part(part: Part, given: str | None) -> Positive | None:
    """The positive class as the prediction took it; parts of histo before 0.2 do not say."""
    return recorded_positive(vocab_of(part), part.settings, given)


def merge_maps(given: Sequence[Path], other: str | Path | None, screen: Screen) -> Path:
    """Write slides.csv and the index of a folder of maps; returns the path of slides.csv."""
    from histo.commands.map_pages import finish

    if len(given) > 1:
        raise HistoError(
            f"{given[0]} is a folder of maps, whose shares are in one folder: give it alone"
        )
    if other is not None:
        raise HistoError("maps stay in their folder", "leave {out} and {submission} out")
    finish(given[0], screen)
    return given[0] / SLIDES_CSV


def join_table(
    parts: Sequence[Part],
    out: Path | None,
    submission: Path | None,
    positive: int,
    force: bool = False,
) -> Path:
    """The table of all parts of a prediction."""
    out = out or whole_path(parts[0].path)
    read = [path for part in parts for path in (part.path, part.json)]
    check_outputs(table_outputs(out, submission), read, force)
    join(parts, out)
    if parts[0].facts.skip_bad:
        move_skipped(out)
    if submission is not None:
        write_submission(out, submission, positive)
    return out
