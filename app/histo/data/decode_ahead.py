"""Many image files decoded on all cores, some hundreds of patches ahead of where they are used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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


def decode_all(
    paths: Iterable[Path], fit: Fit, cores: int | None = None
) -> Iterator[tuple[Pixels, bytes]]:
    """Patch and SHA-1 of each file, in order, decoded ahead on this process's cores."""

    def decode(part: list[Path]) -> tuple[list[tuple[Pixels, bytes]], HistoError | None]:
        found: list[tuple[Pixels, bytes]] = []
        try:
            for path in part:
                pixels = read_patch(path)
                found.append((fit(pixels, path), pixel_sha1(pixels).encode()))
        except HistoError as error:  # raised later, after the patches before it
            return found, error
        return found, None

    rest = iter(paths)
    parts = iter(lambda: list(islice(rest, DECODE_CHUNK)), [])
    for found, error in prefetch(decode, parts, AHEAD // DECODE_CHUNK, cores or ranks.cores()):
        yield from found
        if error:
            raise error


def decode_batches(
    paths: Sequence[Path], fit: Fit, batch_size: int
) -> Iterator[tuple[list[Path], Pixels, list[str]]]:
    """Files, their patches uint8 [B, S, S, 3] and SHA-1s, in batches; memory does not grow.

    Raises HistoError, naming the file, where a patch cannot be decoded or does not fit.
    """
    rows = zip(paths, decode_all(paths, fit), strict=True)
    while part := list(islice(rows, batch_size)):
        pixels = np.stack([pixels for _, (pixels, _) in part])
        yield [path for path, _ in part], pixels, [sha1.decode() for _, (_, sha1) in part]
