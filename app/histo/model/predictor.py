"""A bundle at work: by ONNX Runtime on a CPU, where neither torch nor fastai is loaded, or torch."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from histo.config import ModelCard
from histo.model.card import ONNX, read_card


class Model(Protocol):
    """What a loaded model can do."""

    @property
    def engine(self) -> str:
        """What computes: another gives other last digits."""

    def predict(self, patches: NDArray[np.uint8], tta: bool = False) -> NDArray[np.float32]:
        """Probabilities [B, C] of uint8 RGB patches [B, S, S, 3]; `tta` averages the D4 views."""


def open_bundle(folder: Path, device: str = "auto") -> tuple[ModelCard, Model]:
    """A bundle's card and its model, once its files have proved to be those of the card."""
    from histo.model.onnx import OnnxModel, gpu_is_there

    card, facts = read_card(folder)
    on_cpu = device == "cpu" or (device == "auto" and not gpu_is_there())
    if on_cpu and (folder / ONNX).is_file():
        return card, OnnxModel.open(folder, card, facts)

    from histo.model.bundle import Bundle
    from histo.model.learner import resolve_device

    return card, Bundle.open(folder, resolve_device(device))
