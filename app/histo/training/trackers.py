"""Experiment trackers: what a run tells TensorBoard, MLflow or Weights & Biases.

To add one, write a class with the methods of `TrackerRun`, and enter it in `OPEN` below and in
`histo.config.Tracker`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from histo.config import Tracker
from histo.distributed import ranks
from histo.errors import HistoError
from histo.files.writing import read_json, write_json
from histo.run.folder import RunFolder
from histo.screen import Screen

if TYPE_CHECKING:
    from histo.report.results import Metrics

KNOWN = "tracker.json"
"""In the run folder: which tracker, the id of its run, and the last epoch that it has."""
REPORTED = ("roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1", "log_loss")
AT_POINT = ("threshold", "sensitivity", "specificity", "accuracy", "balanced_accuracy", "f1")
"""Figures of the report that a tracker gets; of two classes the latter at the operating point."""


class TrackerRun(Protocol):
    """One run in a tracker; `id` finds it again."""

    id: str

    def settings(self, values: Mapping[str, str]) -> None:
        """Record the settings, once."""

    def epoch(self, number: int, row: Mapping[str, float]) -> None:
        """Record the figures of an epoch."""

    def results(self, figures: Mapping[str, float], paths: Mapping[str, str], epoch: int) -> None:
        """Record final figures, and where the results are; `epoch` is the last one."""

    def close(self, finished: bool) -> None:
        """Write everything out; `finished` is whether the run came to its end."""


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, run: RunFolder, known: str | None, epochs: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.id = known or "tensorboard"
        # an epoch written by a process that was then killed counts as not written
        self.writer: Any = SummaryWriter(  # type: ignore[no-untyped-call]
            str(run.path / self.id), purge_step=epochs + 1 if known else None
        )

    def settings(self, values: Mapping[str, str]) -> None:
        """A table under TEXT."""
        self.writer.add_text("settings", table(values), 0)

    def epoch(self, number: int, row: Mapping[str, float]) -> None:
        """Curves under SCALARS."""
        for name, value in row.items():
            self.writer.add_scalar(name, value, number)
        self.writer.flush()

    def results(self, figures: Mapping[str, float], paths: Mapping[str, str], epoch: int) -> None:
        """Figures under SCALARS, paths under TEXT."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, epoch)
        for name, path in paths.items():
            self.writer.add_text(name, path, epoch)

    def close(self, finished: bool) -> None:
        """Flush the file."""
        self.writer.close()


class MLflow:
    """A run where MLflow's own settings say: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME …"""

    def __init__(self, run: RunFolder, known: str | None, epochs: int) -> None:
        import mlflow

        self.client = mlflow.MlflowClient()
        if known is None:
            # start_run knows the user's experiment; its run is not left active, as only one can be
            with redirect_stdout(io.StringIO()):
                with mlflow.start_run(run_name=name_of(run), nested=True) as made:
                    known = made.info.run_id
        self.id = known
        self.client.update_run(self.id, status="RUNNING")
        there = self.client.get_metric_history(self.id, "valid_loss")
        self.there = {metric.step for metric in there}

    def settings(self, values: Mapping[str, str]) -> None:
        """Parameters, cut to the length that every version takes."""
        from mlflow.entities import Param

        self.client.log_batch(self.id, params=[Param(k, v[:500]) for k, v in values.items()])

    def epoch(self, number: int, row: Mapping[str, float]) -> None:
        """Metrics at a step; MLflow would keep an epoch twice."""
        if number not in self.there:
            self._metrics(row, number)

    def results(self, figures: Mapping[str, float], paths: Mapping[str, str], epoch: int) -> None:
        """Metrics and tags."""
        self._metrics(figures, epoch)
        for name, path in paths.items():
            self.client.set_tag(self.id, name, path)

    def _metrics(self, figures: Mapping[str, float], step: int) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in figures.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def close(self, finished: bool) -> None:
        """The status of the run."""
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


