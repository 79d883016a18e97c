"""The exported model on a CPU, by ONNX Runtime: neither torch nor fastai is loaded."""

from __future__ import annotations

import ctypes
import json
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo import __version__
from histo.config import ModelCard
from histo.errors import HistoError
from histo.model.bounded import BoundedSession
from histo.model.bundle_files import BundleFiles
from histo.model.card import ONNX, Onnx, onnx_file


class OnnxEngine:
    """A loaded model.onnx: uint8 [B, S, S, 3] to probabilities float32 [B, C].

    `precision` is what the file computes in: fp32 of model.onnx, int8 of model.int8.onnx.
    """

    def __init__(
        self, card: ModelCard, data: bytes, onnx: Onnx, place: str = ONNX, precision: str = "fp32"
    ) -> None:
        self.name = engine_name("ONNX Runtime", precision)
        check_self_contained(data, place)
        self._classes, self._onnx, self._place = len(card.vocab), onnx, place
        self._session = BoundedSession(data, place)
        found = self._session.ends()
        side = card.patch_size
        if found != [
            (onnx.input, "tensor(uint8)", [side, side, 3]),
            (onnx.output, "tensor(float)", [self._classes]),
        ]:
            raise HistoError(f"{place} does not fit its card")

    @classmethod
    def open(cls, files: BundleFiles, precision: str = "fp32") -> OnnxEngine:
        """The ONNX model of a bundle, or the one in int8."""
        name = onnx_file(precision)
        place = str(files.folder / name)
        return cls(files.card, files.read(name), onnx_of(files), place, precision)

    def put(self, patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The patches, unchanged."""
        return patches

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities float32 [B, C]."""
        patches = np.ascontiguousarray(batch)
        parts = self._session.run(self._onnx.output, self._onnx.input, patches)
        fit = all(part.shape[1:] == (self._classes,) for part in parts)
        if not fit or sum(map(len, parts)) != len(batch):
            raise HistoError(f"{self._place} does not fit its card")
        return np.concatenate(parts)

    def get(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """As float32."""
        return np.asarray(probabilities, np.float32)


def engine_name(engine: str, precision: str, device: str = "cpu") -> str:
    """As parts of a table record it: `ONNX Runtime int8, cpu`; of fp32 nothing is said."""
    return f"{engine}{'' if precision == 'fp32' else ' ' + precision}, {device}"


def onnx_of(files: BundleFiles) -> Onnx:
    """How to call the ONNX models of a bundle."""
    try:
        return Onnx(**files.facts["onnx"])
    except (KeyError, TypeError):
        raise HistoError(
            f"{files.folder} has a damaged card: how to call {ONNX} is missing"
        ) from None


def metadata_of(card: ModelCard, weights: Mapping[str, Any] | None) -> dict[str, str]:
    """What model.onnx says of itself, each value as JSON; `weights` is where the body's came from.

    What is not known is left out: the positive class, the licence of the weights.
    """
    found = {
        "classes": card.vocab,
        "positive": card.positive,
        "threshold": card.threshold if len(card.vocab) == 2 else None,
        "temperature": card.temperature,
        "temperature_note": "the probabilities have it; do not apply it again",
        "crop": card.crop,
        "size": card.size,
        "patch_size": card.patch_size,
        "weights": weights,
        "histo": __version__,
    }
    return {name: _json(value) for name, value in found.items() if value is not None}


def _json(value: Any) -> str:
    """JSON without the word by which `check_self_contained` knows other files, should a class have it."""
    return json.dumps(value).replace("location", "l\\u006fcation")


def check_self_contained(data: bytes, place: str) -> None:
    """Refuse a model whose tensors are in other files: ONNX Runtime would open any file it names.

    The name of such a file follows the word `location`, which is nowhere else in histo's models.
    """
    if b"location" in data or data[4:8] == b"ORTM":  # the ORT format can name files too
        raise HistoError(f"{place} is refused: it is not all in one file, or not plain ONNX")


def gpu_is_there() -> bool:
    """Whether torch would find a GPU, according to the driver, without loading torch."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    count = ctypes.c_int(0)
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value > 0
    return False
