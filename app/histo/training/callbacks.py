"""Training callbacks: freeze the body, and follow the position in the run."""

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
"""Batches between two checks of the losses: a check stalls a GPU, and takes 0.2 ms on a CPU.

At a check, several processes also agree on whether to pause. On a CPU, where batches take long,
every batch is checked.
"""


class FrozenBody(Callback):  # type: ignore[misc]
    """While frozen, the body is in inference mode: no gradients; batch norm, dropout as in prediction."""

    def before_fit(self) -> None:
        """Run the body in inference mode; the head gets copies that autograd can save."""
        self.body = self.learn.model[0]
        forward = self.body.forward

        def infer(x: Tensor) -> Tensor:
            with torch.inference_mode():
                features: Tensor = forward(x)
            return features.clone()

        self.body.forward = infer

    def before_train(self) -> None:
        """Set the body to eval mode, after fastai has switched the model to training mode."""
        self.body.eval()

    def after_fit(self) -> None:
        """Restore the body's own forward pass."""
        del self.body.forward


@dataclass(frozen=True)
class Epoch:
    """The result of one epoch: logits [N, C] and class indices [N] of the validation patches."""

    number: int
    train_loss: float
    logits: Tensor
    labels: Tensor
    seconds: float
    train_seconds: float
    patches: int
    phase_ended: bool
    """whether this is the last epoch of a phase (head only, or whole model)"""


class Watch(Callback):  # type: ignore[misc]
    """Follows a training and reports its progress; starts from a checkpoint if there is one.

    `on_batch` is called after each batch, `on_epoch` after each epoch; `on_pause` between two
    batches if `pause_due` says so, after a check that the losses so far are finite.
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
        """Restore the checkpoint's weights and optimizer, once."""
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
        """An epoch starts or resumes (`before_epoch` is also called for skipped epochs).

        All its losses go into one tensor: thousands of small tensors, one per batch, would fragment
        memory.
        """
        self.running, self.predicted = True, 0
        self.dls.train.epoch, self.dls.train.start = self.at.epoch, self.at.batch
        known, some = self.losses, next(self.learn.model.parameters())
        self.losses = some.new_zeros(len(self.dls.train), requires_grad=False)
        self.losses[: len(known)] = known
        self.start = time.perf_counter()
        if ranks.world_size() > 1:  # no agreement on pausing during validation
            self.pause_if_due()

    def before_batch(self) -> None:
        """Set the position in the schedule."""
        if self.training:  # computed, not accumulated: the same after a resume
            self.learn.pct_train = (self.epoch + self.at.batch / self.n_iter) / self.n_epoch

    def after_batch(self) -> None:
        """Keep training losses and validation logits on the device."""
        if not self.running:  # a batch that another callback runs
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
        """Raise HistoError for a loss that is not finite, with its batch and its learning rate.

        Before the check, losses are those of this process's share.
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
        """Seconds of training in this epoch, including those before an interruption."""
        return self.spent + time.perf_counter() - self.start

    def after_train(self) -> None:
        """Stop the training clock, from which patches per second follow."""
        self.check_losses()
        self.trained = self.train_seconds()

    def after_validate(self) -> None:
        """Report the epoch here, so that trackers find its metrics in their `after_epoch`."""
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
