"""The DataBlock's loader: takes rows of the store, gives batches on the device."""

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

    A path is decoded instead, so that `test_dl` takes files too. The store is not pickled.
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
        """One patch, uint8 [3, S, S]; `PatchDL` gathers whole batches without calling this."""
        if isinstance(item, (Path, str)):
            pixels = self.fit(read_patch(Path(item)), Path(item))
            return TensorImage(torch.from_numpy(pixels).permute(2, 0, 1))
        return TensorImage(self.batch(self.rows_on_device(np.array([item])))[0].cpu())

    def rows_on_device(self, rows: NDArray[np.int64]) -> Tensor:
        """Rows [N] on the device where `batch` reads them; copied once an epoch, as each copy stalls a GPU."""
        where = torch.from_numpy(rows)
        return where if self.resident is None else where.to(self.resident.device)

    def batch(self, rows: Tensor) -> Tensor:
        """Patches uint8 [B, 3, S, S], channels-last in memory, copied to the device asynchronously."""
        if self.resident is not None:
            return self.resident.index_select(0, rows).permute(0, 3, 1, 2)
        shape = (len(rows), self.side, self.side, 3)
        pinned = self.device.type == "cuda"
        batch = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        self.store.gather(rows.numpy(), batch.numpy())
        # an asynchronous copy needs pinned memory: other memory may be reused before it is read
        return batch.to(self.device, non_blocking=pinned).permute(0, 3, 1, 2)


def fits(store: Store, device: torch.device) -> bool:
    """Whether a store fits in the GPU's memory beside the model and its batches."""
    if device.type != "cuda":
        return False
    gc.collect()  # frees what an earlier fold had in GPU memory
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return len(store) * store.side**2 * 3 <= DEVICE_SHARE * free


def to_device(store: Store, device: torch.device) -> Tensor:
    """The whole store in the device's memory, copied in parts to keep the host's memory small."""
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
    """`start` is the batch to begin with; after each epoch it is 0 again and `epoch` one more"""
    number, batch_size = 0, 0
    """the current batch: its number, and how many patches it has over all processes"""

    def __init__(
        self, dataset: Any, *, seed: int = 0, rank: int = 0, world_size: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(dataset, **kwargs)
        self.seed, self.rank, self.world_size = seed, rank, world_size

    def new(self, dataset: Any = None, cls: Any = None, **kwargs: Any) -> Any:
        """A loader with the same settings, including the share of this process."""
        mine = {"seed": self.seed, "rank": self.rank, "world_size": self.world_size}
        return super().new(dataset, cls, **{**mine, **kwargs})

    def get_idxs(self) -> NDArray[np.int64]:
        """The order of an epoch; by numpy, as Python's shuffle takes a second for a million."""
        if not self.shuffle:
            return np.arange(self.n)
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.n)

    def __iter__(self) -> Iterator[Any]:
        """Augmented batches on the device; dropout differs between the shares of a batch.

        PyTorch's DataLoader is bypassed: there are no workers to start, and it costs 0.3 ms a batch.
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
        """The positions of a process's patches in an epoch that is not shuffled."""
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
    """Rows in the fewest batches of at most `batch_size`, their sizes equal to within one patch."""
    return np.array_split(rows, max(1, -(-len(rows) // batch_size)))


def batch_seed(seed: int, epoch: int, number: int, *share: int) -> int:
    """A 64-bit seed for one training batch, or for one share of it."""
    words = np.random.SeedSequence([seed, epoch, number, *share]).generate_state(1, np.uint64)
    return int(words[0])


def seed_generators(seed: int, device: torch.device) -> None:
    """`torch.manual_seed` for the CPU and one device, 200 times cheaper.

    PyTorch's own formats the call stack once for each kind of device that is missing: about 1 % of
    a training step on a CPU.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def takes_files(dls: DataLoaders) -> DataLoaders:
    """Let `dls.test_dl` take files: fastai inferred from the rows that items are integers."""
    for dataset in (dls.train_ds, dls.valid_ds):
        dataset.tls[0].types = [(int, np.integer, Path, str), TensorImage]
    return dls
