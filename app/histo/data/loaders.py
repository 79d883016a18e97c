"""The loader of the DataBlock: rows of the store in, batches on the device out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.data.core import DataLoaders, TfmdDL
from fastai.torch_core import TensorImage
from fastcore.foundation import L
from fasttransform import Transform
from numpy.typing import NDArray
from torch import Tensor

from histo.data.decode import read_patch
from histo.data.store import Store
from histo.distributed.prefetch import prefetch
from histo.pixels.fit import Fit

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
        self.store, self.device, self.side = store, device, store.side
        self.fit = Fit(crop, size, store.side)
        self.resident = to_device(store, device) if fits(store, device) else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "store": None, "resident": None}

    def encodes(self, item: int | np.integer | Path | str) -> TensorImage:
        """One patch, uint8 [3, S, S]; whole batches of rows go past this, through `PatchDL`."""
        if isinstance(item, (Path, str)):
            pixels = self.fit(read_patch(Path(item)), Path(item))
            return TensorImage(torch.from_numpy(pixels).permute(2, 0, 1))
        return TensorImage(self.batch(self.rows_on_device(np.array([item])))[0].cpu())

    def rows_on_device(self, rows: NDArray[np.int64]) -> Tensor:
        """Rows [N] on the device that `batch` reads them from; copied once a pass, as a copy makes a GPU wait."""
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

    Randomness (order, augmentation, dropout) depends only on seed, epoch and batch number, so
    `epoch` and `start` are all it takes to resume within an epoch. Of `world_size` processes each
    has a share of every batch: every `world_size`-th patch, from `rank` on.
    """

    epoch, start = 0, 0
    """`start`: the batch to begin with; at the end of a pass back to 0, and `epoch` one up"""
    number, batch_size = 0, 0
    """of the batch in hand: its number, and how many patches it has over all processes"""

    def __init__(
        self, dataset: Any, *, seed: int = 0, rank: int = 0, world_size: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(dataset, **kwargs)
        self.seed, self.rank, self.world_size = seed, rank, world_size

    def new(self, dataset: Any = None, cls: Any = None, **kwargs: Any) -> Any:
        """Another loader like this one, the share of the process included."""
        mine = {"seed": self.seed, "rank": self.rank, "world_size": self.world_size}
        return super().new(dataset, cls, **{**mine, **kwargs})

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
            if self.shuffle and self.world_size > 1:
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
        batches = equal_batches(samps, self.bs)
        sizes = [len(batch) for batch in batches]
        shares = [batch[self.rank :: self.world_size] for batch in batches[self.start :]]
        counts = [len(share) for share in shares if len(share)]
        order = np.concatenate([*shares, np.empty(0, np.int64)])
        whole = [source.rows_on_device(rows[order])]
        if len(tls) > 1:
            whole.append(self.codes[torch.from_numpy(order).to(self.device)])
        parts = zip(*(torch.split(values, counts) for values in whole), strict=True)

        def gather(part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (source.batch(part[0]), *part[1:])

        seeds = [batch_seed(self.seed, self.epoch, n) for n in range(len(sizes))]
        every = map if self.device.type == "cpu" else prefetch
        for number, batch in enumerate(every(gather, parts), self.start):
            self.batch_size, self.number = sizes[number], number
            if self.shuffle:
                seed_generators(seeds[number], self.device)
            yield batch

    def places(self, rank: int) -> NDArray[np.int64]:
        """Where in a pass that is not shuffled the patches of a process's share stand."""
        batches = equal_batches(np.arange(self.n), self.bs)
        return np.concatenate([batch[rank :: self.world_size] for batch in batches])

    @property
    def items(self) -> L:
        """The rows or files of this loader, as fastai's `Interpretation` picks from them."""
        return L(list(self.dataset.items))

    @cached_property
    def codes(self) -> Tensor:
        """The class index of every patch of this loader, int64 [N], on its device."""
        labels = self.dataset.tls[1]
        label_of, code_of = labels.tfms.fs[0], labels.vocab.o2i
        return torch.tensor([code_of[label_of(row)] for row in labels.items]).to(self.device)


def equal_batches(rows: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
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


def takes_files(dls: DataLoaders) -> DataLoaders:
    """Have `dls.test_dl` take files too: fastai has seen row numbers alone."""
    for dataset in (dls.train_ds, dls.valid_ds):
        dataset.tls[0].types = [(int, np.integer, Path, str), TensorImage]
    return dls
