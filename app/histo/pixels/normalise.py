"""Pixels to what a model sees: scaled to 0..1, less the mean, over the standard deviation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """uint8 patches [B, S, S, 3] to float32 of the same shape: (x / 255 - mean) / std, each channel.

    One multiplication and one addition a value. `columns` of a row are done at a time: on a CPU
    three channels alone are too short for vector instructions.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], columns: int = 1) -> None:
        super().__init__()
        m, s = torch.tensor(mean), torch.tensor(std)
        self.register_buffer("scale", (1 / (255 * s)).repeat(columns), persistent=False)
        self.register_buffer("shift", (-m / s).repeat(columns), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        """The normalised patches."""
        rows = patches.unflatten(2, (-1, len(self.scale) // 3)).flatten(3).float()
        return torch.addcmul(self.shift, rows, self.scale).view(patches.shape)

    def undo(self, patches: Tensor) -> Tensor:
        """Float32 back to 0..1, for a person to see."""
        rows = patches.unflatten(2, (-1, len(self.scale) // 3)).flatten(3)
        return ((rows - self.shift) / self.scale / 255).clamp(0, 1).view(patches.shape)
