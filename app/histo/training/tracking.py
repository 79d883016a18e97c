"""Sends a run to its tracker: settings, metrics of each epoch, final metrics, those of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from histo.config import Tracker
from histo.distributed import ranks
from histo.files.writing import read_json, write_json
from histo.run.folder import RunFolder
from histo.screen import Screen
from histo.training.trackers import OPEN, TrackerRun

if TYPE_CHECKING:
    from histo.report.results import Metrics

KNOWN = "tracker.json"
"""File in the run folder: which tracker, the id of its run, and the last epoch that it has."""
REPORTED = ("roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1", "log_loss")
AT_POINT = ("threshold", "sensitivity", "specificity", "accuracy", "balanced_accuracy", "f1")
"""Metrics of the report that a tracker gets; for two classes the latter at the operating point."""


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
        path = self.run.path / KNOWN
        known = read_json(path) if path.is_file() else {}
        again = known.get("id") if known.get("tracker") == name else None
        self.epochs = int(known["epochs"]) if again else 0
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


def track_report(run: RunFolder, metrics: Metrics, page: Path, screen: Screen) -> None:
    """Send a report's metrics and path to the tracker of the run, if it had one."""
    if not (run.path / KNOWN).is_file():
        return
    tracking = Tracking(run, run.settings().get("tracker"), screen)
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
