"""What is written to the run folder during training."""

from __future__ import annotations

import csv
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from histo import __version__
from histo.data.appearance import ENOUGH, appearance_of
from histo.data.dataset import Dataset
from histo.data.similar import hashes_of
from histo.distributed import ranks
from histo.errors import LOWER_RATE, Call, HistoError, Stopped
from histo.files.writing import write_json, written
from histo.run.folder import RunFolder, write_split
from histo.run.predictions import SKIPPED, write_predictions, write_skipped
from histo.run.whole import begin_keeping, keep
from histo.screen import Screen

if TYPE_CHECKING:
    from fastai.learner import Learner
    from torch import Tensor

    from histo.model.checkpoint import Checkpoint
    from histo.training.callbacks import Epoch, Watch
    from histo.training.tracking import Tracking

HISTORY = (
    "epoch",
    "train_loss",
    "valid_loss",
    "accuracy",
    "roc_auc",
    "seconds",
    "patches_per_second",
)
HEADER = "epoch  train loss  valid loss  accuracy     AUC  seconds  patches/s"
NARROW_HEADER = "epoch   train   valid  accuracy     AUC  seconds  patches/s"
"""For terminals of 60 columns: train and valid are losses, as fastai prints them."""
PACKAGES = ("fastai", "torch", "torchvision", "opencv-python", "numpy", "pandas")


