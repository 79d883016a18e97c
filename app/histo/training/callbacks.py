"""Callbacks of a training: the frozen body, and the position in the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from torch import Tensor

from histo.distributed import ranks
from histo.errors import LOWER_RATE, HistoError
from histo.model.checkpoint import Checkpoint, Position
from histo.training.data_parallel import all_reduce_sum, gather_rows

CHECK_ON_GPU, CHECK_ON_CPU = 50, 8
"""Batches between two checks of the losses: a check makes a GPU wait, and takes a CPU 0.2 ms.

Several processes also agree then on whether to pause; on a CPU, where batches are long, at each.
"""


class FrozenBody(Callback):  # type: ignore[misc]
    """While frozen, the body only infers: no gradients, batch norm and dropout as in prediction."""

    def before_fit(self) -> None:
        """Let the body infer alone; the head gets copies that autograd may keep."""
        self.body = self.learn.model[0]
        forward = self.body.forward

        def infer(x: Tensor) -> Tensor:
            with torch.inference_mode():
                features: Tensor = forward(x)
            return features.clone()

        self.body.forward = infer

    def before_train(self) -> None:
        """After fastai's own switch to training mode."""
        self.body.eval()

    def after_fit(self) -> None:
        """The body's own forward pass again."""
        del self.body.forward


@dataclass(frozen=True)
class Epoch:
    """What came of one epoch: logits [N, C] and class indices [N] of the validation patches."""

    number: int
    train_loss: float
    logits: Tensor
    labels: Tensor
    seconds: float
    train_seconds: float
    patches: int
    phase_ended: bool
    """whether the head's epochs, or all, end with this one"""


class Watch(Callback):  # type: ignore[misc]
    """Follows a training and reports it; begins within a run where a checkpoint says so.

    `on_batch` is called after each batch, `on_epoch` after each epoch; `on_pause` between two
    batches where `pause_due` says so, once the losses so far have proved finite.
    """

    order = 55  # before fastai sets the schedule's rates for a batch

    def __init__(
        self,
        on_batch: Callable[[], None],
        on_epoch: Callable[[Learner, Epoch], None],
        on_pause: Callable[[Watch], None] = lambda _: None,
        pause_due: Callable[[], bool] = lambda: False,
        begin: Checkpoint | None = None,
    ) -> None:
        self.on_batch, self.on_epoch = on_batch, on_epoch
        self.on_pause, self.pause_due, self.begin = on_pause, pause_due, begin
        self.at = begin.position if begin else Position()

    def before_fit(self) -> None:
        """The checkpoint's weights and optimizer, once."""
        self.running = False
        self.losses, self.rates, self.spent = torch.empty(0), {}, 0.0  # type: ignore[var-annotated]
        if self.begin:
            self.begin.restore(self.learn)
            self.losses = self.begin.tensors.get("losses", self.losses)
            self.spent = float(self.begin.facts.get("train_seconds", 0.0))
            self.begin = None
        self.checked = len(self.losses)
        on_cpu = CHECK_ON_CPU if ranks.world_size() == 1 else 1
        self.every = on_cpu if self.dls.device.type == "cpu" else CHECK_ON_GPU

    def before_train(self) -> None:
        """An epoch begins or goes on (`before_epoch` also comes for those that are skipped).

        There is room for all its losses at once: thousands of small tensors, one made in each batch,
        would keep the memory between them from being used again.
        """
        self.running, self.predicted = True, 0
        self.dls.train.epoch, self.dls.train.start = self.at.epoch, self.at.batch
        known, some = self.losses, next(self.learn.model.parameters())
        self.losses = some.new_zeros(len(self.dls.train), requires_grad=False)
        self.losses[: len(known)] = known
        self.start = time.perf_counter()
        if ranks.world_size() > 1:  # they do not ask while they validate
            self.pause_if_due()

    def before_batch(self) -> None:
        """How far the schedule is."""
        if self.training:  # not added up batch by batch: the same wherever training began
            self.learn.pct_train = (self.epoch + self.at.batch / self.n_iter) / self.n_epoch

    def after_batch(self) -> None:
        """Keep losses of training, logits of validation, on the device."""
        if not self.running:  # a batch that another callback asks for
            return
        if self.training:
            self.losses[self.at.batch] = self.loss.detach()
            self.rates[self.at.batch] = float(self.opt.hypers[-1]["lr"])
            self.at = Position(self.at.epoch, self.at.batch + 1)
        else:
            if not self.predicted:
                shape = len(self.dls.valid.dataset), self.pred.shape[1]
                self.logits = self.losses.new_empty(shape)
            end = self.predicted + len(self.pred)
            self.logits[self.predicted : end] = self.pred.detach()
            self.predicted = end
        self.on_batch()
        due = self.training and not self.at.batch % self.every
        if due:
            self.check_losses()
        if due or ranks.world_size() == 1:
            self.pause_if_due()

    def pause_if_due(self) -> None:
        """Several processes pause together, at the same batch."""
        if ranks.any_rank(self.pause_due()):
            self.check_losses()
            self.on_pause(self)

    def check_losses(self) -> None:
        """Refuse a loss that is not finite, naming its batch and its learning rate.

        Until they are checked, losses are those of this process's share.
        """
        if self.checked == self.at.batch:
            return
        new = all_reduce_sum(self.losses[self.checked : self.at.batch])
        if not torch.isfinite(new).all():
            first = self.checked + int((~torch.isfinite(new)).nonzero()[0])
            raise HistoError(
                f"the loss is not finite in batch {first + 1} of epoch {self.at.epoch + 1}, at "
                f"learning rate {self.rates[first]:.2g}",
                *LOWER_RATE,
            )
        self.checked = self.at.batch

    def train_seconds(self) -> float:
        """Seconds of training in this epoch, those before a break included."""
        return self.spent + time.perf_counter() - self.start

    def after_train(self) -> None:
        """The clock of training alone, for patches a second."""
        self.check_losses()
        self.trained = self.train_seconds()

    def after_validate(self) -> None:
        """Hand the epoch over: here, so that trackers find its figures in their `after_epoch`."""
        if not self.running:
            return
        losses, seconds = self.losses, self.train_seconds()
        self.at, self.running = Position(self.at.epoch + 1), False
        self.losses, self.checked, self.spent = torch.empty(0), 0, 0.0
        self.on_epoch(
            self.learn,
            Epoch(
                self.at.epoch,
                float(losses.mean()),
                gather_rows(self.logits[: self.predicted], self.dls.valid).float().cpu(),
                self.dls.valid.codes.cpu(),
                seconds,
                self.trained,
                self.dls.train.n,
                self.epoch == self.n_epoch - 1,
            ),
        )
