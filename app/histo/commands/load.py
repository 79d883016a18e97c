"""`histo.load`: predict with a bundle in Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histo.config import PREDICT_BATCH, ModelCard
from histo.data.decode import read_patch
from histo.data.patch_files import list_patches
from histo.errors import HistoError
from histo.model.predictor import Predictor, open_bundle
from histo.run.predictions import prediction_columns

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
        [N, H, W, 3], or a list of any of these. The id of a file is its name without suffix, that
        of an array its place in the list. Raises HistoError, naming the one that cannot be read.
        """
        import pandas as pd

        ids: list[str] = []
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
        table.insert(0, "id", ids)
        table.insert(1, "predicted", named)
        return table

    def _batches(self, patches: Any, batch_size: int) -> Iterator[tuple[list[str], Pixels]]:
        names: list[str] = []
        waiting: list[Pixels] = []
        for name, pixels in each_patch(patches):
            names.append(name)
            waiting.append(self.predictor.fit(pixels, name))
            if len(names) == batch_size:
                yield names, np.stack(waiting)
                names, waiting = [], []
        if names:
            yield names, np.stack(waiting)

    def __repr__(self) -> str:
        classes = ", ".join(self.vocab[:8])
        return f"Model({self.card.arch}, {self.predictor.engine.name}, classes {classes})"


def load(bundle: str | Path, *, device: str = "auto") -> Model:
    """Open a bundle made by `histo export`; HistoError if it is not a bundle or is damaged."""
    return Model(open_bundle(Path(bundle), device))


def each_patch(patches: Any, place: str = "0") -> Iterator[tuple[str, Pixels]]:
    """Name and pixels uint8 [H, W, 3] of each patch of a file, a folder, an array, or a list of them."""
    if isinstance(patches, str | Path):
        yield from _files(Path(patches))
    elif isinstance(patches, np.ndarray):
        yield from _arrays(patches, place)
    elif isinstance(patches, Sequence) or hasattr(patches, "__iter__"):
        for number, one in enumerate(patches):
            yield from each_patch(one, str(number))
    else:
        raise HistoError(f"patch {place} is a {type(patches).__name__}, not a path or an array")


def _files(path: Path) -> Iterator[tuple[str, Pixels]]:
    for file in list_patches(path) if path.is_dir() else [path]:
        yield file.stem, read_patch(file)


def _arrays(pixels: Any, place: str) -> Iterator[tuple[str, Pixels]]:
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[-1] != 3:
        raise HistoError(
            f"patch {place} is {pixels.dtype} {list(pixels.shape)}, not uint8 [H, W, 3] or "
            "[N, H, W, 3], RGB"
        )
    if pixels.ndim == 3:
        yield place, pixels
        return
    for number, one in enumerate(pixels):
        yield f"{place}-{number}", one
