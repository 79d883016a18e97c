"""The loss of training."""

from __future__ import annotations

from typing import Any

from fastai.losses import CrossEntropyLossFlat
from torch import Tensor


class CrossEntropy(CrossEntropyLossFlat):  # type: ignore[misc]
    """fastai's cross entropy of logits [B, C] and class indices [B], on plain tensors.

    fastai's tensor type makes torch dispatch every later operation twice, the backward pass
    included: 0.4 ms per batch.
    """

    def __call__(self, logits: Tensor, classes: Tensor, **_: Any) -> Tensor:
        """The mean over the batch, or the configured reduction."""
        loss: Tensor = self.func(logits, classes)
        return loss
