"""`histo predict`: probabilities for patches, streamed to a CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo.data.labels import PatchIndex, check_id, list_patches, read_rows
from histo.data.patches import Pixels, check_size
from histo.data.store import decode_all
from histo.errors import HistoError
from histo.run import prediction_columns, written
from histo.screen import Screen

Predicted = Iterator[tuple[list[Path], NDArray[np.float32]]]


def find_images(images: Path, folder: Path | None, id_column: str) -> list[Path]:
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
    index = PatchIndex(folder or images.parent)
    paths = []
    for line, (name,) in read_rows(images, [id_column]):
        check_id(name, f"{images.name}, line {line}")
        found = index.find(name)
        if found is None:
            raise HistoError(
                f"{images.name}, line {line}: no patch {name} in {index.folder} "
                "(give --images for the folder)"
            )
        paths.append(found)
    return paths


def predict(
    bundle: Path,
    paths: list[Path],
    out: Path,
    screen: Screen,
    *,
    submission: Path | None = None,
    tta: bool = False,
    trust_pickle: bool = False,
    device: str = "auto",
    batch_size: int = 256,
) -> int:
    """Write `id, predicted, p_CLASS…` for each patch to `out`; returns how many.

    Memory does not grow with the number of patches. `submission` also gets Kaggle's `id,label`.
    """
    vocab, batches = open_model(bundle, paths, tta, trust_pickle, device, batch_size)
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
        for files, probabilities in batches:
            for file, row in zip(files, probabilities, strict=True):
                table.writerow([file.stem, vocab[row.argmax()], *(f"{p:.9g}" for p in row)])
                if kaggle is not None:
                    kaggle.writerow([file.stem, f"{row[1]:.9g}"])
            advance(len(files))
    return len(paths)


def open_model(
    bundle: Path, paths: list[Path], tta: bool, trust_pickle: bool, device: str, batch_size: int
) -> tuple[list[str], Predicted]:
    """The vocab of a model, and its predictions batch by batch."""
    pickled = bundle.suffix == ".pkl"
    if pickled and not trust_pickle:
        raise HistoError(
            f"{bundle} is a pickle, and loading one runs whatever code it holds: give the bundle's "
            "folder instead, or --trust-pickle if you made the file yourself"
        )

    from histo.model.learner import resolve_device

    where = resolve_device(device)
    if pickled:
        if tta:
            raise HistoError("--tta needs a bundle, not a pickle")
        from histo.model.bundle import open_pickle

        vocab, predict_files = open_pickle(bundle, where)
        parts = (paths[i : i + batch_size] for i in range(0, len(paths), batch_size))
        return vocab, ((part, predict_files(part)) for part in parts)

    from histo.model.bundle import Bundle

    model = Bundle.open(bundle, where)
    card = model.card
    decoded = (pixels for pixels, _ in decode_all(paths, card.crop, card.size))
    return card.vocab, _batches(
        paths, decoded, lambda batch: model.predict(batch, tta), card.patch_size, batch_size
    )


def _batches(
    paths: Iterable[Path],
    decoded: Iterable[Pixels],
    run: Callable[[Pixels], NDArray[np.float32]],
    side: int,
    batch_size: int,
) -> Predicted:
    pairs = zip(paths, decoded, strict=True)
    while part := list(islice(pairs, batch_size)):
        for path, pixels in part:
            check_size(pixels, side, path)
        yield [path for path, _ in part], run(np.stack([pixels for _, pixels in part]))
