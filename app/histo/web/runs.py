"""The runs of the folder that is served, as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histo.errors import HistoError
from histo.files.limits import MB, Limit
from histo.files.writing import read_json
from histo.run.folder import RunFolder
from histo.web.served import RUN, Served

REPORT, METRICS = "report/report.html", "report/metrics.json"
REPORT_BYTES = Limit("HISTO_MAX_REPORT_BYTES", 128 * MB, "bytes")


@dataclass(frozen=True)
class RunRow:
    """A run: what was trained on what, how it was split, and what its report found."""

    name: str
    data: str = ""
    """the name of the folder of its data, without the path to it"""
    arch: str = ""
    split: str = ""
    epochs: int | None = None
    patches: int | None = None
    """that its report judges"""
    roc_auc: float | None = None
    interval: tuple[float, float] | None = None
    """95 % interval of the AUC"""
    started: str = ""
    finished: bool = False
    has_report: bool = False
    error: str = ""


def run_rows(served: Served) -> list[RunRow]:
    """Every run of the folder, the latest first."""
    rows = [run_row(served, name) for name in served.runs()]
    return sorted(rows, key=lambda row: row.started, reverse=True)


def run_row(served: Served, name: str) -> RunRow:
    """One run; of one that cannot be read, why."""
    try:
        run = RunFolder(served.with_file(name, RUN))
        settings, facts = run.settings(), environment(run)
        metrics = metrics_of(served, name)
        found = metrics.get("intervals")
        intervals = found if isinstance(found, dict) else {}
        return RunRow(
            name,
            base_name(settings.get("data")),
            text_of(settings.get("arch") or base_name(settings.get("bundle"))),
            split_words(settings),
            whole(settings.get("epochs")),
            whole(metrics.get("patches")),
            number(metrics.get("roc_auc")),
            pair(intervals.get("roc_auc")),
            text_of(facts.get("started")),
            run.finished,
            has_file(served, name, REPORT),
        )
    except (HistoError, OSError, TypeError, ValueError, AttributeError) as error:
        why = error.message if isinstance(error, HistoError) else "its files are damaged"
        return RunRow(name, error=why.replace(str(served.root), "").lstrip("/"))


def read_report(served: Served, name: str) -> bytes:
    """The report of a run; HistoError where it has none."""
    from histo.files.limits import read_bytes

    served.with_file(name, RUN)
    return read_bytes(served.inside(name, REPORT), REPORT_BYTES, served.root)


@dataclass(frozen=True)
class RunHistory:
    """The epochs of a run that have ended."""

    name: str
    finished: bool
    planned: int | None
    """epochs in all, where that is known"""
    epochs: list[dict[str, float | None]]
    """epoch, train_loss, valid_loss, accuracy, roc_auc, seconds; None for what is no number"""


def run_history(served: Served, name: str) -> RunHistory:
    """history.csv as it stands; HistoError where there is no such run."""
    run = RunFolder(served.with_file(name, RUN))
    rows = []
    if has_file(served, name, "history.csv"):
        rows = [{key: number(value) for key, value in row.items()} for row in run.read_history()]
    settings = run.settings()
    parts = [whole(settings.get(key)) for key in ("epochs", "freeze_epochs")]
    known = [part for part in parts if part is not None]
    return RunHistory(name, run.finished, sum(known) if known else None, rows[-2000:])


@dataclass(frozen=True)
class Compared:
    """A figure of two runs."""

    name: str
    values: tuple[float | None, float | None]
    intervals: tuple[tuple[float, float] | None, tuple[float, float] | None]


def compare_runs(served: Served, names: Sequence[str]) -> list[Compared]:
    """Each single figure that both reports have, with its interval; HistoError for other names."""
    for name in names:
        served.with_file(name, RUN)
    both = [metrics_of(served, name) for name in names]
    ends = [found.get("intervals") for found in both]
    rows = []
    for key in both[0]:
        first, second = (number(found.get(key)) for found in both)
        if first is None or second is None:
            continue
        known = [pair(each.get(key)) if isinstance(each, dict) else None for each in ends]
        rows.append(Compared(key, (first, second), (known[0], known[1])))
    return rows


def environment(run: RunFolder) -> dict[str, Any]:
    """environment.json; nothing where there is none yet."""
    found = read_json(run.environment) if run.environment.is_file() else {}
    return found if isinstance(found, dict) else {}


def metrics_of(served: Served, name: str) -> dict[str, Any]:
    """metrics.json of the report; nothing where there is none."""
    found = read_json(served.inside(name, METRICS)) if has_file(served, name, METRICS) else {}
    return found if isinstance(found, dict) else {}


def has_file(served: Served, name: str, file: str) -> bool:
    """Whether a run has a file that may be served."""
    try:
        return served.inside(name, file).is_file()
    except HistoError:
        return False


def split_words(settings: dict[str, Any]) -> str:
    """How the patches were split, in a few words."""
    split = RunFolder.split_of(settings)
    words = {"grouped": f"by {split.column}", "column": f"column {split.column}"}
    kind = words.get(split.kind, split.kind)
    return f"{split.folds} folds, {kind}" if split.folds else kind


def base_name(value: object) -> str:
    """The last part of a path: the rest names users and machines."""
    return Path(value).name if isinstance(value, str) else ""


def text_of(value: object) -> str:
    """A text of bounded length, or none."""
    return value[:200] if isinstance(value, str) else ""


def whole(value: object) -> int | None:
    """A whole number, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: object) -> float | None:
    """A finite number, or None."""
    good = isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None  # type: ignore[arg-type]


def pair(value: object) -> tuple[float, float] | None:
    """Both ends of an interval, or None."""
    ends = [number(each) for each in value] if isinstance(value, list) else []
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        return None
    return ends[0], ends[1]
