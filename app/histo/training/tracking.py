"""Sends a run to its tracker: settings, metrics of each epoch, final metrics, those of the report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from histo.config import Tracker
from histo.distributed import ranks
from histo.errors import HistoError
from histo.files.writing import read_json, write_json
from histo.run.folder import RunFolder
from histo.screen import Screen
from histo.training.trackers import OPEN, TrackerRun, check_tracker

if TYPE_CHECKING:
    from histo.report.results import Metrics

KNOWN = "tracker.json"
"""File in the run folder: which tracker, the id of its run, and the last epoch that it has."""
REPORTED = ("roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1", "log_loss")
AT_POINT = ("threshold", "sensitivity", "specificity", "accuracy", "balanced_accuracy", "f1")
"""Metrics of the report that a tracker gets; for two classes the latter at the operating point."""


@dataclass(frozen=True)
class Known:
    """What tracker.json says."""

    tracker: str
    id: str
    epochs: int


def read_known(run: RunFolder) -> Known | None:
    """What tracker.json says, if there is one; HistoError where it is damaged."""
    path = run.path / KNOWN
    if not os.path.lexists(path):
        return None
    found = read_json(path)
    texts = [found.get("tracker"), found.get("id")] if isinstance(found, dict) else [None]
    if not all(isinstance(text, str) for text in texts) or type(found.get("epochs")) is not int:
        raise HistoError(f"{path} is damaged")
    return Known(found["tracker"], found["id"], found["epochs"])


class Tracking:
    """The tracker of a run, if any. A failure is reported once and ends the tracking, never the run."""

    def __init__(self, run: RunFolder, name: Tracker | None, screen: Screen) -> None:
        self.run, self.name, self.screen = run, name, screen
        self.open: TrackerRun | None = None
        self.epochs = 0

    def begin(self, rows: Sequence[Mapping[str, float]] = ()) -> None:
        """Open a new or existing run of the tracker, and send the epochs that it lacks."""
        if self.name is None:
            return
        try:
            self.open = self._begin(self.name)
        except Exception as error:
            self._give_up(error)
        self.follow(rows)

    def _begin(self, name: Tracker) -> TrackerRun:
        known = read_known(self.run)
        again = known.id if known is not None and known.tracker == name else None
        self.epochs = known.epochs if known is not None and again else 0
        opened = OPEN[name](self.run, again, self.epochs)
        if again is None:
            self._keep(opened)
            opened.settings(settings_of(self.run))
        return opened

    def follow(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Record the epochs that the tracker does not have yet."""
        for row in rows:
            if row["epoch"] > self.epochs:
                self._attempt(partial(self._epoch, row))

    def _epoch(self, row: Mapping[str, float], opened: TrackerRun) -> None:
        number = int(row["epoch"])
        opened.epoch(number, {name: value for name, value in row.items() if name != "epoch"})
        self.epochs = number
        self._keep(opened)

    def results(self, prefix: str, figures: Mapping[str, float], **paths: str) -> None:
        """Record final metrics, named with the prefix, and the paths of results."""
        named = {f"{prefix}/{name}": value for name, value in figures.items()}
        self._attempt(lambda opened: opened.results(named, paths, self.epochs))

    def close(self, finished: bool) -> None:
        """Flush everything."""
        self._attempt(lambda opened: opened.close(finished))
        self.open = None

    def _keep(self, opened: TrackerRun) -> None:
        facts = {"tracker": self.name, "id": opened.id, "epochs": self.epochs}
        write_json(self.run.path / KNOWN, facts)

    def _attempt(self, work: Callable[[TrackerRun], object]) -> None:
        if self.open is not None:
            try:
                work(self.open)
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Report any exception: a tracker is third-party code, a network and a server."""
        why = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        self.screen.say(f"note: the run continues without {self.name}, which failed: {why}")
        self.open = None


@contextmanager
def tracked(run: RunFolder, name: Tracker | None, screen: Screen) -> Iterator[Tracking]:
    """The tracking of a run while it trains; only the first of several processes tracks."""
    tracking = Tracking(run, name if ranks.rank() == 0 else None, screen)
    try:
        yield tracking
    except BaseException:
        tracking.close(finished=False)
        raise
    tracking.close(finished=True)


def check_asked(run: RunFolder | None, name: Tracker | None) -> None:
    """HistoError where a report is to be sent to a tracker that the run was not trained with."""
    known = read_known(run) if run is not None and name else None
    if name and (known is None or known.tracker != name):
        raise HistoError(f"this run was not trained with the tracker {name}", "leave {tracker} out")
    check_tracker(name)


def track_report(
    run: RunFolder, name: Tracker | None, metrics: Metrics, page: Path, screen: Screen
) -> None:
    """Send a report's metrics and path to the tracker of the run, where that was asked for.

    A run may be a stranger's, and what it says of its tracker too: nothing is sent unasked.
    """
    if name is None:
        with suppress(HistoError):
            if known := read_known(run):
                way = (f"give {{tracker}} {known.tracker}",) if known.tracker in OPEN else ()
                screen.say("note: these figures were not sent to the run's tracker", *way)
        return
    tracking = Tracking(run, name, screen)
    tracking.begin()
    tracking.results("report", report_figures(metrics), report=str(page))
    tracking.close(run.finished)


def settings_of(run: RunFolder) -> dict[str, str]:
    """Every setting that has a value, as text."""
    return {name: str(value) for name, value in run.settings().items() if value is not None}


def report_figures(metrics: Metrics) -> dict[str, float]:
    """The metrics of a report and the bounds of their intervals, where defined."""
    point = metrics.point
    found = {name: getattr(metrics, name) for name in REPORTED}
    found |= {name: getattr(point, name) for name in AT_POINT} if point else {}
    for name, ends in {**metrics.intervals, **(point.intervals if point else {})}.items():
        if name in found and ends:
            found[f"{name}_low"], found[f"{name}_high"] = ends
    return {name: float(value) for name, value in found.items() if value is not None}
