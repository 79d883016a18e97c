"""Batch norm over all processes, also on a CPU, where torch's SyncBatchNorm does not work.

CPU and GPU share one implementation, so that tests on a CPU cover what runs on GPUs. torch's
differentiable all_reduce is deprecated (2.15), and its replacement is private.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from histo.training.data_parallel import all_reduce_sum

SMALL_SHARE = 32
"""With fewer patches per process than this, batch norm uses the statistics of the whole batch."""


def share_batch_norm(model: nn.Module) -> int:
    """Make every batch norm use the statistics of the whole batch; returns how many layers changed."""
    found = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for module in found:
        module.forward = SharedBatchNorm(module)  # type: ignore[method-assign, assignment]
    return len(found)


class SharedBatchNorm:
    """The forward pass of a batch norm over the patches [B, C, …] of all processes.

    Mean and variance are summed in two passes: the difference of two large sums would lose
    precision.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        self.norm, self.own = norm, norm.forward

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise by the statistics of this batch in training, by the running statistics otherwise."""
        norm: Any = self.norm
        if not norm.training:
            return self.own(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = all_reduce_sum(wide.new_full((1,), x.numel() // x.shape[1]))
        mean = SumOverAll.apply(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = SumOverAll.apply(centred.square().sum(axes)) / count
        if norm.track_running_stats:
            self.track(mean.detach(), variance.detach() * count / (count - 1))
        out = centred * (variance + norm.eps).rsqrt().view(shape)
        if norm.affine:
            out = out * norm.weight.view(shape) + norm.bias.view(shape)
        normalised: Tensor = out.to(x.dtype)
        return normalised

    def track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of this batch."""
        norm: Any = self.norm
        norm.num_batches_tracked += 1
        rate = norm.momentum
        rate = 1 / float(norm.num_batches_tracked) if rate is None else rate
        norm.running_mean.lerp_(mean, rate)
        norm.running_var.lerp_(variance, rate)


class SumOverAll(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """The sum of all processes' values, in each process."""
        return all_reduce_sum(values.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Sum the gradients: a process's values enter the loss of every process."""
        return all_reduce_sum(gradient.contiguous().clone())
