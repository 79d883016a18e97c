"""DistributedDataParallel as a fastai callback: fastai's own needs accelerate, and equal shares.

Several processes train one model: they share gradients, losses and predictions (and batch norm, see
`batch_norm`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from fastai.callback.core import Callback
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from histo.distributed import ranks


class DataParallel(Callback):  # type: ignore[misc]
    """All processes together take the step that one process would take with the whole batch.

    Each process has its share of the batch (`PatchDL`), and DistributedDataParallel averages the
    gradients (Li et al., arXiv:2006.15704). Shares may differ by a patch, so each loss is weighted
    by its number of patches.
    """

    order = 60  # after `Watch`, which restores a checkpoint's weights

    def before_fit(self) -> None:
        """Wrap the model anew in each phase, as each trains other parameters."""
        self.unwrapped = self.learn.model
        on_gpu = self.dls.device.type == "cuda"
        self.learn.model = DistributedDataParallel(
            self.unwrapped,
            device_ids=[self.dls.device.index] if on_gpu else None,
            broadcast_buffers=False,  # not for each batch: see `before_validate`
            gradient_as_bucket_view=True,
        )

    def after_loss(self) -> None:
        """Weight the loss by this process's share of the batch."""
        if self.training:
            part = len(self.yb[0]) / self.dls.train.batch_size
            self.learn.loss_grad = self.loss_grad * (part * ranks.world_size())
            self.learn.loss = self.loss * part

    def before_validate(self) -> None:
        """Use rank 0's running statistics of batch norm everywhere, so that all validate the same model."""
        broadcast_tensors(self.unwrapped.buffers())

    def after_fit(self) -> None:
        """Unwrap the model."""
        self.learn.model = self.unwrapped


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum over all processes, in place, of a tensor that has the same shape in each."""
    if ranks.world_size() > 1:
        dist.all_reduce(values)
    return values


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Give every process the values of rank 0, in place."""
    if ranks.world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def gather_rows(rows: Tensor, loader: Any) -> Tensor:
    """The rows [N, …] of a whole pass, in order, gathered from the shares of all processes."""
    if ranks.world_size() == 1:
        return rows
    shares: list[Any] = [None] * ranks.world_size()
    dist.all_gather_object(shares, rows.cpu())
    whole = rows.new_empty(sum(map(len, shares)), *rows.shape[1:], device="cpu")
    for rank, share in enumerate(shares):
        whole[torch.from_numpy(loader.places(rank))] = share
    return whole


def predict_valid(model: nn.Module, loader: Any) -> Tensor:
    """Logits [N, C] of all validation patches; each process predicts its share.

    fastai's `get_preds` would gather them in another order.
    """
    model.eval()
    with torch.inference_mode():
        rows = torch.cat([model(patches) for patches, _ in loader])
    return gather_rows(rows.cpu(), loader)
