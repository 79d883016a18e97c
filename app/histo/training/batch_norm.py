"""Batch norm over all processes, on a CPU as well: torch's SyncBatchNorm refuses tensors of a CPU.

One way for both devices, so that the tests, which have no GPU, test what runs on GPUs. torch's
differentiable all_reduce is deprecated (2.15), and what shall replace it is private.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from histo.training.data_parallel import all_reduce_sum

SMALL_SHARE = 32
"""With fewer patches a process, batch norm takes its statistics from the whole batch."""


def share_batch_norm(model: nn.Module) -> int:
    """Have every batch norm use the statistics of the whole batch; returns how many there are."""
    found = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for module in found:
        module.forward = SharedBatchNorm(module)  # type: ignore[method-assign, assignment]
    return len(found)


class SharedBatchNorm:
    """The forward pass of a batch norm over the patches [B, C, …] of all processes.

    Mean and variance are summed in two steps: the difference of two large sums would lose the last
    digits.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        self.norm, self.own = norm, norm.forward

    def __call__(self, x: Tensor) -> Tensor:
        """Normalised by this batch in training, by the running statistics otherwise."""
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
        """Each process's values in; their sum out, in each."""
        return all_reduce_sum(values.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """A process's values are in the losses of all."""
        return all_reduce_sum(gradient.contiguous().clone())
