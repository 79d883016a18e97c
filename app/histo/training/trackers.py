"""Experiment trackers: how TensorBoard, MLflow and Weights & Biases record a run.

To add one, write a class with the methods of `TrackerRun`, and add it to `OPEN` below and to
`histo.config.Tracker`.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any, Protocol

from histo.config import Tracker
from histo.errors import HistoError
from histo.run.folder import RunFolder


class TrackerRun(Protocol):
    """One run in a tracker; `id` identifies it."""

    id: str

    def settings(self, values: Mapping[str, str]) -> None:
        """Record the settings, once."""

    def epoch(self, number: int, row: Mapping[str, float]) -> None:
        """Record the metrics of an epoch."""

    def results(self, figures: Mapping[str, float], paths: Mapping[str, str], epoch: int) -> None:
        """Record final metrics and the paths of results; `epoch` is the last one."""

    def close(self, finished: bool) -> None:
        """Flush everything; `finished` is whether the run has finished."""


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, run: RunFolder, known: str | None, epochs: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.id = "tensorboard"  # never as tracker.json says: it would be a path of its choice
        # an epoch of a process that was killed may not have been written: it is written again
        self.writer: Any = SummaryWriter(
            str(run.path / self.id), purge_step=epochs + 1 if known else None
        )

    def settings(self, values: Mapping[str, str]) -> None:
        """Write a table under TEXT."""
        self.writer.add_text("settings", table(values), 0)

    def epoch(self, number: int, row: Mapping[str, float]) -> None:
        """Write curves under SCALARS."""
        for name, value in row.items():
            self.writer.add_scalar(name, value, number)
        self.writer.flush()

    def results(self, figures: Mapping[str, float], paths: Mapping[str, str], epoch: int) -> None:
        """Write metrics under SCALARS, paths under TEXT."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, epoch)
        for name, path in paths.items():
            self.writer.add_text(name, path, epoch)

    def close(self, finished: bool) -> None:
        """Flush the file."""
        self.writer.close()


class MLflow:
    """A run in the place that MLflow's variables set: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, run: RunFolder, known: str | None, epochs: int) -> None:
        import mlflow

        self.client = mlflow.MlflowClient()
        if known is None:
            # start_run finds the user's experiment; its run is ended, as only one can be active
            with (
                redirect_stdout(io.StringIO()),  # it prints a link
                mlflow.start_run(run_name=name_of(run), nested=True) as made,
            ):
                known = made.info.run_id
        self.id = known
        self.client.update_run(self.id, status="RUNNING")
        there = self.client.get_metric_history(self.id, "valid_loss")
        self.there = {metric.step for metric in there}

    def settings(self, values: Mapping[str, str]) -> None:
        """Log parameters, cut to the length that every version accepts."""
        from mlflow.entities import Param

        self.client.log_batch(self.id, params=[Param(k, v[:500]) for k, v in values.items()])

    def epoch(self, number: int, row: Mapping[str, float]) -> None:
        """Log metrics at a step, unless MLflow has it: it would keep both."""
        if number not in self.there:
            self._metrics(row, number)

    def results(self, figures: Mapping[str, float], paths: Mapping[str, str], epoch: int) -> None:
        """Log metrics and tags."""
        self._metrics(figures, epoch)
        for name, path in paths.items():
            self.client.set_tag(self.id, name, path)

    def _metrics(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in figures.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def close(self, finished: bool) -> None:
        """Set the status of the run."""
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


class Wandb:
    """A run in the place that wandb's variables set: WANDB_PROJECT, WANDB_MODE."""

    def __init__(self, run: RunFolder, known: str | None, epochs: int) -> None:
        import wandb

        self.run = wandb.init(
            id=known,
            name=name_of(run),
            resume="allow" if known else None,
            reinit="create_new",  # leaves a run of the user's open
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.id = str(self.run.id)

    def settings(self, values: Mapping[str, str]) -> None:
        """Set the run's config."""
        self.run.config.update(dict(values))

    def epoch(self, number: int, row: Mapping[str, float]) -> None:
        """Log a step of the history; wandb drops a step that it already has."""
        self.run.log(dict(row), step=number)

    def results(self, figures: Mapping[str, float], paths: Mapping[str, str], epoch: int) -> None:
        """Set the run's summary."""
        self.run.summary.update({**figures, **paths})

    def close(self, finished: bool) -> None:
        """Wait until everything is sent; offline, wandb writes on until this process ends."""
        self.run.finish(exit_code=0 if finished else 1)


OPEN: dict[Tracker, Callable[[RunFolder, str | None, int], TrackerRun]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": Wandb,
}
"""Opens a tracker's run: a new one, or the one with this id, with the epochs that it has."""


def check_tracker(name: Tracker | None) -> None:
    """HistoError if the tracker is not installed, before any work is done."""
    spec = find_spec(name) if name else None
    if name and (spec is None or spec.origin is None):  # a folder named `wandb` is not the package
        raise HistoError(
            f"the tracker {name} is not installed",
            f"pip install 'histolearn[{name}]'",
            "leave {tracker} out",
        )


def name_of(run: RunFolder) -> str:
    """The name of a run in a tracker: its folder, after the parent folder as it may be a fold."""
    return "/".join(run.path.resolve().parts[-2:])


def table(values: Mapping[str, str]) -> str:
    """Names and values as a table in Markdown."""
    rows = "".join(f"| {name} | {value.replace('|', ' ')} |\n" for name, value in values.items())
    return f"| setting | value |\n|---|---|\n{rows}"