class Wandb:
    """A run where wandb's own settings say: WANDB_PROJECT, WANDB_MODE …"""

    def __init__(self, run: RunFolder, known: str | None, epochs: int) -> None:
        import wandb

        self.run = wandb.init(
            id=known,
            name=name_of(run),
            resume="allow" if known else None,
            reinit="create_new",  # beside a run of the user's own
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.id = str(self.run.id)

    def settings(self, values: Mapping[str, str]) -> None:
        """The run's config."""
        self.run.config.update(dict(values))

    def epoch(self, number: int, row: Mapping[str, float]) -> None:
        """History at a step; wandb drops a step that it has."""
        self.run.log(dict(row), step=number)

    def results(self, figures: Mapping[str, float], paths: Mapping[str, str], epoch: int) -> None:
        """The run's summary."""
        self.run.summary.update({**figures, **paths})

    def close(self, finished: bool) -> None:
        """Wait until all is sent, or written where wandb is offline."""
        self.run.finish(exit_code=0 if finished else 1)


OPEN: dict[Tracker, Callable[[RunFolder, str | None, int], TrackerRun]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": Wandb,
}
"""A tracker's run, new or, where its id is known, again; with the epochs that it has."""


class Tracking:
    """The tracker of a run, if any. It never ends a run: a failure is said once, and the last call."""

    def __init__(self, run: RunFolder, name: Tracker | None, screen: Screen) -> None:
        self.run, self.name, self.screen = run, name, screen
        self.open: TrackerRun | None = None
        self.epochs = 0

    def begin(self, rows: Sequence[Mapping[str, float]] = ()) -> None:
        """Open the tracker's run, anew or again, and catch up with the epochs that there are."""
        self._attempt(self._begin)
        self.follow(rows)

    def _begin(self) -> None:
        assert self.name
        path = self.run.path / KNOWN
        known = read_json(path) if path.is_file() else {}
        again = known.get("id") if known.get("tracker") == self.name else None
        self.epochs = int(known["epochs"]) if again else 0
        self.open = OPEN[self.name](self.run, again, self.epochs)
        if again is None:
            self._keep()
            self.open.settings(settings_of(self.run))

    def follow(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Record the epochs that the tracker does not have yet."""
        for row in rows:
            if row["epoch"] > self.epochs:
                self._attempt(lambda row=row: self._epoch(row))  # type: ignore[misc]

    def _epoch(self, row: Mapping[str, float]) -> None:
        if self.open:
            number = int(row["epoch"])
            self.open.epoch(number, {k: v for k, v in row.items() if k != "epoch"})
            self.epochs = number
            self._keep()

    def results(self, prefix: str, figures: Mapping[str, float], **paths: str) -> None:
        """Record final figures, their names after the prefix, and where the results are."""
        named = {f"{prefix}/{name}": value for name, value in figures.items()}
        self._attempt(lambda: self.open and self.open.results(named, paths, self.epochs))

    def close(self, finished: bool) -> None:
        """Write everything out."""
        self._attempt(lambda: self.open and self.open.close(finished))
        self.open, self.name = None, None

    def _keep(self) -> None:
        assert self.open
        facts = {"tracker": self.name, "id": self.open.id, "epochs": self.epochs}
        write_json(self.run.path / KNOWN, facts)

    def _attempt(self, work: Callable[[], object]) -> None:
        """Do what may fail in any way: a tracker is other people's code, network and server."""
        if self.name is None:
            return
        try:
            work()
        except Exception as error:
            why = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
            self.screen.say(f"note: the run goes on without {self.name}, which failed: {why}")
            self.open, self.name = None, None


@contextmanager
def tracked(run: RunFolder, name: Tracker | None, screen: Screen) -> Iterator[Tracking]:
    """The tracking of a run while it trains; of several processes the first tracks for all."""
    tracking = Tracking(run, name if ranks.rank() == 0 else None, screen)
    try:
        yield tracking
    except BaseException:
        tracking.close(finished=False)
        raise
    tracking.close(finished=True)


def track_report(run: RunFolder, metrics: Metrics, page: Path, screen: Screen) -> None:
    """Tell the tracker of a run, where it had one, what its report found and where it is."""
    if not (run.path / KNOWN).is_file():
        return
    tracking = Tracking(run, run.settings().get("tracker"), screen)
    tracking.begin()
    tracking.results("report", report_figures(metrics), report=str(page))
    tracking.close(run.finished)


def check_tracker(name: Tracker | None) -> None:
    """HistoError where the tracker is not installed: said before there is any work to lose."""
    spec = find_spec(name) if name else None
    if name and (spec is None or spec.origin is None):  # a folder `wandb`, say, is no package
        raise HistoError(
            f"the tracker {name} is not installed",
            f"pip install 'histolearn[{name}]'",
            "leave {tracker} out",
        )


def name_of(run: RunFolder) -> str:
    """What a run is called in a tracker: its folder, and the one above it, of which it may be a fold."""
    return "/".join(run.path.resolve().parts[-2:])


def settings_of(run: RunFolder) -> dict[str, str]:
    """Every setting that has a value, as text."""
    return {name: str(value) for name, value in run.settings().items() if value is not None}


def table(values: Mapping[str, str]) -> str:
    """Names and values as a table in Markdown."""
    rows = "".join(f"| {name} | {value.replace('|', ' ')} |\n" for name, value in values.items())
    return f"| setting | value |\n|---|---|\n{rows}"


def report_figures(metrics: Metrics) -> dict[str, float]:
    """The figures of a report and the ends of their intervals, where they are defined."""
    point = metrics.point
    found = {name: getattr(metrics, name) for name in REPORTED}
    found |= {name: getattr(point, name) for name in AT_POINT} if point else {}
    for name, ends in {**metrics.intervals, **(point.intervals if point else {})}.items():
        if name in found and ends:
            found[f"{name}_low"], found[f"{name}_high"] = ends
    return {name: float(value) for name, value in found.items() if value is not None}
