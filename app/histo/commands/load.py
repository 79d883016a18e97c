"""`histo.load`: predict with a bundle in Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histo.config import PREDICT_BATCH, ModelCard, check_setting
from histo.data.decode import read_patch
from histo.data.decode_ahead import fitting_batch
from histo.data.inputs import plain_ids
from histo.data.patch_files import PatchFiles, list_patches
from histo.errors import HistoError
from histo.model.predictor import Predictor, open_bundle
from histo.run.predictions import ENGINE, prediction_columns

if TYPE_CHECKING:
    import pandas as pd

Pixels = NDArray[np.uint8]


class Model:
    """A loaded bundle: `predict` takes files, folders and arrays. On a CPU it needs no torch."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @property
    def card(self) -> ModelCard:
        """The facts of the model: classes, patch size, temperature, threshold."""
        return self.predictor.card

    @property
    def vocab(self) -> list[str]:
        """The classes, in the order of the probabilities."""
        return self.predictor.vocab

    def predict(
        self, patches: Any, *, tta: bool = False, raw: bool = False, batch_size: int = PREDICT_BATCH
    ) -> pd.DataFrame:
        """The table `id, predicted, p_CLASS…`, as `histo predict` writes it, a row a patch.

        `patches` is a file, a folder, an image uint8 [H, W, 3], RGB, a batch of them uint8
        [N, H, W, 3], or a list of any of these. The id of a file is its name without suffix, or
        its path in the folder; that of an array its place in the list (3, or 3-0 of a batch or
        list at place 3). Raises HistoError, naming the one that cannot be read.
        """
        import pandas as pd

        check_setting("batch_size", batch_size)
        batch_size = fitting_batch(batch_size, self.card.patch_size)
        ids: list[tuple[str, str]] = []
        named: list[str] = []
        rows: list[NDArray[np.float64]] = [np.empty((0, len(self.vocab)))]
        for names, pixels in self._batches(patches, batch_size):
            calls = self.predictor.predict(pixels, tta, raw)
            ids += names
            named += self.predictor.names(calls)
            rows.append(calls.probabilities)
        table: pd.DataFrame = pd.DataFrame(
            np.concatenate(rows), columns=prediction_columns(self.vocab)
        )
        table.insert(0, "id", distinct_ids(ids))
        table.insert(1, "predicted", named)
        if self.predictor.reduced:
            table[ENGINE] = self.predictor.reduced
        return table

    def _batches(
        self, patches: Any, batch_size: int
    ) -> Iterator[tuple[list[tuple[str, str]], Pixels]]:
        names: list[tuple[str, str]] = []
        waiting: list[Pixels] = []
        for name, pixels in each_patch(patches):
            names.append(name)
            waiting.append(self.predictor.fit(pixels, name[1]))
            if len(names) == batch_size:
                yield names, np.stack(waiting)
                names, waiting = [], []
        if names:
            yield names, np.stack(waiting)

    def __repr__(self) -> str:
        classes = ", ".join(self.vocab[:8])
        return f"Model({self.card.arch}, {self.predictor.engine.name}, classes {classes})"


def load(bundle: str | Path, *, device: str = "auto", precision: str = "auto") -> Model:
    """Open a bundle made by `histo export`; HistoError if it is not a bundle or is damaged.

    `precision` is fp32, bf16, int8, or the fastest that the bundle vouches for.
    """
    return Model(open_bundle(Path(bundle), device, precision))


def distinct_ids(named: Sequence[tuple[str, str]]) -> list[str]:
    """The id of each (id, file) pair; the file where several files have that id."""
    several = {name for name, n in Counter(name for name, _ in named).items() if n > 1}
    return [file if name in several else name for name, file in named]


def each_patch(patches: Any, place: str = "") -> Iterator[tuple[tuple[str, str], Pixels]]:
    """Id, file and pixels uint8 [H, W, 3] of each patch of a file, folder, array, or list of them."""
    if isinstance(patches, str | Path):
        yield from _files(Path(patches))
    elif isinstance(patches, np.ndarray):
        yield from _arrays(patches, place)
    elif hasattr(patches, "__iter__"):
        for number, one in enumerate(patches):
            yield from each_patch(one, _within(place, number))
    else:
        raise HistoError(f"patch {place} is a {type(patches).__name__}, not a path or an array")


def _within(place: str, number: int) -> str:
    """The place of an item of what stands at `place`: 3, or 3-0 within it."""
    return f"{place}-{number}" if place else str(number)


def _files(path: Path) -> Iterator[tuple[tuple[str, str], Pixels]]:
    files = list_patches(path) if path.is_dir() else PatchFiles(path.parent, [path.name])
    for name, file in zip(plain_ids(files.names), files, strict=True):
        yield (name, file.as_posix()), read_patch(file)


def _arrays(pixels: Any, place: str) -> Iterator[tuple[tuple[str, str], Pixels]]:
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] != 3:
        raise HistoError(
            f"patch {place or 0} is {pixels.dtype} {list(pixels.shape)}, not uint8 [H, W, 3] or "
            "[N, H, W, 3], RGB"
        )
    if pixels.ndim == 3:
        yield (place or "0", place or "0"), pixels
        return
    for number, one in enumerate(pixels):
        name = _within(place, number)
        yield (name, name), one
