"""`histo predict`: probabilities for patches, streamed to a CSV."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo.config import PREDICT_BATCH
from histo.data.labels import Row, check_id, read_rows
from histo.data.patch_files import PatchIndex, list_patches
from histo.data.store import decode_batches
from histo.distributed import ranks
from histo.distributed.prefetch import prefetch
from histo.errors import HistoError
from histo.files.digests import sha256
from histo.files.writing import check_folders
from histo.model.card import CARD
from histo.run.calls import apply_temperature
from histo.run.predictions import prediction_columns, write_submission
from histo.screen import Screen
from histo.shards.parts import Part, TableFacts, fingerprint, gather, join
from histo.shards.shard import Shard
from histo.shards.table import open_table

Predicted = Iterator[tuple[Sequence[Path], NDArray[np.float32]]]


def find_images(images: Path, folder: Path | None, id_column: str) -> Sequence[Path]:
    """The patches meant: one file, all of a folder, or the names in a CSV."""
    if images.is_dir():
        paths = list_patches(images)
        if not paths:
            raise HistoError(f"{images} holds no TIF, PNG or JPEG")
        return paths
    if images.suffix.lower() != ".csv":
        if not images.exists():
            raise HistoError(f"no image, folder or CSV {images}")
        return [images]
    rows = [Row(name, "", line) for line, (name,) in read_rows(images, [id_column])]
    for row in rows:
        check_id(row.id, f"{images.name}, line {row.line}")
    return PatchIndex(folder or images.parent).locate(rows, images)


def predict(
    bundle: Path,
    paths: Sequence[Path],
    out: Path,
    screen: Screen,
    *,
    submission: Path | None = None,
    tta: bool = False,
    trust_pickle: bool = False,
    device: str = "auto",
    batch_size: int = PREDICT_BATCH,
    raw: bool = False,
    shard: Shard | None = None,
) -> int:
    """Write `id, predicted, p_CLASS…` for each patch to `out`; returns how many.

    Memory does not grow with the number of patches. `submission` also gets Kaggle's `id,label`.
    Probabilities are scaled by the bundle's temperature unless `raw`; the class is the one that the
    bundle's threshold says. `shard` predicts its share alone, into a part for `histo merge`. The
    processes of a launcher take a share each, and the first joins them.
    """
    check_folders(out, submission)
    opened = open_model(bundle, tta, trust_pickle, device, batch_size)
    if submission is not None and len(opened.vocab) != 2:
        raise HistoError(f"--submission needs two classes; this model has {len(opened.vocab)}")
    mine = shard or Shard(ranks.rank() + 1, ranks.world_size())
    part = Part(
        mine.path(out) if shard or mine.of > 1 else out,
        TableFacts(
            command="predict",
            bundle=sha256(bundle if bundle.is_file() else bundle / CARD),
            patches=len(paths),
            names=fingerprint(path.name for path in paths),
            columns=["id", "predicted", *prediction_columns(opened.vocab)],
            batch_size=batch_size,
            tta=tta,
            raw=raw,
            engine=opened.engine,
        ),
        mine,
    )
    write_part(part, opened, paths[part.block], screen)
    if shard is None:
        finish(part, out, submission)
    return part.owed if shard else len(paths)


def write_part(part: Part, opened: Opened, paths: Sequence[Path], screen: Screen) -> None:
    """Write the rows of a part that are not there yet."""
    temperature = 1.0 if part.facts.raw else opened.temperature
    with (
        open_table(part, paths, screen) as table,
        screen.bar("predicting", len(paths)) as advance,
    ):
        advance(table.rows)
        for files, probabilities in opened.predict(paths[table.rows :]):
            called = probabilities.argmax(1)
            if len(opened.vocab) == 2:
                called = (probabilities[:, 1] >= opened.threshold).astype(np.int64)
            scaled = apply_temperature(probabilities, temperature)
            table.add(
                [
                    [file.stem, opened.vocab[c], *(f"{p:.9g}" for p in row)]
                    for file, c, row in zip(files, called, scaled, strict=True)
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
        parts = gather(part.shard.paths(out))
        join(parts, out)
        for one in parts:
            one.remove()
    if submission is not None:
        write_submission(out, submission)


@dataclass(frozen=True)
class Opened:
    """A model at work: its classes, its predictions batch by batch, and how to read them."""

    vocab: list[str]
    predict: Callable[[Sequence[Path]], Predicted]
    """its predictions for files, batch by batch"""
    engine: str
    """what computes them"""
    temperature: float = 1.0
    threshold: float = 0.5


def open_model(bundle: Path, tta: bool, trust_pickle: bool, device: str, batch_size: int) -> Opened:
    """A bundle, or a trusted pickle."""
    if bundle.suffix == ".pkl":
        return _open_pickle(bundle, tta, trust_pickle, device, batch_size)

    from histo.model.predictor import open_bundle

    card, model = open_bundle(bundle, device)

    def predict_files(paths: Sequence[Path]) -> Predicted:
        parts = decode_batches(paths, card.crop, card.size, card.patch_size, batch_size)
        return prefetch(lambda part: (part[0], model.predict(part[1], tta)), parts)

    return Opened(card.vocab, predict_files, model.engine, card.temperature, card.threshold)


def _open_pickle(path: Path, tta: bool, trust: bool, device: str, batch_size: int) -> Opened:
    if not trust:
        raise HistoError(
            f"{path} is a pickle, and loading one runs whatever code it holds: give the bundle's "
            "folder instead, or --trust-pickle if you made the file yourself"
        )
    if tta:
        raise HistoError("--tta needs a bundle, not a pickle")
    if ranks.world_size() > 1:  # fastai would gather by itself, over processes that have not met
        raise HistoError("several processes need a bundle, not a pickle")

    from histo.model.bundle import open_pickle
    from histo.model.learner import resolve_device

    found = resolve_device(device)
    vocab, predict_list = open_pickle(path, found)

    def predict_files(paths: Sequence[Path]) -> Predicted:
        parts = (paths[i : i + batch_size] for i in range(0, len(paths), batch_size))
        return ((part, predict_list(list(part))) for part in parts)

    return Opened(vocab, predict_files, f"fastai, {found.type}")
