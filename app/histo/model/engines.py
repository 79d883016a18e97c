"""Which engine predicts: the fastest that a bundle's card vouches for on this machine, or the exact one.

`histo export` judges each engine beside fp32 (histo.commands.judge_engines) and records in the card
what it costs and wins.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from histo.config import EnginePrecision
from histo.errors import HistoError
from histo.model.bundle_files import BundleFiles
from histo.model.card import CARD, onnx_file

ENGINES = "engines"
"""The key of the card under which the judged engines are."""
INSTRUCTIONS = {
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
    # without these, products of int8 are summed in 16 bits, which overflow: other figures
    "int8": {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"},
}
"""The instructions, by their names in /proc/cpuinfo, any of which a precision needs."""


@dataclass(frozen=True)
class Judged:
    """An engine beside fp32, on validation patches: what it wins, what it costs, whether it is kept."""

    engine: str
    """ONNX Runtime, OpenVINO or PyTorch"""
    precision: str
    """int8 or bf16"""
    kept: bool
    speed: float
    """times as fast as fp32 by ONNX Runtime (PyTorch: as fp32 by PyTorch on the same GPU); 0 with
    `auc`, `log_loss` and `changed` where it gave no probabilities"""
    auc: float
    """AUC less that of fp32"""
    log_loss: float
    """log loss less that of fp32"""
    changed: float
    """share of the patches that are called otherwise, 0 to 1"""
    why: str = ""
    """the reason, where it was refused"""

    @property
    def file(self) -> str:
        """The file of the bundle that it runs, on a CPU."""
        return onnx_file(self.precision)

    def __str__(self) -> str:
        return f"{self.precision} by {self.engine}"

    def cost(self) -> str:
        """What it won and cost."""
        return (
            f"{self.speed:.2f} times as fast as fp32, AUC {self.auc:+.4f}, log loss "
            f"{self.log_loss:+.4f}, {self.changed:.2%} of calls changed"
        )

    def verdict(self) -> str:
        """What it won and cost, where it could be compared, and whether it is kept."""
        kept = "kept" if self.kept else f"refused, {self.why}"
        return f"{self.cost()}: {kept}" if self.speed else kept


def judged_of(facts: Mapping[str, Any], folder: Path) -> list[Judged]:
    """The engines that a card has judged, the fastest first; none in cards of earlier versions."""
    try:
        known = [one.name for one in fields(Judged)]
        entries = facts.get(ENGINES, {}).get("judged", [])
        found = [Judged(**{k: v for k, v in entry.items() if k in known}) for entry in entries]
        good = len(found) <= 20 and all(map(_is_sound, found))
    except (AttributeError, TypeError):
        good = False
    if not good:
        raise HistoError(f"{folder / CARD} is damaged: a value is missing or out of bounds")
    return sorted(found, key=lambda one: -one.speed)


def _is_sound(one: Judged) -> bool:
    numbers = (one.speed, one.auc, one.log_loss, one.changed)
    return (
        isinstance(one.engine, str)
        and one.precision in ("bf16", "int8")
        and type(one.kept) is bool
        and isinstance(one.why, str)
        and all(isinstance(n, float) and abs(n) < 1e6 for n in numbers)
    )


@cache
def fast_precisions() -> frozenset[str]:
    """The precisions that this processor multiplies in hardware: bf16, int8, both or none."""
    if sys.platform == "darwin":
        return frozenset({"int8"} if platform.machine() == "arm64" else ())
    flags: set[str] = set()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith(("flags", "Features")):
                flags = set(line.partition(":")[2].split())
                break
    return frozenset(name for name, needed in INSTRUCTIONS.items() if flags & needed)


def openvino_is_there() -> bool:
    """Whether OpenVINO can be used: the extra is installed, and the system can bound its memory."""
    return sys.platform == "linux" and find_spec("openvino") is not None


def openvino_obstacle() -> str | None:
    """Why OpenVINO cannot be used here; None if it can.

    On import OpenVINO reports to its makers' server from a forked process; blocking its telemetry
    package prevents that.
    """
    if not openvino_is_there():
        return "OpenVINO is not there: pip install 'histolearn[openvino]' (Linux)"
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino  # noqa: F401
    except (ImportError, OSError) as error:  # a library of the system is missing
        why = str(error)[:200]
        return f"OpenVINO does not load ({why}): pip install --force-reinstall openvino"
    return None


def obstacle(one: Judged, files: BundleFiles, on_cpu: bool) -> str | None:
    """Why an engine that a card vouches for cannot be used here; None if it can."""
    if (one.engine == "PyTorch") == on_cpu:
        return f"it is for a {'GPU' if on_cpu else 'CPU'}"
    if not on_cpu:
        return "it is for CUDA" if sys.platform == "darwin" else None
    if one.engine not in ("ONNX Runtime", "OpenVINO"):
        return f"this histo has no engine {one.engine[:40]!r}"
    if one.file not in files:
        return f"there is no {one.file}"
    if one.precision not in fast_precisions():
        return f"this processor has no instructions for {one.precision}"
    return openvino_obstacle() if one.engine == "OpenVINO" else None


def passed_over(files: BundleFiles, chosen: Judged | None, on_cpu: bool) -> str:
    """Why the fastest engine that a card vouches for is not the one chosen; empty where it is.

    Engines of another kind of device do not count.
    """
    for one in judged_of(files.facts, files.folder):
        if one == chosen:
            return ""
        if one.kept and (one.engine == "PyTorch") != on_cpu:
            return f"{one} is not used: {obstacle(one, files, on_cpu)}"
    return ""


def check_precision(precision: str) -> None:
    """HistoError for a precision that prediction does not know."""
    known = get_args(EnginePrecision)
    if precision not in known:
        raise HistoError(f"precision is {precision!r}: give one of {', '.join(known)}")


def choose_engine(files: BundleFiles, precision: str, on_cpu: bool) -> Judged | None:
    """The fastest engine that the card vouches for and this machine has; None for the exact one.

    HistoError where a precision is asked for that the card does not vouch for, or this machine lacks.
    """
    check_precision(precision)
    if precision == "fp32":
        return None
    reasons = []
    for one in judged_of(files.facts, files.folder):
        if precision not in ("auto", one.precision):
            continue
        reason = obstacle(one, files, on_cpu) if one.kept else f"it was refused: {one.why}"
        if reason is None:
            return one
        reasons.append(f"{one}: {reason}")
    if precision == "auto":
        return None
    raise HistoError(
        f"{files.folder} cannot predict in {precision} here: "
        + ("; ".join(reasons) or f"its card does not vouch for {precision}"),
        "give {precision} auto",
    )
