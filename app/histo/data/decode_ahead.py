"""Many image files decoded on all cores, some hundreds of patches ahead of where they are used."""

from __future__ import annotations

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
DECODE_CHUNK = 16
"""Patches that a thread decodes at a time: handing over one takes longer than decoding it."""


def decode_each(
    paths: Iterable[Path], fit: Fit, cores: int | None = None
) -> Iterator[tuple[Pixels, bytes] | HistoError]:
    """Patch and SHA-1 of each file, in order, or why it cannot be used; on this process's cores."""

    def decode(path: Path) -> tuple[Pixels, bytes] | HistoError:
        try:
            pixels = read_patch(path)
            return fit(pixels, path), pixel_sha1(pixels).encode()
        except HistoError as error:
            return error

    rest = iter(paths)
    parts = iter(lambda: list(islice(rest, DECODE_CHUNK)), [])
    ahead = AHEAD // DECODE_CHUNK
    for found in prefetch(lambda part: [*map(decode, part)], parts, ahead, cores or ranks.cores()):
        yield from found


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
