"""The DataBlock: rows of the store in, normalised batches on the device out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from fastai.data.block import CategoryBlock, DataBlock, TransformBlock
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import IndexSplitter, IntToFloatTensor, Normalize
from fastai.torch_core import TensorCategory, TensorImage
from fastai.vision.augment import RandTransform
from fastcore.basics import chunked
from fasttransform import Transform
from numpy.typing import NDArray
from torch import Tensor

from histo import d4
from histo.config import Augment
from histo.data.store import Store


class FromStore(Transform):  # type: ignore[misc]
    """A row number to its patch: uint8 [3, S, S], RGB."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        super().__init__()
        self.pixels = pixels

    def encodes(self, row: int) -> TensorImage:
        """One patch; whole batches go past this, through `PatchDL`."""
        return TensorImage(gather(self.pixels, [row])[0])


def gather(pixels: NDArray[np.uint8], rows: Sequence[int]) -> Tensor:
    """Rows of the store as a batch: uint8 [B, 3, S, S], channels-last in memory."""
    return torch.from_numpy(pixels[np.asarray(rows)]).permute(0, 3, 1, 2)


class PatchDL(TfmdDL):  # type: ignore[misc]
    """A fastai dataloader that gathers whole batches out of the store: no per-patch Python."""

    def create_batches(self, samps: Iterable[int]) -> Iterator[tuple[Tensor, ...]]:
        """Batches for the sampled positions of this loader's dataset."""
        tls = self.dataset.tls
        rows = np.asarray(tls[0].items)
        pixels = next(t for t in tls[0].tfms.fs if isinstance(t, FromStore)).pixels
        codes = self._codes(tls[1]) if len(tls) > 1 else None
        for positions in chunked(samps, self.bs, self.drop_last):
            patches = TensorImage(gather(pixels, rows[positions]))
            yield (patches,) if codes is None else (patches, TensorCategory(codes[positions]))

    def _codes(self, labels: Any) -> Tensor:
        """The class index of every patch of this loader, int64 [N], computed once."""
        if not hasattr(self, "_known_codes"):
            label_of, code_of = labels.tfms.fs[0], labels.vocab.o2i
            self._known_codes = torch.tensor([code_of[label_of(row)] for row in labels.items])
        return self._known_codes


class UniformD4(RandTransform):  # type: ignore[misc]
    """Each training patch in one of its eight D4 views, each equally likely, exactly."""

    order = 5  # on uint8, before IntToFloatTensor: a quarter of the bytes to move

    def encodes(self, x: TensorImage) -> TensorImage:
        """Uint8 [B, 3, S, S] in, the same out."""
        patches = x.permute(0, 2, 3, 1)
        out = torch.empty_like(patches, memory_format=torch.contiguous_format)
        k = torch.randint(d4.VIEWS, (len(x),))
        for view in range(d4.VIEWS):
            chosen = (k == view).nonzero()[:, 0].to(x.device)
            out[chosen] = d4.view(patches[chosen], view)
        return TensorImage(out.permute(0, 3, 1, 2))


LUMA = (0.299, 0.587, 0.114)


class StainJitter(RandTransform):  # type: ignore[misc]
    """A modest change of brightness, contrast, saturation and hue, another for each patch.

    Bounds: brightness ±0.05, contrast ±10 %, saturation ±10 %, hue ±9 degrees; about the spread
    between laboratories that Tellez et al. (2019, Medical Image Analysis 58:101544) call "light".
    All four are one 3x3 matrix and offset a patch, so the batch is passed over once.
    """

    order = 20  # after IntToFloatTensor

    def encodes(self, x: TensorImage) -> TensorImage:
        """Float [B, 3, S, S] in 0..1 in, the same out."""
        matrix, offset = colour_change(len(x), x.device)
        grey = x.mean((1, 2, 3), keepdim=False)[:, None, None]
        contrast = matrix.sum((1, 2), keepdim=True) / 3  # rows add up to the contrast factor
        flat = x.flatten(2)
        out = torch.baddbmm((1 - contrast) * grey + offset, matrix, flat).clamp_(0, 1)
        return TensorImage(out.view(x.shape).contiguous(memory_format=torch.channels_last))


def colour_change(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random colour matrices [N, 3, 3] and brightness offsets [N, 1, 1]."""

    def within(bound: float) -> Tensor:
        return ((torch.rand(n, 1, 1) * 2 - 1) * bound).to(device)

    eye = torch.eye(3, device=device)
    luma = torch.tensor(LUMA, device=device).expand(3, 3)
    saturation = eye + within(0.1) * (eye - luma)
    angle = within(torch.pi / 20)
    axis = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=device) / 3**0.5
    third = torch.full((3, 3), 1 / 3, device=device)
    hue = angle.cos() * eye + (1 - angle.cos()) * third + angle.sin() * axis  # Rodrigues' rotation
    return (1 + within(0.1)) * (hue @ saturation), within(0.05)


AUGMENTS: dict[str, list[type[RandTransform]]] = {
    "none": [],
    "d4": [UniformD4],
    "stain": [UniformD4, StainJitter],
}


def make_loaders(
    store: Store,
    labels: list[str],
    valid: NDArray[np.bool_],
    vocab: list[str],
    *,
    batch_size: int,
    augment: Augment,
    mean: list[float],
    std: list[float],
    device: torch.device,
) -> DataLoaders:
    """The DataBlock over the rows of a store; `valid` is True [N] where a row validates."""
    names = np.array(labels, dtype=object)
    block = DataBlock(
        blocks=(
            TransformBlock(
                type_tfms=[FromStore(store.pixels)],
                batch_tfms=[IntToFloatTensor()],
                dl_type=PatchDL,
            ),
            CategoryBlock(vocab=vocab, sort=False),
        ),
        get_y=names.__getitem__,
        splitter=IndexSplitter(np.flatnonzero(valid).tolist()),
        batch_tfms=[
            *(tfm() for tfm in AUGMENTS[augment]),
            Normalize.from_stats(mean, std, cuda=False),
        ],
    )
    return block.dataloaders(range(len(labels)), bs=batch_size, num_workers=0, device=device)
