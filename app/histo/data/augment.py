"""Augmentation: each a function of a batch; a new one is a class here and a name in AUGMENTS."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from fasttransform import Transform
from numpy.typing import NDArray
from torch import Tensor

from histo.data.decode import cv2
from histo.pixels import d4


class OnPatches(Transform):  # type: ignore[misc]
    """A batch transform that works on the patches alone, as a plain tensor [B, S, S, 3].

    Labels pass untouched. fastai's own way in, a dispatch on the type of every element of every
    batch, takes a third of this loader's time. What is random is drawn for a whole batch of
    `batch` patches, and every `world`-th of it, from `rank`, is that of this share.
    """

    batch, rank, world = 0, 0, 1

    def share(self, draw: Callable[[int], Tensor], count: int) -> Tensor:
        """The part of what is drawn for a whole batch that falls to the `count` patches here."""
        whole = max(self.batch, (count - 1) * self.world + self.rank + 1)
        return draw(whole)[self.rank :: self.world][:count]

    def __call__(self, batch: Any, split_idx: int | None = None) -> Any:
        """A batch (patches [B, 3, S, S] alone, or first in a tuple), changed where it is asked."""
        return batch if self.split_idx not in (None, split_idx) else _on(batch, self.change)

    def decode(self, batch: Any, split_idx: int | None = None) -> Any:
        """The batch as a person would see it."""
        return batch if self.split_idx not in (None, split_idx) else _on(batch, self.undo)

    def change(self, patches: Tensor) -> Tensor:
        """Patches [B, S, S, 3] in, the same shape out."""
        raise NotImplementedError

    def undo(self, patches: Tensor) -> Tensor:
        """What a person would see of `change`'s result: of an augmentation, the result itself."""
        return patches


