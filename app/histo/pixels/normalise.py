"""Normalise pixels: scale to 0..1, subtract the mean, divide by the standard deviation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """uint8 patches [B, S, S, 3] to float32 of the same shape: (x / 255 - mean) / std per channel.

    One multiplication and one addition per value, over `columns` pixels of a row at a time: on a CPU
    three channels alone are too few for vector instructions.
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
        rows = self._rows(patches).float()
        return torch.addcmul(self.shift, rows, self.scale, out=rows).view(patches.shape)

    def undo(self, patches: Tensor) -> Tensor:
        """Undo the normalisation: float32 patches in 0..1, for display."""
        shown = (self._rows(patches) - self.shift) / self.scale / 255
        return shown.clamp(0, 1).view(patches.shape)

    def _rows(self, patches: Tensor) -> Tensor:
        """The patches [B, S, S, 3] as rows of so many columns, [B, S, S / columns, 3 columns]."""
        batch, height = patches.shape[:2]
        return patches.reshape(batch, height, -1, len(self.scale))
