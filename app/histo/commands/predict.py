"""`histo predict`: probabilities for patches, streamed to a CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histo.config import PREDICT_BATCH, check_setting
from histo.data.labels import Row, check_id, read_rows
from histo.data.patch_files import PatchIndex, list_patches
from histo.distributed import ranks
from histo.distributed.prefetch import prefetch
from histo.errors import HistoError
from histo.files.digests import sha256
from histo.files.writing import check_folders
from histo.run.predictions import prediction_columns, write_submission
from histo.screen import Progress, Screen, counted, screen_of
from histo.shards.parts import Part, TableFacts, fingerprint, join, open_parts, part_line
from histo.shards.shard import Shard
from histo.shards.table import open_table

if TYPE_CHECKING:
    import pandas as pd

    from histo.model.predictor import Calls

Predicted = Iterator[tuple[Sequence[Path], "Calls"]]


def predict(
    bundle: str | Path,
    patches: str | Path,
    *,
    out: str | Path = "predictions.csv",
    submission: str | Path | None = None,
    images: str | Path | None = None,
    id_column: str = "id",
    tta: bool = False,
    trust_pickle: bool = False,
    raw: bool = False,
    device: str = "auto",
    batch_size: int = PREDICT_BATCH,
    progress: Progress = False,
) -> pd.DataFrame:
    """Predict a patch, a folder of them, or the names in a CSV; returns the table.

    The table `id, predicted, p_CLASS…` is also written to `out`, batch by batch: killed, the same
    call goes on with it. `submission` also gets Kaggle's `id,label`; `images` is where a CSV's
    patches are; `tta` averages the eight D4 views; `raw` leaves the temperature out. Raises
    HistoError.
    """
    import pandas as pd

    predict_to(
        Path(bundle),
        Path(patches),
        Path(out),
        screen_of(progress),
        submission=Path(submission) if submission else None,
        images=Path(images) if images else None,
        id_column=id_column,
        tta=tta,
        trust_pickle=trust_pickle,
        raw=raw,
        device=device,
        batch_size=batch_size,
    )
    return pd.read_csv(out, dtype={"id": str, "predicted": str}, keep_default_na=False)


def predict_to(
    bundle: Path,
    patches: Path,
    out: Path,
    screen: Screen,
    *,
    images: Path | None = None,
    id_column: str = "id",
    shard: Shard | None = None,
    **how: Any,
) -> None:
    """`predict`, without reading the table again; `shard` makes a part of it for `histo merge`."""
    paths = find_patches(patches, images, id_column)
    count = write_predictions_table(bundle, paths, out, screen, shard=shard, **how)
    if shard:
        screen.say(part_line(shard, out, count))
    else:
        screen.say(f"predictions: {out} ({counted(count, 'patch')})")


def find_patches(patches: Path, images: Path | None, id_column: str) -> Sequence[Path]:
    """The files meant: one, all of a folder, or the names in a CSV."""
    if patches.is_dir():
        paths = list_patches(patches)
        if not paths:
            raise HistoError(f"{patches} holds no TIF, PNG or JPEG")
        return paths
    if patches.suffix.lower() != ".csv":
        if not patches.exists():
            raise HistoError(f"no image, folder or CSV {patches}")
        return [patches]
    rows = [Row(name, "", line) for line, (name,) in read_rows(patches, [id_column])]
    for row in rows:
        check_id(row.id, f"{patches.name}, line {row.line}")
    return PatchIndex(images or patches.parent).locate(rows, patches)


def write_predictions_table(
    bundle: Path,
    paths: Sequence[Path],
    out: Path,
    screen: Screen,
    *,
    submission: Path | None = None,
    tta: bool = False,
    trust_pickle: bool = False,
    raw: bool = False,
    device: str = "auto",
    batch_size: int = PREDICT_BATCH,
    shard: Shard | None = None,
) -> int:
    """Write `id, predicted, p_CLASS…` for each patch to `out`; returns how many.

    Memory does not grow with the number of patches. `shard` predicts its share alone, into a part
    for `histo merge`. The processes of a launcher take a share each, and the first joins them.
    """
    check_folders(out, submission)
    check_setting("batch_size", batch_size)
    opened = open_model(bundle, trust_pickle, device, batch_size, tta, raw)
    if submission is not None and len(opened.vocab) != 2:
        raise HistoError(f"a submission needs two classes; this model has {len(opened.vocab)}")
    mine = shard or Shard(ranks.rank() + 1, ranks.world_size())
    facts = TableFacts(
        command="predict",
        bundle=opened.fingerprint,
        patches=len(paths),
        names=fingerprint(path.name for path in paths),
        columns=["id", "predicted", *prediction_columns(opened.vocab)],
        batch_size=batch_size,
        tta=tta,
        raw=raw,
        engine=opened.engine,
    )
    part = Part(mine.path(out) if shard or mine.of > 1 else out, facts, mine)
    write_part(part, opened, paths[part.block], screen)
    if shard is None:
        finish(part, out, submission)
    return part.expected if shard else len(paths)


def write_part(part: Part, opened: Opened, paths: Sequence[Path], screen: Screen) -> None:
    """Write the rows of a part that are not there yet."""
    with (
        open_table(part, paths, screen) as table,
        screen.bar("predicting", len(paths)) as advance,
    ):
        advance(table.rows)
        for files, calls in opened.predict(paths[table.rows :]):
            called = [opened.vocab[code] for code in calls.called.tolist()]
            table.add(
                [
                    [file.stem, name, *(f"{p:.9g}" for p in row)]
                    for file, name, row in zip(files, called, calls.probabilities, strict=True)
                ]
            )
            advance(len(files))


def finish(part: Part, out: Path, submission: Path | None) -> None:
    """Make the parts of all processes, when they are there, the table."""
    ranks.barrier()
    if ranks.rank() > 0:
        return
    if part.shard.of == 1:
        part.json.unlink()
    else:
        parts = open_parts(part.shard.paths(out))
        join(parts, out)
        for one in parts:
            one.remove()
    if submission is not None:
        write_submission(out, submission)


@dataclass(frozen=True)
class Opened:
    """A model at work on files: its classes, its engine, its predictions batch by batch."""

    vocab: list[str]
    engine: str
    fingerprint: str
    """of the bundle or the pickle"""
    predict: Callable[[Sequence[Path]], Predicted]


def open_model(
    bundle: Path, trust_pickle: bool, device: str, batch_size: int, tta: bool, raw: bool
) -> Opened:
    """A bundle, or a trusted pickle."""
    if bundle.suffix == ".pkl":
        return open_pickle(bundle, trust_pickle, device, batch_size, tta)

    from histo.data.decode_ahead import decode_batches
    from histo.model.predictor import open_bundle

    predictor = open_bundle(bundle, device)

    def predict_files(paths: Sequence[Path]) -> Predicted:
        batches = decode_batches(paths, predictor.fit, batch_size)
        return prefetch(lambda part: (part[0], predictor.predict(part[1], tta, raw)), batches)

    name, vocab = predictor.engine.name, predictor.vocab
    return Opened(vocab, name, predictor.files.fingerprint(), predict_files)


def open_pickle(path: Path, trusted: bool, device: str, batch_size: int, tta: bool) -> Opened:
    """fastai's own learner, where the user trusts it."""
    if not trusted:
        raise HistoError(
            f"{path} is a pickle, and loading one runs whatever code it holds",
            "give the bundle's folder instead",
            "{trust_pickle} if you made the file yourself",
        )
    if tta:
        raise HistoError("averaging views needs a bundle, not a pickle", "leave {tta} out")
    if (
        ranks.world_size() > 1
    ):  # fastai would open_parts by itself, over processes that have not met
        raise HistoError("several processes need a bundle, not a pickle")

    from histo.model.pickled import PickledLearner

    learner = PickledLearner.open(path, device)

    def predict_files(paths: Sequence[Path]) -> Predicted:
        parts = (paths[i : i + batch_size] for i in range(0, len(paths), batch_size))
        return ((part, learner.predict(part)) for part in parts)

    return Opened(learner.vocab, learner.engine_name, sha256(path), predict_files)
