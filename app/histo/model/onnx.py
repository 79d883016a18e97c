"""The exported model on a CPU, by ONNX Runtime: neither torch nor fastai is loaded."""

from __future__ import annotations

import ctypes
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.config import ModelCard
from histo.distributed import ranks
from histo.errors import HistoError
from histo.model.card import ONNX, Onnx, read_verified
from histo.pixels import d4


class OnnxModel:
    """A loaded model.onnx: `predict` takes whole decoded patches to probabilities."""

    engine = "ONNX Runtime, cpu"

    def __init__(self, card: ModelCard, data: bytes, name: Onnx, place: str = ONNX) -> None:
        import onnxruntime

        check_whole(data, place)
        self.card, self._name, self._place = card, name, place
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its warnings are for those who convert models
        if ranks.local_world() > 1:  # else each process would take every core
            options.intra_op_num_threads = ranks.cores()
        try:
            self._session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has its own exceptions, all of them plain
            raise HistoError(f"{place} does not load ({type(error).__name__})") from None
        ends = [*self._session.get_inputs(), *self._session.get_outputs()]
        found = [(end.name, end.type, end.shape[1:]) for end in ends]
        side, classes = card.patch_size, len(card.vocab)
        if found != [
            (name.input, "tensor(uint8)", [side, side, 3]),
            (name.output, "tensor(float)", [classes]),
        ]:
            raise HistoError(f"{place} does not fit its card")

    @classmethod
    def open(cls, folder: Path, card: ModelCard, facts: dict[str, Any]) -> OnnxModel:
        """Load the ONNX model of a bundle after checking its SHA-256."""
        try:
            name = Onnx(**facts["onnx"])
        except (KeyError, TypeError):
            raise HistoError(
                f"{folder} has a damaged card: how to call {ONNX} is missing"
            ) from None
        return cls(card, read_verified(folder, ONNX, facts), name, str(folder / ONNX))

    def predict(self, patches: NDArray[np.uint8], tta: bool = False) -> NDArray[np.float32]:
        """Probabilities float32 [B, C] of uint8 RGB patches [B, S, S, 3].

        `tta` averages the probabilities of the eight D4 views.
        """
        views = range(d4.VIEWS if tta else 1)
        total = sum(self._one_view(d4.view(patches, k)) for k in views)
        return np.asarray(total / len(views), np.float32)

    def _one_view(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        feed = {self._name.input: np.ascontiguousarray(patches)}
        try:
            found = np.asarray(self._session.run([self._name.output], feed)[0])
        except Exception as error:  # likewise
            raise HistoError(f"{self._place} fails at work ({type(error).__name__})") from None
        if found.shape != (len(patches), len(self.card.vocab)):
            raise HistoError(f"{self._place} does not fit its card")
        return found


def check_whole(data: bytes, place: str) -> None:
    """Refuse a model whose tensors are in other files: ONNX Runtime would open whatever it names.

    The name of such a file stands beside the word `location`, nowhere else in a model of histo's.
    """
    if b"location" in data or data[4:8] == b"ORTM":  # that other format has its own such places
        raise HistoError(f"{place} is refused: it is not all in one file, or not plain ONNX")


def gpu_is_there() -> bool:
    """Whether torch would find a GPU: asks the driver, so that torch need not be loaded."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    count = ctypes.c_int(0)
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value > 0
    return False
