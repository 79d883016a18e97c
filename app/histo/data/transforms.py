"""The batch transforms of the DataBlock: augmentation of training patches, and normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fasttransform import Transform
from torch import Tensor

from histo.data.augment import Augmentation, Draw
from histo.pixels.normalise import Normalise


class OnPatches(Transform):  # type: ignore[misc]
    """A batch transform that works on the patches alone, as a plain tensor [B, S, S, 3].

    Labels pass untouched. fastai's own dispatch on the type of every element of every batch would
    take a third of this loader's time.
    """

    def __call__(self, batch: Any, split_idx: int | None = None) -> Any:
        """A batch (patches [B, 3, S, S] alone, or first in a tuple), changed where it applies."""
        return batch if self.split_idx not in (None, split_idx) else _on(batch, self.change)

    def decode(self, batch: Any, split_idx: int | None = None) -> Any:
        """The batch as a person would see it."""
        return batch if self.split_idx not in (None, split_idx) else _on(batch, self.undo)

    def change(self, patches: Tensor) -> Tensor:
        """Patches [B, S, S, 3] in, the same shape out."""
        raise NotImplementedError

    def undo(self, patches: Tensor) -> Tensor:
        """Invert `change` for display; an augmentation is not inverted."""
        return patches


def _on(batch: Any, work: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(batch, tuple):
        return (_on(batch[0], work), *batch[1:])
    patches = batch.as_subclass(Tensor).permute(0, 2, 3, 1).contiguous()
    return work(patches).permute(0, 3, 1, 2).as_subclass(type(batch))


class Augmented(OnPatches):
    """An augmentation of training patches; its random numbers are drawn for the whole batch."""

    order, split_idx = 5, 0  # on uint8: a quarter of the bytes to move; training patches only

    def __init__(
        self, augmentation: Augmentation, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__()
        self.augmentation = augmentation
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size

    def change(self, patches: Tensor) -> Tensor:
        """uint8 in, uint8 out."""
        share = (self.batch_size, self.rank, self.world_size)
        return self.augmentation(patches, Draw(len(patches), patches.device, *share))


class ToInput(OnPatches):
    """Pixels to what the model sees, float32."""

    order = 99

    def __init__(self, mean: list[float], std: list[float], side: int) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std, side)

    def to(self, device: torch.device) -> None:
        """Move the constants to a device; fastai calls this."""
        self.normalise.to(device)

    def change(self, patches: Tensor) -> Tensor:
        """uint8 in, float32 out."""
        normalised: Tensor = self.normalise(patches)
        return normalised

    def undo(self, patches: Tensor) -> Tensor:
        """Float32 back to 0..1."""
        return self.normalise.to(patches.device).undo(patches)
