"""One uint8 array of an HDF5 file, read without the HDF5 library.

The library follows what a file says into other files: external and soft links, virtual datasets,
external raw storage, the files of a driver, filters that are loaded from plugins. And its versions
before 2.2 have known holes that a file reaches (CVE-2025-44904, CVE-2026-26197, CVE-2026-17572 …).
PatchCamelyon's files need little of the format, and that alone is read here, within bounds: a plain
array in the root group, contiguous or in chunks, with deflate, shuffle and Fletcher-32.

The format: HDF5 File Format Specification 3.0, https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo.data.hdf5_objects import (
    DEFLATE,
    FLETCHER32,
    SHUFFLE,
    Dataset,
    find_dataset,
)
from histo.data.hdf5_parts import Hdf5Bytes, Hdf5DamageError
from histo.errors import HistoError
from histo.files.limits import CHUNK_BYTES, ROWS, check_regular, open_at_once

CHUNKS = 4_000_000
"""Chunks of an array: what is known of each takes 16 bytes of memory."""


@dataclass(frozen=True)
class Hdf5Array:
    """A uint8 array in a file: rows are read on demand, and no more of it than they need."""

    data: Hdf5Bytes
    dataset: Dataset
    places: NDArray[np.void] | None
    """of each chunk in C order: `at`, `size`, `mask` (filters that were not applied to it)"""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its length along each axis."""
        return self.dataset.shape

    @property
    def chunk_rows(self) -> int:
        """Rows that are unpacked together; 1 where there are no chunks."""
        return self.dataset.chunk[0] if self.dataset.chunk else 1

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """The rows from `start` up to `stop`, uint8 [n, …]; Hdf5DamageError where they are not whole."""
        stop = min(stop, self.shape[0])
        row = math.prod(self.shape[1:])
        if self.places is None:
            found = self.data.read(self.dataset.address + start * row, (stop - start) * row)
            return np.frombuffer(found, np.uint8).reshape(stop - start, *self.shape[1:])
        out = np.empty((stop - start, *self.shape[1:]), np.uint8)
        chunk = self.dataset.chunk
        grid = _grid(self.shape, chunk)
        across = math.prod(grid[1:])
        for number in range(start // chunk[0] * across, -(-stop // chunk[0]) * across):
            corner = [n * c for n, c in zip(np.unravel_index(number, grid), chunk, strict=True)]
            _paste(self._chunk(number), [int(corner[0]) - start, *map(int, corner[1:])], out)
        return out

    def _chunk(self, number: int) -> NDArray[np.uint8]:
        """One chunk, unpacked to its full size."""
        assert self.places is not None
        at, packed, mask = (int(x) for x in self.places[number])
        size = math.prod(self.dataset.chunk)
        found = self.data.read(at, packed)
        for place, kind in reversed(list(enumerate(self.dataset.filters))):
            if not mask >> place & 1:
                found = _undo(kind, found, size + 4 * len(self.dataset.filters))
        if len(found) != size:
            raise Hdf5DamageError(f"chunk {number} has {len(found)} bytes, not {size}")
        return np.frombuffer(found, np.uint8).reshape(self.dataset.chunk)


def _grid(shape: Sequence[int], chunk: Sequence[int]) -> tuple[int, ...]:
    """How many chunks there are along each axis."""
    return tuple(-(-n // c) for n, c in zip(shape, chunk, strict=True))


def _paste(chunk: NDArray[np.uint8], corner: Sequence[int], out: NDArray[np.uint8]) -> None:
    """Copy the part of a chunk that lies in `out`, which its corner may stand outside of."""
    source, target = [], []
    for at, size, end in zip(corner, chunk.shape, out.shape, strict=True):
        first, last = max(at, 0), min(at + size, end)
        source.append(slice(first - at, last - at))
        target.append(slice(first, last))
    out[tuple(target)] = chunk[tuple(source)]


def _undo(kind: int, data: bytes, most: int) -> bytes:
    """The bytes before a filter was applied; Hdf5DamageError where they would be more than `most`."""
    if kind == SHUFFLE:  # of items of one byte: they stay where they are
        return data
    if kind == FLETCHER32:
        return _without_checksum(data)
    assert kind == DEFLATE
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(data, most + 1)
    except zlib.error as error:
        raise Hdf5DamageError(str(error)) from None
    if len(found) > most or not unpacker.eof:
        raise Hdf5DamageError("a chunk does not unpack to its size")
    return found


def _without_checksum(data: bytes) -> bytes:
    """The bytes before their Fletcher-32; HDF5 1.6 wrote its two halves in either byte order."""
    body, said = data[:-4], data[-4:]
    words = np.frombuffer(body + b"\0" * (len(body) % 2), ">u2").astype(np.int64)
    places = np.arange(len(words), 0, -1, dtype=np.int64)
    sums = int(words.sum()) % 65535, int((words * places % 65535).sum()) % 65535
    halves = np.frombuffer(said.rjust(4, b"\0"), "<u2").astype(int) % 65535
    swapped = np.frombuffer(said.rjust(4, b"\0"), ">u2").astype(int) % 65535
    for first, second in (halves, swapped[::-1], halves[::-1], swapped):
        if (first, second) == sums:
            return body
    raise Hdf5DamageError("a checksum does not match")


@contextmanager
def open_array(path: Path, key: str, row: tuple[int, ...]) -> Iterator[Hdf5Array]:
    """The dataset `key` of the root group, uint8 [N, *row].

    Raises Hdf5DamageError for what is no HDF5 file or a damaged one; HistoError for a file without this
    dataset, one that sends the reader elsewhere, and one laid out in a way that is not read here.
    """
    with open(path, "rb", buffering=0, opener=open_at_once) as file:
        kind = os.fstat(file.fileno())
        check_regular(kind, path)
        data = Hdf5Bytes(file, kind.st_size)
        dataset = find_dataset(data, path, key, row)
        yield Hdf5Array(data, dataset, _chunk_places(data, dataset, path))


def _chunk_places(data: Hdf5Bytes, dataset: Dataset, path: Path) -> NDArray[np.void] | None:
    """Where each chunk is, once every one is known to be in the file; None without chunks."""
    ROWS.check(dataset.shape[0], str(path))
    if not dataset.chunk:
        data.check(dataset.address, math.prod(dataset.shape))
        return None
    CHUNK_BYTES.check(math.prod(dataset.chunk), f"a chunk of {path}")
    count = math.prod(_grid(dataset.shape, dataset.chunk))
    if count > CHUNKS:
        raise HistoError(f"{path} is cut into {count:,} chunks: more than {CHUNKS:,}")
    found = np.zeros(count, [("at", "<i8"), ("size", "<u4"), ("mask", "<u4")])
    for entries in _leaves(data, dataset, count):
        _note(entries, dataset, found)
    if (found["at"] == 0).any():
        raise Hdf5DamageError("a chunk is missing")
    ends = found["at"] + found["size"]
    if (found["at"] < 0).any() or (ends > data.size).any():
        raise Hdf5DamageError("a chunk is beyond the end")
    return found


def _note(entries: NDArray[np.void], dataset: Dataset, found: NDArray[np.void]) -> None:
    """Enter the chunks of a leaf of the tree in `found`, by their place in the array."""
    chunk = np.array(dataset.chunk, np.uint64)
    place = entries["offset"][:, :-1] // chunk
    grid = _grid(dataset.shape, dataset.chunk)
    if (entries["offset"][:, :-1] % chunk).any() or (place >= np.array(grid, np.uint64)).any():
        raise Hdf5DamageError("a chunk is not at its place")
    numbers = np.ravel_multi_index(tuple(place.T.astype(np.int64)), grid)
    found["at"][numbers] = entries["child"].astype(np.int64)
    found["size"][numbers], found["mask"][numbers] = entries["size"], entries["mask"]


def _leaves(data: Hdf5Bytes, dataset: Dataset, count: int) -> Iterator[NDArray[np.void]]:
    """The entries of the leaves of a version 1 B-tree of chunks; each node is read once at most."""
    key = [("size", "<u4"), ("mask", "<u4"), ("offset", "<u8", (len(dataset.shape) + 1,))]
    entry = np.dtype([*key, ("child", "<u8")])
    pending, seen = [(dataset.address, -1)], set[int]()
    while pending:
        address, level = pending.pop()
        if address in seen or len(seen) > 2 * count + 100:
            raise Hdf5DamageError("its tree of chunks has no end")
        seen.add(address)
        head = data.read(address, 24)
        used = int.from_bytes(head[6:8], "little")
        if head[:5] != b"TREE\1" or (level >= 0 and head[5] != level):
            raise Hdf5DamageError("a node of its tree of chunks is damaged")
        entries = np.frombuffer(data.read(address + 24, used * entry.itemsize), entry)
        if head[5] == 0:
            yield entries
        else:
            pending += [(int(child), head[5] - 1) for child in entries["child"]]
