"""Several processes train one model: gradients, batch norm, losses and predictions are shared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from fastai.callback.core import Callback
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from histo.distributed import ranks

SMALL_SHARE = 32
"""Below so many patches a process, batch norm is reckoned over the whole batch."""


class DataParallel(Callback):  # type: ignore[misc]
    """One step of all processes is the step of one process over the whole batch.

    Each has its share of the batch (`PatchDL`), and PyTorch's DistributedDataParallel averages the
    gradients (Li et al., arXiv:2006.15704). Shares may differ by a patch, so a loss weighs as much
    as its patches.
    """

    order = 60  # after `Watch`, which puts a checkpoint's weights back

    def before_fit(self) -> None:
        """Wrap the model: each phase has other parameters to train."""
        self.alone = self.learn.model
        on_gpu = self.dls.device.type == "cuda"
        self.learn.model = DistributedDataParallel(
            self.alone,
            device_ids=[self.dls.device.index] if on_gpu else None,
            broadcast_buffers=False,  # not in each batch: see `before_validate`
            gradient_as_bucket_view=True,
        )

    def after_loss(self) -> None:
        """Weigh the loss by this process's part of the batch."""
        if self.training:
            part = len(self.yb[0]) / self.dls.train.batch
            self.learn.loss_grad = self.loss_grad * (part * ranks.world_size())
            self.learn.loss = self.loss * part

    def before_validate(self) -> None:
        """Judge by one model: batch norm's running figures are those of the first process."""
        broadcast_tensors(self.alone.buffers())

    def after_fit(self) -> None:
        """The model itself again."""
        self.learn.model = self.alone


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum over all processes of a tensor that has the same shape in each."""
    if ranks.world_size() > 1:
        dist.all_reduce(values)
    return values


def broadcast_tensors(values: Iterable[Tensor]) -> None:
    """Give every process the values of the first."""
    if ranks.world_size() > 1:
        for value in values:
            dist.broadcast(value, src=0)


def gather_rows(rows: Tensor, loader: Any) -> Tensor:
    """The rows [N, …] of a whole pass in its order, of which each process has those of its share."""
    if ranks.world_size() == 1:
        return rows
    places = [torch.from_numpy(loader.places(number)) for number in range(ranks.world_size())]
    most = max(len(place) for place in places)
    rows = rows.cpu()
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in places]
    dist.all_gather(parts, padded)
    whole = rows.new_empty(sum(len(place) for place in places), *rows.shape[1:])
    for place, part in zip(places, parts, strict=True):
        whole[place] = part[: len(place)]
    return whole


def predict_valid(model: nn.Module, loader: Any) -> Tensor:
    """Logits [N, C] of all validation patches, of which each process judges its share.

    Not by fastai's `get_preds`: its loader forgets the shares, and it gathers what it finds.
    """
    model.eval()
    with torch.inference_mode():
        rows = torch.cat([model(patches) for patches, _ in loader])
    return gather_rows(rows.cpu(), loader)


def share_batch_norm(model: nn.Module) -> int:
    """Have every batch norm reckon over the batches of all processes; how many there are."""
    found = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for module in found:
        module.forward = SharedBatchNorm(module)  # type: ignore[method-assign, assignment]
    return len(found)


class SharedBatchNorm:
    """The forward pass of a batch norm over all processes' patches [B, C, …].

    PyTorch's own SyncBatchNorm is for GPUs alone. Mean and variance are summed in two steps, as
    the difference of two large sums would lose its last digits.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        self.norm, self.own = norm, norm.forward

    def __call__(self, x: Tensor) -> Tensor:
        """Normalised by this batch in training, by the running figures otherwise."""
        norm: Any = self.norm
        if not norm.training:
            return self.own(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = all_reduce_sum(
            wide.new_full((1,), x.numel() // x.shape[1])
        )  # no copy from the host
        mean = SumOverAll.apply(wide.sum(axes)) / count
        apart = wide - mean.view(shape)
        variance = SumOverAll.apply(apart.square().sum(axes)) / count
        if norm.track_running_stats:
            self.keep(mean.detach(), variance.detach() * count / (count - 1))
        out = apart * (variance + norm.eps).rsqrt().view(shape)
        if norm.affine:
            out = out * norm.weight.view(shape) + norm.bias.view(shape)
        shared: Tensor = out.to(x.dtype)
        return shared

    def keep(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running figures towards this batch's."""
        norm: Any = self.norm
        norm.num_batches_tracked += 1
        rate = norm.momentum
        rate = 1 / float(norm.num_batches_tracked) if rate is None else rate
        norm.running_mean.lerp_(mean, rate)
        norm.running_var.lerp_(variance, rate)


class SumOverAll(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Each process's values in, their sum out, in each."""
        return all_reduce_sum(values.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """What the sum does to all losses, each process's values do."""
        return all_reduce_sum(gradient.contiguous().clone())