class Recording:
    """Records each epoch: checkpoint, metrics, best weights, and a line on the screen.

    The checkpoint is written first, and all other files of an epoch can be derived from it: after a
    kill at any moment, a resumed run writes them again, and repeats the training since the
    checkpoint.
    """

    def __init__(
        self,
        run: RunFolder,
        data: Dataset,
        screen: Screen,
        minutes: float,
        stop: Callable[[], bool],
        tracking: Tracking,
        begin: Checkpoint | None = None,
    ) -> None:
        self.run, self.data, self.screen, self.tracking = run, data, screen, tracking
        self.seconds, self.stop = 60 * minutes, stop
        self.rows: list[dict[str, float]] = list(begin.facts["rows"]) if begin else []
        self.best = float(begin.facts["best"]) if begin else -math.inf
        self.kept, self.leads = time.monotonic(), ranks.rank() == 0
        if begin and begin.position.batch == 0 and self.leads:
            self._conclude(begin.part("model."), begin.tensors.get("logits"))

    def pause_due(self) -> bool:
        """Whether it is time for a checkpoint, or the user has asked to stop."""
        return self.stop() or (self.leads and time.monotonic() - self.kept >= self.seconds)

    def pause(self, watch: Watch) -> None:
        """A checkpoint between two batches; the end of the run if the user has asked to stop."""
        from histo.model.checkpoint import Checkpoint, capture

        stop = ranks.any_rank(self.stop())
        begun = watch.at.batch > 0  # otherwise the last epoch's checkpoint is current
        if self.leads and begun and (watch.training or stop):
            tensors, facts = capture(watch.learn, phase_ended=False)
            tensors["losses"] = watch.losses[: watch.at.batch].float().cpu().clone()
            facts["train_seconds"] = watch.train_seconds()
            self._keep(Checkpoint(watch.at, tensors, facts))
        if stop:
            place = f"stopped in epoch {watch.at.epoch + 1}, after {watch.at.batch:,} batches"
            stopped = (
                Stopped(place, Call("to resume", "train", {"resume": self.run.path}))
                if self.run.begun
                else Stopped(f"{place}: nothing of this run was kept")
            )
            stopped.said_elsewhere = not self.leads
            raise stopped

    def epoch(self, learn: Learner, seen: Epoch) -> None:
        """Evaluate an epoch: checkpoint, row of history.csv, weights and predictions if it is best."""
        from histo.model.checkpoint import Checkpoint, Position, capture
        from histo.report.metrics import log_loss, macro_auc

        probabilities = softmax(seen.logits)
        if not np.isfinite(probabilities).all():
            diverged = HistoError(
                f"the predictions are not finite after epoch {seen.number}", *LOWER_RATE
            )
            diverged.said_elsewhere = not self.leads
            raise diverged
        labels = seen.labels.numpy()
        row = {
            "epoch": seen.number,
            "train_loss": seen.train_loss,
            "valid_loss": log_loss(labels, probabilities),
            "accuracy": float((probabilities.argmax(1) == labels).mean()),
            "roc_auc": macro_auc(labels, probabilities),
            "seconds": seen.seconds,
            "patches_per_second": seen.patches / seen.train_seconds,
        }
        learn.recorder.report(row)
        if not self.leads:
            return
        self.rows.append(row)
        score = row["roc_auc"] if len(self.data.vocab) == 2 else -row["valid_loss"]
        tensors, facts = capture(learn, phase_ended=seen.phase_ended)
        if best := score > self.best:
            self.best, tensors["logits"] = score, seen.logits
        checkpoint = Checkpoint(Position(seen.number), tensors, facts)
        self._keep(checkpoint)
        self._conclude(checkpoint.part("model."), seen.logits if best else None)
        self._say(row)
        self.tracking.follow(self.rows)

    def _keep(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; if a weight is not finite, the last good checkpoint stays."""
        import torch

        if not all(torch.isfinite(value).all() for value in checkpoint.part("model.").values()):
            raise HistoError("the weights are not finite", *LOWER_RATE)
        checkpoint.facts.update(rows=self.rows, best=self.best)
        checkpoint.write(self.run.checkpoint)
        self.kept = time.monotonic()

    def _conclude(self, state: Mapping[str, Tensor], logits: Tensor | None) -> None:
        """Write the files that follow from the checkpoint of a finished epoch."""
        from histo.model.checkpoint import save_best

        with written(self.run.history, "w") as file:
            table = csv.DictWriter(file, HISTORY, lineterminator="\n")
            table.writeheader()
            table.writerows(
                {k: v if k == "epoch" else f"{v:.6g}" for k, v in r.items()} for r in self.rows
            )
        if logits is not None:
            begin_keeping(self.run)
            save_best(self.run.checkpoint, state)
            self._predictions(softmax(logits))
            keep(self.run, int(self.rows[-1]["epoch"]))

    def _predictions(self, probabilities: Any) -> None:
        labels = [self.data.labels[i] for i in np.flatnonzero(self.data.valid)]
        write_predictions(
            self.run.predictions, self.data.valid_ids, labels, probabilities, self.data.vocab
        )

    def _say(self, row: dict[str, float]) -> None:
        narrow = self.screen.columns < len(HEADER)
        losses = 6 if narrow else 10
        self.screen.row(
            NARROW_HEADER if narrow else HEADER,
            f"{row['epoch']:5d}  {row['train_loss']:{losses}.4f}  {row['valid_loss']:{losses}.4f}  "
            f"{row['accuracy']:8.4f}  {row['roc_auc']:6.4f}  {row['seconds']:7.1f}  "
            f"{row['patches_per_second']:9.0f}",
        )

    def finish_in_fp32(self, learn: Learner) -> None:
        """Predict the validation patches again in fp32, so that the table agrees with the bundle."""
        from histo.model.checkpoint import load_best
        from histo.training.data_parallel import broadcast_tensors, predict_valid

        if self.leads:
            load_best(self.run.checkpoint, learn.model)
        broadcast_tensors(learn.model.state_dict().values())
        logits = predict_valid(learn.model, learn.dls.valid)
        if self.leads:
            self._predictions(softmax(logits))

    def finish(self) -> None:
        """Draw the learning curve, report the best epoch, and delete what only resuming needs."""
        from histo.model.checkpoint import LAST
        from histo.report.plots import draw_learning_curve

        draw_learning_curve(self.run.path / "learning_curve", self.rows)
        self.run.mark_finished()
        (self.run.checkpoint / LAST).unlink(missing_ok=True)
        self._say_stale()
        key = "roc_auc" if len(self.data.vocab) == 2 else "valid_loss"
        pick = max if key == "roc_auc" else min
        best = pick(self.rows, key=lambda row: row[key])
        self.tracking.results("kept", best, run_folder=str(self.run.path.resolve()))
        self.screen.say(
            f"kept epoch {best['epoch']:g}: AUC {best['roc_auc']:.4f}, "
            f"accuracy {best['accuracy']:.4f} on {int(self.data.valid.sum()):,} patches"
        )

    def _say_stale(self) -> None:
        """Name the report and the bundle that were made before the training had ended."""
        made = {
            "interpret": self.run.report / "report.html",
            "export": self.run.export / "model.json",
        }
        for command, file in made.items():
            if file.is_file():
                self.screen.say(
                    f"note: {file.parent} was made before the training had ended",
                    f"make it again: histo {command} {self.run.path}",
                )


def softmax(logits: Tensor) -> Any:
    """Probabilities float64 [N, C] of logits."""
    return logits.double().softmax(1).numpy()


def write_start(run: RunFolder, data: Dataset, device: Any) -> None:
    """Write what is known before the first batch: split, environment, sample sheet."""
    from histo.report.plots import draw_sheet

    write_sides(run, data, np.where(data.valid, "valid", "train").tolist())
    write_json(run.environment, environment(data, device))
    chosen = np.random.default_rng(0).permutation(len(data.ids))[:9]
    draw_sheet(
        run.path / "samples",
        list(data.store.take(chosen)),
        [f"label {data.labels[i]}" for i in chosen],
        "Sample patches",
    )


def write_sides(run: RunFolder, data: Dataset, sides: Sequence[str]) -> None:
    """Write split.csv, the side or the fold of each patch, and near.npy, by which copies are known."""
    sha1 = [digest.decode() for digest in data.store.sha1.tolist()]
    write_split(run.split, data.ids, data.labels, sides, sha1, data.groups)
    write_skipped(run.path / SKIPPED, data.skipped)
    with written(run.near) as file:
        np.save(file, hashes_of(data.store))


def environment(data: Dataset, device: Any) -> dict[str, Any]:
    """Versions, device, command line, git commit, fingerprints and look of the data."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {
        **session(device),
        "platform": platform.platform(),
        "git_commit": commit,
        "fingerprint": data.fingerprints(),
        "appearance": appearance(data),
    }


