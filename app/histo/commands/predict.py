"""`histo predict`: probabilities for patches, streamed to a CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histo.config import PREDICT_BATCH, ModelCard, check_setting
from histo.data.decode import read_patch
from histo.data.decode_ahead import DecodedBatch, decode_batches, fitting_batch
from histo.data.ids import SUFFIXES
from histo.data.inputs import Inputs, find_inputs
from histo.data.pixel_size import mpp_apart_near
from histo.distributed import ranks
from histo.distributed.prefetch import prefetch
from histo.errors import HistoError
from histo.files.digests import sha256
from histo.files.outputs import check_outputs
from histo.run.positive import Positive, bundle_positive, choose_positive
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

Predicted = Iterator[tuple[DecodedBatch, "Calls | None"]]
"""Batches of files, and the calls of those that can be used; None where none can."""


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


@dataclass(frozen=True)
class Settings:
    """How a model is opened and asked."""

    trust_pickle: bool = False
    device: str = "auto"
    batch_size: int = PREDICT_BATCH
    tta: bool = False
    raw: bool = False
    skip_bad: bool = False
    precision: str = "auto"


@dataclass(frozen=True)
class Opened:
    """A model at work on files: its classes, its engine, its predictions batch by batch."""

    vocab: list[str]
    engine: str
    fingerprint: str
    """of the bundle or the pickle"""
    predict: Callable[[Sequence[Path]], Predicted]
    batch_size: int
    """fewer than were asked for where the patches are very large"""
    positive: Callable[[str | None], Positive | None]
    """the positive class of two, where this one is given"""
    threshold: float = 0.5
    scale: str = ""
    """of the threshold, where it is another than that of the table"""
    judged: Judged | None = None
    """what the card says of the engine, where it is not the exact one"""
    passed_over: str = ""
    """why the fastest engine of the card is not used, where it is not"""
    reduced: str = ""
    """what the table says of such an engine"""
    apart: Callable[[Path], str] = lambda _: ""
    """a note where a patch is known to have another µm per px than the model's"""


def open_model(bundle: Path, how: Settings) -> Opened:
    """A bundle, or a trusted pickle."""
    if bundle.suffix == ".pkl":
        return open_pickle(bundle, how)

    from histo.model.predictor import open_bundle

    predictor = open_bundle(bundle, how.device, how.precision)

    def predict_batch(batch: DecodedBatch) -> tuple[DecodedBatch, Calls | None]:
        if not batch.sha1:
            return batch, None
        return batch, predictor.predict(batch.pixels, how.tta, how.raw)

    count = fitting_batch(how.batch_size, predictor.card.patch_size)

    def predict_files(paths: Sequence[Path]) -> Predicted:
        return prefetch(predict_batch, decode_batches(paths, predictor.fit, count, how.skip_bad))

    name, card = predictor.engine.name, predictor.card
    known = partial(bundle_positive, card.vocab, card.positive, card.format == 1)
    on_table = card.temperature == 1 or how.raw == (card.format == 1)
    scale = "" if on_table else f" {'with' if how.raw else 'before'} the temperature"
    files = predictor.files.fingerprint()
    return Opened(
        card.vocab,
        name,
        files,
        predict_files,
        count,
        known,
        card.threshold,
        scale,
        predictor.judged,
        predictor.passed_over,
        predictor.reduced,
        partial(note_of_mpp, card),
    )


def note_of_mpp(card: ModelCard, patch: Path) -> str:
    """A note where a patch that was cut or imported has another µm per px than the model's."""
    if card.mpp is None:
        return ""
    try:
        side = card.crop or int(read_patch(patch).shape[0])
    except HistoError:  # a damaged patch is named when it is predicted
        return ""
    return mpp_apart_near(patch, side, card.size, card.mpp)


def open_pickle(path: Path, how: Settings) -> Opened:
    """fastai's own learner, where the user trusts it."""
    if not how.trust_pickle:
        raise HistoError(
            f"{path} is a pickle, and loading one runs whatever code it holds",
            "give the bundle's folder instead",
            "{trust_pickle} if you made the file yourself",
        )
    if how.tta:
        raise HistoError("averaging views needs a bundle, not a pickle", "leave {tta} out")
    if how.raw:
        raise HistoError("the temperature is in the pickle's last layer", "leave {raw} out")
    if how.skip_bad:
        raise HistoError("leaving patches out needs a bundle, not a pickle", "leave {skip_bad} out")
    if ranks.world_size() > 1:  # fastai's get_preds would gather over processes by itself
        raise HistoError("several processes need a bundle, not a pickle")

    from histo.model.pickled import PickledLearner

    learner = PickledLearner.open(path, how.device)

    def predict_files(paths: Sequence[Path]) -> Predicted:
        nothing = np.empty((0, 0, 0, 3), np.uint8)  # fastai reads the files itself
        for i in range(0, len(paths), how.batch_size):
            part = paths[i : i + how.batch_size]
            yield DecodedBatch(list(part), nothing, [], {}), learner.predict(part)

    known, count = partial(choose_positive, learner.vocab), how.batch_size
    return Opened(learner.vocab, learner.engine_name, sha256(path), predict_files, count, known)
