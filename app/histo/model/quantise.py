"""model.onnx in int8: static, QDQ, weights per channel, ranges from training patches."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo.files.writing import written

BATCH = 16


def write_int8(source: Path, out: Path, patches: NDArray[np.uint8], name: str) -> str:
    """Write a quantised copy of an ONNX model; returns why that is not possible, or nothing.

    `patches` uint8 [N, S, S, 3] show which values each layer takes; `name` is the model's input.
    """
    try:
        data = _quantised(source, patches, name)
    except Exception as error:  # ONNX Runtime's tools raise anything for a graph they do not know
        return type(error).__name__
    if b"location" in data:  # what is read back later would be refused
        return "tensors in other files"
    with written(out) as file:
        file.write(data)
    return ""


def _head_of(path: Path) -> list[str]:
    """The nodes after the body's last product, by name: from features to probabilities.

    They take no time, and a probability of eight bits would tie patches and not add up to 1.
    """
    import onnx

    nodes = list(onnx.load(str(path)).graph.node)
    products = [n for n, node in enumerate(nodes) if node.op_type in ("Conv", "MatMul")]
    return [node.name for node in nodes[max(products, default=-1) + 1 :]]


def _quantised(source: Path, patches: NDArray[np.uint8], name: str) -> bytes:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands out the patches, batch by batch."""

        def __init__(self) -> None:
            self.batches: Iterator[NDArray[np.uint8]] = iter(
                patches[i : i + BATCH] for i in range(0, len(patches), BATCH)
            )

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            """The next batch, None after the last."""
            batch = next(self.batches, None)
            return None if batch is None else {name: batch}

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ready, made = Path(folder, "ready.onnx"), Path(folder, "int8.onnx")
        logging.disable(logging.WARNING)  # it advises what is done already
        try:
            quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
            quantize_static(
                str(ready),
                str(made),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=_head_of(ready),
            )
        finally:
            logging.disable(logging.NOTSET)
        model, plain = onnx.load(str(made)), onnx.load(str(source))
    del model.metadata_props[:]  # what tools say of themselves
    model.metadata_props.extend(plain.metadata_props)
    return bytes(model.SerializeToString())
