"""Augmentations of training patches: each a function here, chosen by its name in histo.config.

An augmentation takes patches uint8 [B, S, S, 3], RGB, and returns the same shape. Its random numbers
come from `draw`, so that they depend only on the seed of the batch, not on the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histo.data.decode import cv2
from histo.pixels.d4 import VIEWS, view


@dataclass(frozen=True)
class Draw:
    """Random numbers for `count` patches: this process's share of those of a batch of `batch`.

    Process `rank` of `world_size` has every `world_size`-th patch of the batch.
    """

    count: int
    device: torch.device
    batch: int = 0
    rank: int = 0
    world_size: int = 1

    def integers(self, high: int) -> Tensor:
        """Whole numbers from 0 to `high` - 1, int64 [count]."""
        return self._share(torch.randint(high, (self._whole,), device=self.device))

    def uniform(self, columns: int) -> Tensor:
        """Numbers from 0 to 1, float32 [count, columns]."""
        return self._share(torch.rand(self._whole, columns, device=self.device))

    @property
    def _whole(self) -> int:
        return max(self.batch, (self.count - 1) * self.world_size + self.rank + 1)

    def _share(self, whole: Tensor) -> Tensor:
        return whole[self.rank :: self.world_size][: self.count]


Augmentation = Callable[[Tensor, Draw], Tensor]


def none(patches: Tensor, _draw: Draw) -> Tensor:
    """The patches as they are."""
    return patches


def d4(patches: Tensor, draw: Draw) -> Tensor:
    """Each patch in one of its eight D4 views, each equally likely, exactly.

    On a CPU by OpenCV, patch by patch, which is 20 times as fast as torch's transposes of three
    bytes; elsewhere by one gather for the batch.
    """
    views = draw.integers(VIEWS)
    if patches.device.type != "cpu":
        return gather_views(patches, views)
    out = np.empty(patches.shape, np.uint8)
    for patch, number, turned in zip(patches.numpy(), views.tolist(), out, strict=True):
        CPU_VIEWS[number](patch, turned)
    return torch.from_numpy(out)


def stain(patches: Tensor, draw: Draw) -> Tensor:
    """D4, and a modest change of brightness, contrast, saturation and hue, another for each patch.

    Bounds: brightness ±0.05, contrast ±10 %, saturation ±10 %, hue ±9 degrees; about the spread
    between laboratories that Tellez et al. (2019, Medical Image Analysis 58:101544) call "light".
    All four are one 3x3 matrix and offset a patch, rounded to uint8. On a CPU each patch is
    turned and recoloured in one go, while it is in the cache.
    """
    on_cpu = patches.device.type == "cpu"
    views = draw.integers(VIEWS)
    matrix, brightness = colour_change(draw.uniform(4) * 2 - 1)
    contrast = matrix.sum((1, 2), keepdim=True) / 3  # rows add up to the contrast factor
    grey = cpu_means(patches.numpy()) if on_cpu else patches.float().mean((1, 2, 3))
    offset = (1 - contrast) * grey[:, None, None] + 255 * brightness
    if not on_cpu:
        return change_colours(gather_views(patches, views), matrix, offset)
    affine = torch.cat([matrix, offset.expand(-1, 3, 1)], 2).numpy()
    out = np.empty(patches.shape, np.uint8)
    turned = np.empty(patches.shape[1:], np.uint8)
    rows = zip(patches.numpy(), views.tolist(), affine, out, strict=True)
    for patch, number, colours, changed in rows:
        CPU_VIEWS[number](patch, turned)
        cv2.transform(turned, colours, changed)
    return torch.from_numpy(out)


AUGMENTATIONS: dict[str, Augmentation] = {made.__name__: made for made in (none, d4, stain)}


# ------------------------------------------------------------------- views

CPU_VIEWS: tuple[Any, ...] = (
    lambda patch, out: np.copyto(out, patch),
    lambda patch, out: cv2.flip(patch, 1, out),
    lambda patch, out: cv2.flip(patch, 0, out),
    lambda patch, out: cv2.flip(patch, -1, out),
    cv2.transpose,
    lambda patch, out: cv2.rotate(patch, cv2.ROTATE_90_CLOCKWISE, out),
    lambda patch, out: cv2.rotate(patch, cv2.ROTATE_90_COUNTERCLOCKWISE, out),
    lambda patch, out: cv2.flip(cv2.transpose(patch), -1, out),
)
"""Writes view k of a patch [S, S, 3] to `out`, in the order of `histo.pixels.d4.view`."""


def gather_views(patches: Tensor, numbers: Tensor) -> Tensor:
    """View `numbers[i]` of each patch [B, S, S, 3], by one gather."""
    chosen = _sources(patches.shape[1], patches.device)[numbers][:, :, None].expand(-1, -1, 3)
    return patches.flatten(1, 2).gather(1, chosen).view(patches.shape)


@cache
def _sources(side: int, device: torch.device) -> Tensor:
    """The source pixel of each pixel of the eight views, int64 [8, S * S]."""
    places = torch.arange(side * side, device=device).view(1, side, side)
    return torch.cat([view(places, number) for number in range(VIEWS)]).flatten(1)


# ------------------------------------------------------------------- colours

GREY = torch.full((3, 3), 1 / 3)
HUE_ROTATION = (
    GREY,
    torch.eye(3) - GREY,
    torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5,
)
WITHOUT_GREY = torch.eye(3) - torch.tensor([0.299, 0.587, 0.114]).expand(3, 3)
COLOURS = torch.stack([*HUE_ROTATION, *(part @ WITHOUT_GREY for part in HUE_ROTATION)]).flatten(1)
"""Basis of the colour matrices [6, 9]: a rotation of hue as constant, cosine and sine parts, and the
same three after the grey is subtracted."""


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
    rotation = torch.cat([torch.ones_like(angle), angle.cos(), angle.sin()], 1)
    parts = torch.cat([rotation, 0.1 * saturation * rotation], 1) * (1 + 0.1 * contrast)
    return (parts @ _colours(factors.device)).view(-1, 3, 3), 0.05 * brightness[:, None]


@cache
def _colours(device: torch.device) -> Tensor:
    return COLOURS.to(device)


def change_colours(patches: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """`matrix @ rgb + offset` for each pixel of uint8 [B, S, S, 3], rounded to uint8."""
    moved = torch.baddbmm(offset, patches.flatten(1, 2).float(), matrix.mT)
    return moved.round_().clamp_(0, 255).to(torch.uint8).view(patches.shape)
