"""From patches to calls: crop and size, views, temperature, threshold and class names, in one place.

The predictions of a bundle, by the command line and in Python, all go through a Predictor.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from histo.config import ModelCard
from histo.errors import HistoError
from histo.model.bundle_files import BundleFiles
from histo.model.card import ONNX
from histo.model.engines import Judged, check_precision, choose_engine, passed_over
from histo.pixels.d4 import VIEWS, view
from histo.pixels.fit import Fit
from histo.run.calls import apply_temperature, call


class Engine(Protocol):
    """What computes probabilities: ONNX Runtime, OpenVINO or PyTorch."""

    @property
    def name(self) -> str:
        """As tables record it: another engine gives other last digits."""

    def put(self, patches: NDArray[np.uint8]) -> Any:
        """Patches uint8 [B, S, S, 3] where the engine computes."""

    def run(self, batch: Any) -> Any:
        """Probabilities [B, C] of what `put` gave, or of a view of it, still there."""

    def get(self, probabilities: Any) -> NDArray[np.float32]:
        """Probabilities float32 [B, C] in this process's memory."""


@dataclass(frozen=True)
class Calls:
    """Predictions of B patches: float64 [B, C] probabilities, and the class called, int64 [B]."""

    probabilities: NDArray[np.float64]
    called: NDArray[np.int64]


@dataclass(frozen=True)
class Predictor:
    """A model at work: its card, and the engine that computes."""

    card: ModelCard
    engine: Engine
    files: BundleFiles
    """the bundle it was opened from"""
    judged: Judged | None = None
    """what the card says of an engine that is not the exact one"""
    passed_over: str = ""
    """why the fastest engine of the card is not used, where the machine or the bundle lacks it"""

    @property
    def vocab(self) -> list[str]:
        """The classes, in the order of the probabilities."""
        return self.card.vocab

    @property
    def reduced(self) -> str:
        """What a table says of an engine that is not the exact one; empty for fp32."""
        return f"{self.judged.engine} {self.judged.precision}" if self.judged else ""

    @property
    def fit(self) -> Fit:
        """How a decoded image becomes a patch of the model's size."""
        return Fit(self.card.crop, self.card.size, self.card.patch_size)

    def probabilities(self, patches: NDArray[np.uint8], tta: bool = False) -> NDArray[np.float32]:
        """Probabilities float32 [B, C] as the model gives them: with the temperature from format 2 on.

        `patches` are uint8 [B, S, S, 3], RGB, of the model's size; `tta` averages the
        probabilities of their eight D4 views.
        """
        batch, views = self.engine.put(patches), range(VIEWS if tta else 1)
        total = sum(self.engine.run(view(batch, number)) for number in views)
        found = self.engine.get(total / len(views))
        check_probabilities(found, self.files.folder)
        return found

    def _raw(self, given: NDArray[np.float64], patches: NDArray[np.uint8], tta: bool) -> Any:
        """What `probabilities` gave as it was trained: the temperature of each view taken out."""
        built_in = self.card.built_in_temperature
        if built_in == 1 or not tta:
            return apply_temperature(given, 1 / built_in)
        batch = self.engine.put(patches)
        each = [self.engine.get(self.engine.run(view(batch, number))) for number in range(VIEWS)]
        return np.mean([apply_temperature(np.float64(one), 1 / built_in) for one in each], axis=0)

    def predict(self, patches: NDArray[np.uint8], tta: bool = False, raw: bool = False) -> Calls:
        """Probabilities and calls of patches uint8 [B, S, S, 3], RGB, of the model's size.

        Probabilities have the card's temperature unless `raw`; the class called is the one that
        the card's threshold says. That is for what the model gives: in bundles of format 1,
        probabilities without the temperature.
        """
        given, card = self.probabilities(patches, tta).astype(np.float64), self.card
        published = apply_temperature(given, card.temperature / card.built_in_temperature)
        published = as_written(published)
        judged = published if card.format > 1 else given
        called = call(judged, card.threshold, card.positive_index)
        return Calls(self._raw(given, patches, tta) if raw else published, called)

    def names(self, calls: Calls) -> list[str]:
        """The class called of each patch, by name."""
        return [self.vocab[code] for code in calls.called.tolist()]


def check_probabilities(found: NDArray[np.float32], bundle: Path) -> None:
    """Refuse what are no probabilities [B, C]: NaN, below 0, rows that do not add up to 1."""
    if not ((found >= 0).all() and (np.abs(found.sum(1) - 1) < 1e-3).all()):
        raise HistoError(
            f"the model of {bundle} gives no probabilities: NaN, below 0, or not 1 in all"
        )


def as_written(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities [B, 2] with the nine digits of a table, so that its calls follow from its columns.

    Of more classes nothing hangs on the last digit.
    """
    if probabilities.shape[1] != 2:
        return probabilities
    written = [float(f"{value:.9g}") for value in probabilities.ravel()]
    return np.array(written).reshape(probabilities.shape)


def open_bundle(folder: Path, device: str = "auto", precision: str = "auto") -> Predictor:
    """The model of a bundle, once its files have proved to be those of its card.

    On a CPU by ONNX Runtime or OpenVINO, where neither torch nor fastai is loaded, else by PyTorch;
    in the fastest `precision` that the card vouches for, or the one given. Raises HistoError for
    what is no bundle, is damaged, or needs a device or a precision that is not there.
    """
    from histo.model.onnx import OnnxEngine, gpu_is_there

    check_precision(precision)
    files = BundleFiles.open(folder)
    on_cpu = device == "cpu" or (device == "auto" and not gpu_is_there())
    chosen = choose_engine(files, precision, on_cpu)
    kind = chosen.precision if chosen else "fp32"
    lacks = passed_over(files, chosen, on_cpu) if precision == "auto" else ""
    if chosen and chosen.engine == "OpenVINO":
        from histo.model.openvino_engine import OpenVinoEngine

        return Predictor(files.card, OpenVinoEngine.open(files, kind), files, chosen, lacks)
    if on_cpu and ONNX in files:
        return Predictor(files.card, OnnxEngine.open(files, kind), files, chosen, lacks)

    from histo.model.device import resolve_device
    from histo.model.torch_engine import TorchEngine

    engine = TorchEngine.open(files, resolve_device(device), kind)
    return Predictor(files.card, engine, files, chosen, lacks)