def appearance(data: Dataset) -> dict[str, Any] | None:
    """How the patches look: figures of some of them, evenly drawn; None of fewer than two."""
    count = len(data.ids)
    places = np.unique(np.linspace(0, count - 1, min(ENOUGH, count)).astype(np.int64))
    found = appearance_of(data.store.take(place[None])[0] for place in places)
    return found.as_dict() if found else None


def session(device: Any) -> dict[str, Any]:
    """One process's session in a run: versions, device, command line, start time."""
    import torch

    from histo.model.device import describe_device

    return {
        "versions": {
            "python": platform.python_version(),
            "histo": __version__,
            **{name: version(name) for name in PACKAGES},
        },
        "device": describe_device(device),
        "threads": torch.get_num_threads(),
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def record_resumed(run: RunFolder, device: Any, screen: Screen) -> None:
    """Add this process to environment.json, and report versions that have changed."""
    facts, now = run.facts(), session(device)
    other = [
        f"{name} {facts['versions'].get(name)} at the start, {value} now"
        for name, value in now["versions"].items()
        if facts["versions"].get(name) != value
    ]
    if facts.get("threads", now["threads"]) != now["threads"]:  # sums are added in another order
        other.append(f"{facts['threads']} threads at the start, {now['threads']} now")
    if other:
        screen.say(
            f"note: results may differ slightly from an uninterrupted run: {', '.join(other)}"
        )
    write_json(run.environment, {**facts, "resumed": [*facts.get("resumed", []), now]})
