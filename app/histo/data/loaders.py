"""The DataBlock: rows of the store in, normalised batches on the device out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.data.block import CategoryBlock, DataBlock, TransformBlock
from fastai.data.core import DataLoaders, TfmdDL
from fastai.data.transforms import IndexSplitter
from fastai.torch_core import TensorImage
from fasttransform import Transform
from numpy.typing import NDArray
from torch import Tensor

from histo import d4
from histo.ahead import map_ahead
from histo.config import Augment
from histo.data.patches import check_size, cv2, fit_patch, read_patch
from histo.data.store import Store

DEVICE_SHARE = 0.5
"""A store lies in the GPU's memory where it takes no more than this share of what is free."""


class FromStore(Transform):  # type: ignore[misc]
    """Row numbers of the store to patches, from the device's memory where the store fits there.

    A path is decoded instead, so that `test_dl` takes files too. A pickle leaves the store out.
    """

    def __init__(
        self, store: Store, device: torch.device, crop: int | None = None, size: int | None = None
    ) -> None:
        super().__init__()
        self.store, self.device, self.fit, self.side = store, device, (crop, size), store.side
        self.resident = to_device(store, device) if fits(store, device) else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "store": None, "resident": None}

    def encodes(self, item: int | np.integer | Path | str) -> TensorImage:
        """One patch, uint8 [3, S, S]; whole batches of rows go past this, through `PatchDL`."""
        if isinstance(item, (Path, str)):
            pixels = fit_patch(read_patch(Path(item)), *self.fit, Path(item))
            check_size(pixels, self.side, Path(item))
            return TensorImage(torch.from_numpy(pixels).permute(2, 0, 1))
        return TensorImage(self.batch(self.asked(np.array([item])))[0].cpu())

    def asked(self, rows: NDArray[np.int64]) -> Tensor:
        """Rows [N] where `batch` takes them: for a whole pass at once, as a GPU waits for a copy."""
        where = torch.from_numpy(rows)
        return where if self.resident is None else where.to(self.resident.device)

    def batch(self, rows: Tensor) -> Tensor:
        """Rows as uint8 [B, 3, S, S], channels-last in memory, on their way to the device."""
        if self.resident is not None:
            return self.resident.index_select(0, rows).permute(0, 3, 1, 2)
        shape = (len(rows), self.side, self.side, 3)
        pinned = self.device.type == "cuda"
        batch = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        self.store.gather(rows.numpy(), batch.numpy())
        # without pinned memory a copy that goes on would read what is already another's
        return batch.to(self.device, non_blocking=pinned).permute(0, 3, 1, 2)


def fits(store: Store, device: torch.device) -> bool:
    """Whether a store may lie in the device's own memory, beside the model and its batches."""
    if device.type != "cuda":
        return False
    gc.collect()  # what an earlier fold had there
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return len(store) * store.side**2 * 3 <= DEVICE_SHARE * free


def to_device(store: Store, device: torch.device) -> Tensor:
    """The whole store in the device's memory, copied by parts so that the host holds none of it."""
    shape = (len(store), store.side, store.side, 3)
    there = torch.empty(shape, dtype=torch.uint8, device=device)
    for start in range(0, len(store), 4096):
        part = np.arange(start, min(start + 4096, len(store)))
        there[start : start + len(part)] = torch.from_numpy(store.take(part))
    return there


