"""fastai's Recorder, which callbacks read as `learn.recorder`, without waiting for the GPU every batch."""

from __future__ import annotations

import torch
from fastai.learner import Learner, Recorder
from fastai.metrics import AccumMetric, accuracy
from fastcore.foundation import L
from torch import Tensor

from histo.distributed import ranks
from histo.report.metrics import macro_auc

METRICS = ("train_loss", "valid_loss", "accuracy", "roc_auc")
"""The columns of an epoch's log, between its number and its time."""
RECORDED = ("lrs", "iters", "losses", "values", "metric_names", "log", "hps")


class EpochRecorder(Recorder):  # type: ignore[misc]
    """Learning rates, losses and epoch metrics under the names of fastai's own Recorder.

    fastai's fetches the loss of every batch from the device. Here smoothed losses stay on the device
    until the end of an epoch, when they become the list `losses`. The metrics of an epoch are
    histo's own (`report`), AUC included, so that fastai's callbacks show them.
    """

    name, beta = "recorder", 0.98

    def __init__(self) -> None:
        super().__init__()
        self.earlier: list[dict[str, float]] = []
        """metrics of the epochs that a resumed run has already trained"""

    def before_fit(self) -> None:
        """As fastai's, with the names of histo's metrics."""
        super().before_fit()
        self.metric_names = L("epoch", *METRICS, "time")
        self._count, self._filled = 0, 0
        self._value = torch.zeros((), device=self.dls.device)
        self._smoothed = torch.empty(0)
        skipped = getattr(getattr(self.learn, "skip_to_epoch", None), "_skip_to", 0)
        self._skipped = self.earlier[len(self.earlier) - skipped :]
        self.earlier = []

    def before_train(self) -> None:
        """Allocate the losses of an epoch on the device."""
        self._smoothed = torch.zeros(len(self.dls.train), device=self.dls.device)
        self._filled = 0

    def after_batch(self) -> None:
        """Record the learning rate and the smoothed loss of a training batch."""
        if not self.training or len(self.yb) == 0:
            return
        self._count += 1
        loss = (
            self.learn.loss.detach().float() * ranks.world_size()
        )  # the loss of this process's share
        self._value = torch.lerp(loss, self._value, self.beta)
        torch.div(self._value, 1 - self.beta**self._count, out=self._smoothed[self._filled])
        self.learn.smooth_loss = self._smoothed[self._filled]
        self.lrs.append(self.opt.hypers[-1]["lr"])
        self._filled += 1

    def after_train(self) -> None:
        """Fetch the losses of the epoch."""
        self.losses += list(self._smoothed[: self._filled].cpu())
        self._filled = 0

    def after_fit(self) -> None:
        """Fetch the losses of an interrupted epoch, such as the learning rate finder's."""
        self.after_train()

    def after_validate(self) -> None:
        """Do nothing: the metrics come from `report`."""

    def report(self, figures: dict[str, float]) -> None:
        """Set the metrics of the epoch that ends."""
        self.log += L(figures[name] for name in METRICS)

    def after_epoch(self) -> None:
        """As fastai's; an epoch without metrics, such as the learning rate finder's, has no row.

        An epoch that a resumed run skips gets the row of its training, as fastai's callbacks read
        the last row after each epoch.
        """
        if self._skipped:
            row = self._skipped.pop(0)
            self.values.append(L(row[name] for name in METRICS))
            self.iters.append(0)
        elif len(self.log) > 1:
            super().after_epoch()
            self.iters[-1] = self._count


def give_recorder(learn: Learner) -> None:
    """Replace this recorder by fastai's own, with its records and with metrics of the same names."""
    before = vars(learn.recorder)
    after = Recorder()
    for name in RECORDED:
        if name in before:
            setattr(after, name, before[name])
    learn.remove_cb(learn.recorder)
    learn.add_cb(after)
    learn.metrics = [accuracy, AccumMetric(roc_auc, flatten=False)]


def roc_auc(logits: Tensor, classes: Tensor) -> float:
    """The AUC of logits [N, C] and class indices [N], as in history.csv."""
    return macro_auc(classes.numpy(), logits.double().softmax(1).numpy())
