"""The loss of training."""

from __future__ import annotations

from typing import Any

from fastai.losses import CrossEntropyLossFlat
from torch import Tensor


class CrossEntropy(CrossEntropyLossFlat):  # type: ignore[misc]
    """fastai's cross entropy of logits [B, C] and class indices [B], on plain tensors.

    fastai turns them into a tensor type of its own, and every later operation, the backward pass
    included, is dispatched twice: 0.4 ms a batch.
    """

    def __call__(self, logits: Tensor, classes: Tensor, **_: Any) -> Tensor:
        """The mean over the batch, or the reduction that was set."""
        loss: Tensor = self.func(logits, classes)
        return loss
