"""The exported model on a CPU by OpenVINO, in bf16 or int8: an extra of the package, on Linux."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.config import ModelCard
from histo.distributed import ranks
from histo.errors import HistoError
from histo.model.bounded import Bounded, weights_of
from histo.model.bundle_files import BundleFiles
from histo.model.card import ONNX, Onnx, onnx_file
from histo.model.engines import openvino_obstacle
from histo.model.onnx import OnnxEngine, engine_name, onnx_of

HINTS = {"bf16": "bf16", "int8": "f32"}
"""What OpenVINO computes in where the graph does not say: the graph of int8 says it itself."""


class OpenVinoEngine:
    """A loaded model.onnx or model.int8.onnx: uint8 [B, S, S, 3] to probabilities float32 [B, C]."""

    def __init__(
        self, card: ModelCard, data: bytes, onnx: Onnx, precision: str, place: str = ONNX
    ) -> None:
        if why := openvino_obstacle():
            raise HistoError(why)
        # ONNX Runtime is asked first: it checks the graph, which fits its card or not, and a graph that
        # asks for any memory, or has no end, fails there in words
        side = card.patch_size
        OnnxEngine(card, data, onnx, place).run(np.zeros((1, side, side, 3), np.uint8))
        self.name = engine_name("OpenVINO", precision)
        self._classes, self._place = len(card.vocab), place
        self._bounded = Bounded(place)
        self._request = self._bounded.load(lambda: _load(data, precision), weights_of(data))
        self._bounded.stop = self._request.cancel

    @classmethod
    def open(cls, files: BundleFiles, precision: str) -> OpenVinoEngine:
        """The ONNX model of a bundle in bf16, or the one in int8."""
        name = onnx_file(precision)
        place = str(files.folder / name)
        return cls(files.card, files.read(name), onnx_of(files), precision, place)

    def put(self, patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The patches, unchanged."""
        return patches

    def run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities float32 [B, C]."""
        patches = np.ascontiguousarray(batch)

        def run() -> Any:
            return self._request.infer([patches], share_inputs=True)[0]

        found = np.array(self._bounded.run(run)[0], np.float32)
        if found.shape != (len(batch), self._classes):
            raise HistoError(f"{self._place} does not fit its card")
        return found

    def get(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """As float32."""
        return np.asarray(probabilities, np.float32)


def _load(data: bytes, precision: str) -> Any:
    """The model, compiled, as a request that can be asked again and again."""
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": HINTS[precision]}
    if ranks.local_world_size() > 1:  # otherwise each process would use every core
        settings["INFERENCE_NUM_THREADS"] = str(ranks.cores())
    core = openvino.Core()
    return core.compile_model(core.read_model(data, b""), "CPU", settings).create_infer_request()