def _on(batch: Any, work: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(batch, tuple):
        return (_on(batch[0], work), *batch[1:])
    patches = batch.as_subclass(Tensor).permute(0, 2, 3, 1).contiguous()
    return work(patches).permute(0, 3, 1, 2).as_subclass(type(batch))


class UniformD4(OnPatches):
    """Each training patch in one of its eight D4 views, each equally likely, exactly.

    On a CPU by OpenCV, patch by patch, which is 20 times as fast as torch's transposes of three
    bytes; elsewhere by one gather for the batch.
    """

    order, split_idx = 5, 0  # on uint8: a quarter of the bytes to move; training patches only

    def change(self, patches: Tensor) -> Tensor:
        """Uint8 [B, S, S, 3] in, the same out."""
        views = self.views(patches)
        if patches.device.type != "cpu":
            return turn(patches, views)
        out = np.empty(patches.shape, np.uint8)
        for patch, view, turned in zip(patches.numpy(), views.tolist(), out, strict=True):
            TURNS[view](patch, turned)
        return torch.from_numpy(out)

    def views(self, patches: Tensor) -> Tensor:
        """Which view of each patch, int64 [B]."""
        device = patches.device
        return self.share(lambda n: torch.randint(d4.VIEWS, (n,), device=device), len(patches))


TURNS: tuple[Any, ...] = (
    lambda patch, out: np.copyto(out, patch),
    lambda patch, out: cv2.flip(patch, 1, out),
    lambda patch, out: cv2.flip(patch, 0, out),
    lambda patch, out: cv2.flip(patch, -1, out),
    cv2.transpose,
    lambda patch, out: cv2.rotate(patch, cv2.ROTATE_90_CLOCKWISE, out),
    lambda patch, out: cv2.rotate(patch, cv2.ROTATE_90_COUNTERCLOCKWISE, out),
    lambda patch, out: cv2.flip(cv2.transpose(patch), -1, out),
)
"""View k of one patch [S, S, 3] into `out`, in the order of `d4.view`."""


def turn(patches: Tensor, k: Tensor) -> Tensor:
    """View `k[i]` of each patch [B, S, S, 3], by one gather."""
    chosen = _sources(patches.shape[1], patches.device)[k][:, :, None].expand(-1, -1, 3)
    return patches.flatten(1, 2).gather(1, chosen).view(patches.shape)


@cache
def _sources(side: int, device: torch.device) -> Tensor:
    """Which pixel comes to each place of the eight views, int64 [8, S * S]."""
    places = torch.arange(side * side, device=device).view(1, side, side)
    return torch.cat([d4.view(places, v) for v in range(d4.VIEWS)]).flatten(1)


GREY = torch.full((3, 3), 1 / 3)


TURNS_OF_HUE = (
    GREY,
    torch.eye(3) - GREY,
    torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5,
)


COLOURFUL = torch.eye(3) - torch.tensor([0.299, 0.587, 0.114]).expand(3, 3)


COLOURS = torch.stack([*TURNS_OF_HUE, *(turn @ COLOURFUL for turn in TURNS_OF_HUE)]).flatten(1)
"""What a change of colour is made of [6, 9]: a turn of hue (a constant, and what its cosine and its
sine weigh), and the same after the grey is taken out."""


class D4AndStain(UniformD4):
    """D4, and a modest change of brightness, contrast, saturation and hue, another for each patch.

    Bounds: brightness ±0.05, contrast ±10 %, saturation ±10 %, hue ±9 degrees; about the spread
    between laboratories that Tellez et al. (2019, Medical Image Analysis 58:101544) call "light".
    All four are one 3x3 matrix and offset a patch; what they give is rounded to uint8. On a CPU a
    patch is turned and coloured while it is in the cache.
    """

    def change(self, patches: Tensor) -> Tensor:
        """Uint8 [B, S, S, 3] in, the same out."""
        device, on_cpu = patches.device, patches.device.type == "cpu"
        views = self.views(patches)
        factors = self.share(lambda n: torch.rand(n, 4, device=device) * 2 - 1, len(patches))
        matrix, brightness = colour_change(factors)
        contrast = matrix.sum((1, 2), keepdim=True) / 3  # rows add up to the contrast factor
        grey = cpu_means(patches.numpy()) if on_cpu else patches.float().mean((1, 2, 3))
        offset = (1 - contrast) * grey[:, None, None] + 255 * brightness
        if not on_cpu:
            return recolour(turn(patches, views), matrix, offset)
        affine = torch.cat([matrix, offset.expand(-1, 3, 1)], 2).numpy()
        out = np.empty(patches.shape, np.uint8)
        turned = np.empty(patches.shape[1:], np.uint8)
        rows = zip(patches.numpy(), views.tolist(), affine, out, strict=True)
        for patch, view, colours, changed in rows:
            TURNS[view](patch, turned)
            cv2.transform(turned, colours, changed)
        return torch.from_numpy(out)


def cpu_means(patches: NDArray[np.uint8]) -> Tensor:
    """The mean over pixels and channels of each patch [B, S, S, 3], without a float copy of it."""
    return torch.tensor([sum(cv2.mean(patch)[:3]) / 3 for patch in patches], dtype=torch.float32)


def colour_change(factors: Tensor) -> tuple[Tensor, Tensor]:
    """Colour matrices [N, 3, 3] and brightness offsets [N, 1, 1], of RGB in 0..1.

    `factors` [N, 4] in -1..1 say how much of saturation, hue, contrast and brightness. A matrix is
    contrast times hue (Rodrigues' rotation about the grey axis) times saturation.
    """
    saturation, hue, contrast, brightness = factors[:, :, None].unbind(1)
    angle = torch.pi / 20 * hue
    turns = torch.cat([torch.ones_like(angle), angle.cos(), angle.sin()], 1)
    parts = torch.cat([turns, 0.1 * saturation * turns], 1) * (1 + 0.1 * contrast)
    return (parts @ _colours(factors.device)).view(-1, 3, 3), 0.05 * brightness[:, None]


@cache
def _colours(device: torch.device) -> Tensor:
    return COLOURS.to(device)


def recolour(patches: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """`matrix @ rgb + offset` for each pixel of uint8 [B, S, S, 3], rounded to uint8."""
    moved = torch.baddbmm(offset, patches.flatten(1, 2).float(), matrix.mT)
    return moved.round_().clamp_(0, 255).to(torch.uint8).view(patches.shape)


AUGMENTS: dict[str, list[type[OnPatches]]] = {
    "none": [],
    "d4": [UniformD4],
    "stain": [D4AndStain],
}
