"""Which engines beside fp32 a bundle vouches for: made, and judged on validation patches, by `export`.

An engine is kept where on these patches its AUC is not lower by AUC or more, under CHANGED of the calls
are others, log loss is not higher by LOG_LOSS or more, and it is SPEED times as fast. AUC is blind
to a shift of all probabilities, which thresholds and readers see: hence log loss. A rise of 0.005
is a probability of the true class that is lower by half a per cent on (geometric) average, a third
of the standard error of log loss itself on a thousand patches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.config import PREDICT_BATCH, ModelCard
from histo.data.decode_ahead import fitting_batch
from histo.errors import HistoError
from histo.files.limits import MODEL_BYTES, read_bytes
from histo.model.card import INT8, ONNX, Onnx
from histo.model.engines import ENGINES, Judged, fast_precisions, openvino_is_there
from histo.model.onnx import OnnxEngine, gpu_is_there
from histo.model.predictor import Engine, as_written
from histo.model.quantise import write_int8
from histo.report.metrics import log_loss, macro_auc
from histo.run.calls import call
from histo.run.folder import RunFolder
from histo.screen import Screen

AUC, CHANGED, LOG_LOSS, SPEED = 0.001, 0.005, 0.005, 1.1
"""The bounds."""
MOST, LEAST = 2000, 200
"""Validation patches to judge on; of fewer than LEAST, 0.5 % are not one patch."""
CALIBRATION = 256
"""Training patches that show which values each layer takes."""
ReadPatches = Callable[[Sequence[str]], "list[Any]"]


@dataclass(frozen=True)
class Sample:
    """Patches of a run, uint8 [N, S, S, 3]: to calibrate on, and to judge on, these with classes."""

    calibration: NDArray[np.uint8]
    patches: NDArray[np.uint8]
    labels: NDArray[np.int64]

    @classmethod
    def draw(
        cls, run: RunFolder, vocab: list[str], read: ReadPatches | None
    ) -> Sample | HistoError:
        """Drawn from a run, the same each time; or why there are none to judge on, and the way out."""
        if run.settings().get("folds"):
            return HistoError("with folds there is no patch that none of the models was trained on")
        rows = run.read_split()
        valid = [row for row in rows if row["split"] == "valid" and row["label"] in vocab]
        if len(valid) < LEAST:
            return HistoError(
                f"{len(valid)} validation patches are too few to judge others, {LEAST} are needed"
            )
        moved = "give {images} if the patches have moved"
        if read is None:
            return HistoError("the run does not say where its patches are", moved)
        train = [row for row in rows if row["split"] == "train"] or valid
        rng = np.random.default_rng(0)

        def some(of: list[dict[str, str]], most: int) -> list[dict[str, str]]:
            chosen = rng.choice(len(of), min(most, len(of)), replace=False)
            return [of[n] for n in sorted(chosen.tolist())]

        valid = some(valid, MOST)
        try:
            shown = read([row["id"] for row in some(train, CALIBRATION)])
            pixels = read([row["id"] for row in valid])
        except (HistoError, OSError) as error:
            return HistoError(error.message if isinstance(error, HistoError) else str(error), moved)
        labels = [vocab.index(row["label"]) for row in valid]
        return cls(np.stack(shown), np.stack(pixels), np.array(labels, np.int64))


def engine_facts(
    folder: Path, onnx: Onnx, model: Any, card: ModelCard, sample: Sample, screen: Screen
) -> dict[str, Any]:
    """Make what may be faster than model.onnx, judge it, keep what is good; what the card says of it."""
    data = read_bytes(folder / ONNX, MODEL_BYTES)
    with screen.step(f"quantising {ONNX} on {len(sample.calibration)} training patches"):
        failed = write_int8(folder / ONNX, folder / INT8, sample.calibration, onnx.input)
    if failed:
        screen.say(f"{ONNX} could not be quantised to int8 ({failed})")
    int8 = None if failed else read_bytes(folder / INT8, MODEL_BYTES)
    exact = OnnxEngine(card, data, onnx)
    judged = judge(exact, _on_cpu(card, data, int8, onnx), sample, card, screen)
    if gpu_is_there():
        judged += _on_gpu(model, card, sample, screen)
    if not any(one.kept and one.precision == "int8" for one in judged):
        (folder / INT8).unlink(missing_ok=True)
    for one in judged:
        screen.say(f"{one}: {one.verdict()}")
    bounds = {"auc": AUC, "changed": CHANGED, "log_loss": LOG_LOSS, "speed": SPEED}
    entries = [asdict(one) for one in judged]
    patches = {"patches": len(sample.patches), "calibration": len(sample.calibration)}
    return {ENGINES: {**patches, "bounds": bounds, "judged": entries}}


Candidates = list[tuple[str, str, Callable[[], Engine]]]
"""Engine, precision, and how it is opened."""


def _on_cpu(card: ModelCard, data: bytes, int8: bytes | None, onnx: Onnx) -> Candidates:
    """What this machine can judge on a CPU."""
    found: Candidates = []
    if int8 is not None and "int8" in fast_precisions():
        found.append(("ONNX Runtime", "int8", lambda: OnnxEngine(card, int8, onnx, INT8, "int8")))
    if openvino_is_there():
        from histo.model.openvino_engine import OpenVinoEngine

        if "bf16" in fast_precisions():
            found.append(("OpenVINO", "bf16", lambda: OpenVinoEngine(card, data, onnx, "bf16")))
        if int8 is not None and "int8" in fast_precisions():
            found.append(
                ("OpenVINO", "int8", lambda: OpenVinoEngine(card, int8, onnx, "int8", INT8))
            )
    return found


def _on_gpu(model: Any, card: ModelCard, sample: Sample, screen: Screen) -> list[Judged]:
    """The engines of a GPU, beside fp32 on it."""
    from histo.model.device import resolve_device
    from histo.model.torch_engine import TorchEngine

    device = resolve_device("auto")
    if device.type != "cuda":
        return []
    exact = TorchEngine(card, model, device)
    others: Candidates = [("PyTorch", "bf16", lambda: TorchEngine(card, model, device, "bf16"))]
    return judge(exact, others, sample, card, screen)


def judge(
    exact: Engine, candidates: Candidates, sample: Sample, card: ModelCard, screen: Screen
) -> list[Judged]:
    """Each candidate beside the exact engine, on the same patches; the engines take turns by batch."""
    opened, refused = [], []
    for name, precision, open_it in candidates:
        try:
            opened.append((name, precision, open_it()))
        except HistoError as error:
            refused.append(_refused(name, precision, error.message))
    engines = [exact, *(engine for _, _, engine in opened)]
    found, seconds = _predict(engines, sample.patches, card, screen)
    truth = found[0]
    if isinstance(truth, HistoError):
        raise truth
    for (name, precision, _), each, took in zip(opened, found[1:], seconds[1:], strict=True):
        if isinstance(each, HistoError):
            refused.append(_refused(name, precision, each.message))
            continue
        speed = float(np.median(np.array(seconds[0]) / np.array(took)))
        refused.append(compared(name, precision, truth, each, speed, sample.labels, card))
    return refused


def _refused(name: str, precision: str, why: str) -> Judged:
    return Judged(name, precision, False, 0.0, 0.0, 0.0, 0.0, why)


def _predict(
    engines: Sequence[Engine], patches: NDArray[np.uint8], card: ModelCard, screen: Screen
) -> tuple[list[NDArray[np.float64] | HistoError], list[list[float]]]:
    """Probabilities of each engine, or why it has none, and the seconds of its full batches."""
    size = fitting_batch(PREDICT_BATCH, card.patch_size)
    found: list[list[NDArray[np.float64]]] = [[] for _ in engines]
    failed: list[HistoError | None] = [None for _ in engines]
    seconds: list[list[float]] = [[] for _ in engines]
    with screen.bar("judging what is faster than fp32", len(patches)) as advance:
        for start in range(0, len(patches), size):
            batch = patches[start : start + size]
            for n, engine in enumerate(engines):
                if failed[n]:
                    continue
                try:
                    if not start:  # the first batch of an engine takes longer
                        engine.get(engine.run(engine.put(batch)))
                    began = time.perf_counter()
                    each = engine.get(engine.run(engine.put(batch)))
                except HistoError as error:
                    failed[n] = error
                    continue
                if len(batch) == size or len(patches) < size:
                    seconds[n].append(time.perf_counter() - began)
                found[n].append(each.astype(np.float64))
            advance(len(batch))
    return [
        error or np.concatenate(parts) for error, parts in zip(failed, found, strict=True)
    ], seconds


def compared(
    name: str,
    precision: str,
    exact: NDArray[np.float64],
    other: NDArray[np.float64],
    speed: float,
    labels: NDArray[np.int64],
    card: ModelCard,
) -> Judged:
    """An engine's probabilities float64 [N, C] beside the exact ones: kept, or refused and why."""
    sums = np.abs(other.sum(1) - 1)
    if not ((other >= 0).all() and (sums < 1e-3).all()):
        return _refused(name, precision, "it gives no probabilities")
    calls = [call(as_written(p), card.threshold, card.positive_index) for p in (exact, other)]
    changed = float((calls[0] != calls[1]).mean())
    auc, loss = (
        float(measure(labels, other) - measure(labels, exact)) for measure in (macro_auc, log_loss)
    )
    reasons = []
    if not auc > -AUC:
        reasons.append(f"its AUC is lower by {-auc:.4f}, allowed is less than {AUC}")
    if not changed < CHANGED:
        reasons.append(f"{changed:.2%} of calls change, allowed is less than {CHANGED:.1%}")
    if not loss < LOG_LOSS:
        reasons.append(f"its log loss is higher by {loss:.4f}, allowed is less than {LOG_LOSS}")
    if not speed >= SPEED:
        reasons.append(f"it is {speed:.2f} times as fast as fp32, needed is {SPEED}")
    auc = 0.0 if np.isnan(auc) else auc
    return Judged(name, precision, not reasons, speed, auc, loss, changed, "; ".join(reasons))