class PatchDL(TfmdDL):  # type: ignore[misc]
    """A fastai dataloader that gathers whole batches out of the store: no per-patch Python.

    All that is random in a training batch (its patches, their augmentation, dropout) follows from
    the seed, the epoch and the number of the batch. So `epoch` and `start` are all it takes to go
    on in the middle of an epoch as if there had been no break.
    """

    seed, epoch, start = 0, 0, 0
    """`start`: the batch to begin with; at the end of a pass back to 0, and `epoch` one up"""
    rank, world = 0, 1
    """Of `world` processes each has a share of every batch: this one every `world`-th, from `rank`"""
    number, batch = 0, 0
    """Of the batch in hand its number, and how many patches it has, all shares together"""

    def get_idxs(self) -> NDArray[np.int64]:
        """The order of an epoch, by numpy: for a million, Python's shuffle takes a second."""
        if not self.shuffle:
            return np.arange(self.n)
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.n)

    def __iter__(self) -> Iterator[Any]:
        """Augmented batches on the device. The patches of another share get other dropout masks.

        Not by way of PyTorch's DataLoader, as fastai's own: there are no workers to start, and the
        way costs 0.3 ms a batch.
        """
        self.before_iter()
        for batch in self.create_batches(self.get_idxs()):
            augmented = self.after_batch(batch)
            if self.shuffle and self.world > 1:
                seed = batch_seed(self.seed, self.epoch, self.number, 1 + self.rank)
                seed_generators(seed, self.device)
            yield augmented
        self.after_iter()
        self.epoch, self.start = self.epoch + 1, 0

    def create_batches(self, samps: NDArray[np.int64]) -> Iterator[tuple[Tensor, ...]]:
        """Batches for positions [N] of this loader's dataset; one is gathered ahead for a GPU.

        Plain tensors: fastai gives them their types again to show them.
        """
        tls = self.dataset.tls
        rows = np.asarray(tls[0].items)
        if rows.dtype.kind != "i":  # files, not rows of the store
            for made in super().create_batches(samps):
                yield tuple(part.to(self.device).as_subclass(Tensor) for part in made)
            return
        source = next(t for t in tls[0].tfms.fs if isinstance(t, FromStore))
        batches = cut(samps, self.bs)
        sizes = [len(batch) for batch in batches]
        shares = [batch[self.rank :: self.world] for batch in batches[self.start :]]
        counts = [len(share) for share in shares if len(share)]
        order = np.concatenate([*shares, np.empty(0, np.int64)])
        whole = [source.asked(rows[order])]
        if len(tls) > 1:
            whole.append(self.codes[torch.from_numpy(order).to(self.device)])
        parts = zip(*(torch.split(values, counts) for values in whole), strict=True)

        def gather(part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (source.batch(part[0]), *part[1:])

        seeds = [batch_seed(self.seed, self.epoch, n) for n in range(len(sizes))]
        every = map if self.device.type == "cpu" else map_ahead
        for number, batch in enumerate(every(gather, parts), self.start):
            self.batch, self.number = sizes[number], number
            if self.shuffle:
                seed_generators(seeds[number], self.device)
            yield batch

    def places(self, rank: int) -> NDArray[np.int64]:
        """Where in a pass that is not shuffled the patches of a process's share stand."""
        batches = cut(np.arange(self.n), self.bs)
        return np.concatenate([batch[rank :: self.world] for batch in batches])

    @cached_property
    def codes(self) -> Tensor:
        """The class index of every patch of this loader, int64 [N], on its device."""
        labels = self.dataset.tls[1]
        label_of, code_of = labels.tfms.fs[0], labels.vocab.o2i
        return torch.tensor([code_of[label_of(row)] for row in labels.items]).to(self.device)


def cut(rows: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Rows in as few batches as hold them all, of the same size to one patch: none is left over."""
    return np.array_split(rows, max(1, -(-len(rows) // batch_size)))


def batch_seed(seed: int, epoch: int, number: int, *share: int) -> int:
    """The seed of one training batch, or of one share of it: 64 bits, another for each."""
    words = np.random.SeedSequence([seed, epoch, number, *share]).generate_state(1, np.uint64)
    return int(words[0])


def seed_generators(seed: int, device: torch.device) -> None:
    """`torch.manual_seed` for the CPU and one device, 200 times cheaper.

    PyTorch's own formats the call stack three times over, once for each kind of device that is not
    there: about 1 % of a training step on a CPU.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


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


class ToInput(OnPatches):
    """Pixels to what the model sees: scaled to 0..1 and normalised, in one pass."""

    order = 99

    def __init__(self, mean: list[float], std: list[float], side: int) -> None:
        super().__init__()
        m, s = torch.tensor(mean), torch.tensor(std)
        # a row of the patch at a time: three channels alone are too short for vector instructions
        self.scale, self.shift = (1 / (255 * s)).repeat(side), (-m / s).repeat(side)

    def to(self, device: torch.device) -> None:
        """Where fastai tells the loader's transforms to work."""
        self.scale, self.shift = self.scale.to(device), self.shift.to(device)

    def change(self, patches: Tensor) -> Tensor:
        """Uint8 [B, S, S, 3] in, float32 out."""
        out = patches.flatten(2).float()
        return torch.addcmul(self.shift, out, self.scale, out=out).view(patches.shape)

    def undo(self, patches: Tensor) -> Tensor:
        """Float32 back to 0..1, for a person to see."""
        scale, shift = self.scale.to(patches.device), self.shift.to(patches.device)
        out = (patches.flatten(2) - shift) / scale / 255
        return out.clamp(0, 1).view(patches.shape)


AUGMENTS: dict[str, list[type[OnPatches]]] = {
    "none": [],
    "d4": [UniformD4],
    "stain": [D4AndStain],
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
    crop: int | None = None,
    size: int | None = None,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
) -> DataLoaders:
    """The DataBlock over the rows of a store; `valid` is True [N] where a row validates.

    Process `rank` of `world` gets its share of each batch of `batch_size`.
    """
    names = np.array(labels, dtype=object)
    augments = [tfm() for tfm in AUGMENTS[augment]]
    for tfm in augments:
        tfm.batch, tfm.rank, tfm.world = batch_size, rank, world
    block = DataBlock(
        blocks=(
            TransformBlock(type_tfms=[FromStore(store, device, crop, size)], dl_type=PatchDL),
            CategoryBlock(vocab=vocab, sort=False),
        ),
        get_y=names.__getitem__,
        splitter=IndexSplitter(np.flatnonzero(valid).tolist()),
        batch_tfms=[*augments, ToInput(mean, std, store.side)],
    )
    dls = block.dataloaders(
        np.arange(len(labels)), bs=batch_size, num_workers=0, device=device, drop_last=False
    )
    for dataset in (dls.train_ds, dls.valid_ds):
        dataset.tls[0].types = [(int, np.integer, Path, str), TensorImage]  # fastai saw rows only
    dls.train.seed = seed
    for loader in dls.loaders:
        loader.rank, loader.world = rank, world
    return dls
