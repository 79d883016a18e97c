"""Many image files decoded on all cores, some hundreds of patches ahead of where they are used."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from histo.data.decode import pixel_sha1, read_patch
from histo.distributed import ranks
from histo.distributed.prefetch import prefetch
from histo.errors import HistoError
from histo.pixels.fit import Fit, Pixels

AHEAD = 512
"""Patches decoded before they are asked for: several batches, some 14 MB at 96 px."""
AHEAD_BYTES = 256 << 20
"""Bytes of patches that wait to be asked for, and of those of one batch."""
DECODE_CHUNK = 16
"""Patches that a thread decodes at a time: handing over one takes longer than decoding it."""
Decoded = tuple[Pixels, bytes] | HistoError
"""A patch and the SHA-1 of its file, or why it cannot be used."""


class _Waiting:
    """The bytes of decoded patches that nobody has taken yet, over all threads."""

    def __init__(self) -> None:
        self._lock, self._bytes, self.largest = threading.Lock(), 0, 0

    def admit(self, size: int) -> bool:
        """Whether there is room for so many bytes more; they are counted if so."""
        with self._lock:
            self.largest = max(self.largest, size)
            good = self._bytes + size <= AHEAD_BYTES
            self._bytes += size * good
        return good

    def release(self, size: int) -> None:
        """Give back the room of a patch."""
        with self._lock:
            self._bytes -= size

    def ahead(self, workers: int) -> int:
        """Chunks to be decoded in advance, for patches as large as the largest so far."""
        fitting = AHEAD_BYTES // max(self.largest, 1)
        return max(min(AHEAD, fitting) // DECODE_CHUNK, workers)


def fitting_batch(batch_size: int, side: int) -> int:
    """`batch_size`, or how many patches of `side` px are 256 MB if those are fewer."""
    return max(min(batch_size, AHEAD_BYTES // (3 * side * side)), 1)


def decode_each(paths: Iterable[Path], fit: Fit, cores: int | None = None) -> Iterator[Decoded]:
    """Patch and SHA-1 of each file, in order, or why it cannot be used; on this process's cores.

    Patches that are decoded in advance take 256 MB at most, however large they are: one that has no
    room is decoded again when it is its turn.
    """
    waiting, workers = _Waiting(), cores or ranks.cores()

    def decode(path: Path) -> Decoded:
        try:
            pixels = read_patch(path)
            patch = fit(pixels, path)
            if patch.nbytes < pixels.nbytes:  # a crop would keep the whole image in memory
                patch = patch.copy()
            return patch, pixel_sha1(pixels).encode()
        except HistoError as error:
            return error

    def in_advance(path: Path) -> Decoded | None:
        found = decode(path)
        if isinstance(found, HistoError) or waiting.admit(found[0].nbytes):
            return found
        return None

    rest = iter(paths)
    parts = iter(lambda: list(islice(rest, DECODE_CHUNK)), [])
    chunks = prefetch(
        lambda part: [(path, in_advance(path)) for path in part],
        parts,
        lambda: waiting.ahead(workers),
        workers,
    )
    for chunk in chunks:
        for path, found in chunk:
            if found is None:
                yield decode(path)
                continue
            if not isinstance(found, HistoError):
                waiting.release(found[0].nbytes)
            yield found


def decode_all(
    paths: Iterable[Path], fit: Fit, cores: int | None = None
) -> Iterator[tuple[Pixels, bytes]]:
    """Patch and SHA-1 of each file, in order; HistoError at the first that cannot be used."""
    for found in decode_each(paths, fit, cores):
        if isinstance(found, HistoError):
            raise found
        yield found


@dataclass(frozen=True)
class DecodedBatch:
    """B files, of which N could be used: their patches, and why the others could not."""

    paths: list[Path]
    pixels: Pixels
    """uint8 [N, S, S, 3], RGB"""
    sha1: list[str]
    """of the N"""
    bad: dict[int, str]
    """why not, by place among the B files"""

    def places(self) -> dict[int, int]:
        """The place among the N of each usable file, by its place among the B."""
        good = [place for place in range(len(self.paths)) if place not in self.bad]
        return {place: n for n, place in enumerate(good)}


def decode_batches(
    paths: Sequence[Path], fit: Fit, batch_size: int, skip_bad: bool = False
) -> Iterator[DecodedBatch]:
    """Files and their patches in batches; memory does not grow.

    Raises HistoError, naming the file, where a patch cannot be decoded or does not fit, unless
    `skip_bad`.
    """
    rows = zip(paths, decode_each(paths, fit), strict=True)
    while part := list(islice(rows, batch_size)):
        good, bad = [], {}
        for place, (_, found) in enumerate(part):
            if not isinstance(found, HistoError):
                good.append(found)
            elif skip_bad:
                bad[place] = found.message
            else:
                raise found
        pixels = np.stack([patch for patch, _ in good]) if good else np.empty((0, 0, 0, 3), "u1")
        sha1 = [digest.decode() for _, digest in good]
        yield DecodedBatch([path for path, _ in part], pixels, sha1, bad)
