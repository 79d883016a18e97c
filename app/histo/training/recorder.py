"""fastai's Recorder, which callbacks read as `learn.recorder`, without a wait for the GPU a batch."""

from __future__ import annotations

import torch
from fastai.learner import Learner, Recorder
from fastai.metrics import AccumMetric, accuracy
from fastcore.foundation import L
from torch import Tensor

from histo.distributed import ranks
from histo.report.metrics import macro_auc

METRICS = ("train_loss", "valid_loss", "accuracy", "roc_auc")
"""What the log of an epoch holds between its number and its time."""
RECORDED = ("lrs", "iters", "losses", "values", "metric_names", "log", "hps")


class EpochRecorder(Recorder):  # type: ignore[misc]
    """Rates, losses and epoch figures under the names of fastai's own Recorder.

    fastai's fetches the loss of every batch from the device. Here smoothed losses stay there, and
    become the list `losses` at the end of an epoch. The figures of an epoch are histo's own
    (`report`), AUC included, so that fastai's callbacks show them.
    """

    name, beta = "recorder", 0.98

    def __init__(self) -> None:
        super().__init__()
        self.earlier: list[dict[str, float]] = []
        """the figures of the epochs before a resumed run goes on"""

    def before_fit(self) -> None:
        """As fastai's, with the names of histo's figures."""
        super().before_fit()
        self.metric_names = L("epoch", *METRICS, "time")
        self._count, self._filled = 0, 0
        self._value = torch.zeros((), device=self.dls.device)
        self._smoothed = torch.empty(0)
        skipped = getattr(getattr(self.learn, "skip_to_epoch", None), "_skip_to", 0)
        self._skipped = self.earlier[len(self.earlier) - skipped :]
        self.earlier = []

    def before_train(self) -> None:
        """Room for the losses of an epoch, on the device."""
        self._smoothed = torch.zeros(len(self.dls.train), device=self.dls.device)
        self._filled = 0

    def after_batch(self) -> None:
        """The rate and the smoothed loss of a training batch."""
        if not self.training or len(self.yb) == 0:
            return
        self._count += 1
        loss = self.learn.loss.detach().float() * ranks.world_size()  # that of a share, of several
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
        """Fetch those of an epoch that was cut, as the learning rate finder cuts it."""
        self.after_train()

    def after_validate(self) -> None:
        """The figures come with `report`."""

    def report(self, figures: dict[str, float]) -> None:
        """Take the figures of the epoch that ends."""
        self.log += L(figures[name] for name in METRICS)

    def after_epoch(self) -> None:
        """As fastai's; an epoch without figures, one of the learning rate finder say, has no row.

        An epoch that a resumed run skips has the row of when it was trained, as fastai's callbacks
        look at the last row after each.
        """
        if self._skipped:
            row = self._skipped.pop(0)
            self.values.append(L(row[name] for name in METRICS))
            self.iters.append(0)
        elif len(self.log) > 1:
            super().after_epoch()
            self.iters[-1] = self._count


def give_recorder(learn: Learner) -> None:
    """Put fastai's own Recorder, with what was recorded, and metrics of the same names in place."""
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
