"""`histo predict`: probabilities for patches, streamed to a CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histo.commands.opened_model import Opened, Settings, open_model
from histo.config import PREDICT_BATCH, check_setting
from histo.data.decode_ahead import DecodedBatch
from histo.data.ids import SUFFIXES
from histo.data.inputs import Inputs, find_inputs
from histo.distributed import ranks
from histo.errors import HistoError
from histo.files.outputs import check_outputs
from histo.run.positive import Positive
from histo.run.predictions import (
    ENGINE,
    move_skipped,
    prediction_columns,
    skipped_path,
    skipped_row,
    table_outputs,
    working_files,
    write_submission,
)
from histo.screen import Progress, Screen, counted, screen_of
from histo.shards.parts import Part, TableFacts, fingerprint, join, open_parts, part_line
from histo.shards.shard import Shard
from histo.shards.table import open_table
from histo.slides.slide_files import refuse_slides

if TYPE_CHECKING:
    import pandas as pd

    from histo.model.engines import Judged
    from histo.model.predictor import Calls


def predict(
    bundle: str | Path,
    patches: str | Path | Sequence[str | Path],
    *,
    out: str | Path = "predictions.csv",
    submission: str | Path | None = None,
    images: str | Path | None = None,
    id_column: str = "id",
    tta: bool = False,
    trust_pickle: bool = False,
    raw: bool = False,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = PREDICT_BATCH,
    positive: str | None = None,
    skip_bad: bool = False,
    force: bool = False,
    progress: Progress = False,
) -> pd.DataFrame:
    """Predict patches, folders of them, or the names in a CSV, one or several; returns the table.

    The table `id, predicted, p_CLASS…` is also written to `out`, batch by batch: killed, the same
    call goes on with it. `submission` also gets Kaggle's `id,label`; `images` is where a CSV's
    patches are; `tta` averages the eight D4 views; `raw` leaves the temperature out;
    `precision` is fp32, bf16, int8, or the fastest that the bundle vouches for; `positive` is the
    class that a submission is about, where the bundle does not say; `skip_bad` leaves patches out
    that cannot be read or have another size, and lists them in `OUT.skipped.csv`. `force` writes over files that histo did not write, never over an
    input. Raises HistoError.
    """
    import pandas as pd

    predict_to(
        Path(bundle),
        [Path(one) for one in ([patches] if isinstance(patches, str | Path) else patches)],
        Path(out),
        screen_of(progress),
        submission=Path(submission) if submission else None,
        images=Path(images) if images else None,
        id_column=id_column,
        tta=tta,
        trust_pickle=trust_pickle,
        raw=raw,
        device=device,
        precision=precision,
        batch_size=batch_size,
        positive=positive,
        skip_bad=skip_bad,
        force=force,
    )
    ranks.barrier()  # the first process of a launch joins the parts of all
    return pd.read_csv(out, dtype={"id": str, "predicted": str}, keep_default_na=False)


def predict_to(
    bundle: Path,
    patches: Sequence[Path],
    out: Path,
    screen: Screen,
    *,
    images: Path | None = None,
    id_column: str = "id",
    shard: Shard | None = None,
    submission: Path | None = None,
    force: bool = False,
    **how: Any,
) -> int:
    """`predict`, without reading the table again; returns how many patches were left out.

    `shard` makes a part of the table for `histo merge`.
    """
    folders = {one: SUFFIXES for one in (*patches, images) if one is not None}
    mine = shard or (
        Shard(ranks.rank() + 1, ranks.world_size()) if ranks.world_size() > 1 else None
    )
    beside = working_files(mine.path(out) if mine else out, out)
    outputs = (*table_outputs(out, submission), *beside)
    check_outputs(outputs, patches, force, {**folders, bundle: ()})
    refuse_slides(patches, bundle)
    inputs = find_inputs(patches, images, id_column, screen)
    count = write_predictions_table(
        bundle, inputs, out, screen, submission=submission, shard=shard, **how
    )
    if shard:
        screen.say(part_line(shard, out, count))
        return 0
    left_out = len(inputs) - count
    screen.say(f"predictions: {out} ({counted(count, 'patch')})")
    if left_out:
        screen.say(f"left out: {skipped_path(out)} ({counted(left_out, 'patch')})")
    return left_out


def write_predictions_table(
    bundle: Path,
    inputs: Inputs,
    out: Path,
    screen: Screen,
    *,
    submission: Path | None = None,
    tta: bool = False,
    trust_pickle: bool = False,
    raw: bool = False,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = PREDICT_BATCH,
    positive: str | None = None,
    skip_bad: bool = False,
    shard: Shard | None = None,
) -> int:
    """Write `id, predicted, p_CLASS…` for each patch to `out`; returns for how many.

    Memory does not grow with the number of patches. `shard` predicts its share alone, into a part
    for `histo merge`. The processes of a launcher take a share each, and the first joins them.
    """
    check_setting("batch_size", batch_size)
    opened = open_model(
        bundle, Settings(trust_pickle, device, batch_size, tta, raw, skip_bad, precision)
    )
    if len(inputs) and (note := opened.apart(inputs.paths[0])):
        screen.say(note)
    batch_size = opened.batch_size
    say_engine(opened.judged, opened.passed_over, screen)
    known = opened.positive(positive)
    if submission is not None:
        check_submission(known, len(opened.vocab), screen)
    if opened.threshold != 0.5 and known:
        screen.say(f"'{known.name}' is called at or above {opened.threshold:.4f}{opened.scale}")
    mine = shard or Shard(ranks.rank() + 1, ranks.world_size())
    facts = TableFacts(
        command="predict",
        bundle=opened.fingerprint,
        patches=len(inputs),
        names=fingerprint(inputs.ids),
        columns=[
            *("id", "predicted", *prediction_columns(opened.vocab)),
            *([ENGINE] if opened.reduced else []),
        ],
        batch_size=batch_size,
        tta=tta,
        raw=raw,
        engine=opened.engine,
        skip_bad=skip_bad,
    )
    settings = {"positive": known.as_entry()} if known else {}
    part = Part(mine.path(out) if shard or mine.of > 1 else out, facts, mine, settings)
    write_part(part, opened, inputs, screen)
    if shard is not None:
        return part.expected
    return len(inputs) - finish(part, out, submission, known.index if known else 1)


def write_part(part: Part, opened: Opened, inputs: Inputs, screen: Screen) -> None:
    """Write the rows of a part that are not there yet."""
    paths, ids = inputs.paths[part.block], inputs.ids[part.block]
    with (
        open_table(part, paths, screen) as table,
        screen.bar("predicting", len(paths), table.rows) as advance,
    ):
        for batch, calls in opened.predict(paths[table.rows :]):
            mine = ids[table.rows : table.rows + len(batch.paths)]
            table.add(rows_of(batch, mine, calls, opened.vocab, opened.reduced))
            advance(len(batch.paths))


def say_engine(judged: Judged | None, passed_over: str, screen: Screen) -> None:
    """Say which engine predicts, where it is not the exact one, and why a faster one does not."""
    if passed_over:
        screen.say(f"note: {passed_over}")
    if judged:
        screen.say(f"{judged}: {judged.cost()}, by the bundle's card", "{precision} fp32 is exact")


def check_submission(positive: Positive | None, classes: int, screen: Screen) -> None:
    """HistoError where the positive class, whose probability Kaggle gets, is none or not known."""
    if positive is None:
        raise HistoError(f"a submission needs two classes; this model has {classes}")
    positive.needed_for("a submission")
    screen.say(f"the submission has the probability of {positive}", *positive.ways)


def rows_of(
    batch: DecodedBatch, ids: Sequence[str], calls: Calls | None, vocab: list[str], engine: str = ""
) -> list[list[str]]:
    """The table's rows of a batch; those of patches that cannot be used hold the reason.

    `engine` is said in each row, where it is not the exact one.
    """
    last = [engine] if engine else []
    places, rows = batch.places(), []
    for place, name in enumerate(ids):
        if calls is None or place in batch.bad:
            rows.append(skipped_row(name, batch.bad[place], 2 + len(vocab) + len(last)))
        else:
            n = places[place]
            values = (f"{p:.9g}" for p in calls.probabilities[n])
            rows.append([name, vocab[int(calls.called[n])], *values, *last])
    return rows


def finish(part: Part, out: Path, submission: Path | None, positive: int) -> int:
    """Make the parts of all processes, when they are there, the table; returns how many are left out."""
    ranks.barrier()
    if ranks.rank() > 0:
        return 0
    left_out = 0
    if part.shard.of == 1:
        left_out = move_skipped(out) if part.facts.skip_bad else 0
        part.json.unlink()
    else:
        parts = open_parts(part.shard.paths(out))
        join(parts, out)
        left_out = move_skipped(out) if part.facts.skip_bad else 0
        for one in parts:
            one.remove()
    if submission is not None:
        write_submission(out, submission, positive)
    return left_out
