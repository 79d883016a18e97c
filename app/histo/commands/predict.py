"""`histo predict`: probabilities for patches, streamed to a CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo.ahead import map_ahead
from histo.data.labels import PatchIndex, Row, check_id, list_patches, read_rows
from histo.data.store import decode_batches
from histo.errors import HistoError
from histo.run import prediction_columns, written
from histo.screen import Screen
from histo.temperature import apply_temperature

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
    batch_size: int = 256,
    raw: bool = False,
) -> int:
    """Write `id, predicted, p_CLASS…` for each patch to `out`; returns how many.

    Memory does not grow with the number of patches. `submission` also gets Kaggle's `id,label`.
    Probabilities are scaled by the bundle's temperature unless `raw`; the class is the one that the
    bundle's threshold says.
    """
    opened = open_model(bundle, paths, tta, trust_pickle, device, batch_size)
    vocab, temperature = opened.vocab, 1.0 if raw else opened.temperature
    if submission is not None and len(vocab) != 2:
        raise HistoError(f"--submission needs two classes; this model has {len(vocab)}")
    with ExitStack() as stack:
        table = csv.writer(stack.enter_context(written(out, "w")), lineterminator="\n")
        table.writerow(["id", "predicted", *prediction_columns(vocab)])
        kaggle = None
        if submission is not None:
            kaggle = csv.writer(stack.enter_context(written(submission, "w")), lineterminator="\n")
            kaggle.writerow(["id", "label"])
        advance = stack.enter_context(screen.bar("predicting", len(paths)))
        for files, probabilities in opened.batches:
            called = probabilities.argmax(1)
            if len(vocab) == 2:
                called = (probabilities[:, 1] >= opened.threshold).astype(np.int64)
            scaled = apply_temperature(probabilities, temperature)
            for file, c, row in zip(files, called, scaled, strict=True):
                table.writerow([file.stem, vocab[c], *(f"{p:.9g}" for p in row)])
                if kaggle is not None:
                    kaggle.writerow([file.stem, f"{row[1]:.9g}"])
            advance(len(files))
    return len(paths)


@dataclass(frozen=True)
class Opened:
    """A model at work: its classes, its predictions batch by batch, and how to read them."""

    vocab: list[str]
    batches: Predicted
    temperature: float = 1.0
    threshold: float = 0.5


def open_model(
    bundle: Path, paths: Sequence[Path], tta: bool, trust_pickle: bool, device: str, batch_size: int
) -> Opened:
    """A bundle, or a trusted pickle, at work on the patches of `paths`."""
    if bundle.suffix == ".pkl":
        return _open_pickle(bundle, paths, tta, trust_pickle, device, batch_size)

    from histo.model.opened import open_bundle

    card, model = open_bundle(bundle, device)
    parts = decode_batches(paths, card.crop, card.size, card.patch_size, batch_size)
    batches = map_ahead(lambda part: (part[0], model.predict(part[1], tta)), parts)
    return Opened(card.vocab, batches, card.temperature, card.threshold)


def _open_pickle(
    path: Path, paths: Sequence[Path], tta: bool, trust: bool, device: str, batch_size: int
) -> Opened:
    if not trust:
        raise HistoError(
            f"{path} is a pickle, and loading one runs whatever code it holds: give the bundle's "
            "folder instead, or --trust-pickle if you made the file yourself"
        )
    if tta:
        raise HistoError("--tta needs a bundle, not a pickle")

    from histo.model.bundle import open_pickle
    from histo.model.learner import resolve_device

    vocab, predict_files = open_pickle(path, resolve_device(device))
    parts = (paths[i : i + batch_size] for i in range(0, len(paths), batch_size))
    return Opened(vocab, ((part, predict_files(list(part))) for part in parts))
