"""The features of a data set: those that are known are taken, the others computed and kept."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from histo.data.features import PART_BYTES, KnownFeatures, keys_of
from histo.model.features import Extractor
from histo.screen import Screen


def compute_features(
    extract: Extractor,
    take: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
    sha1: NDArray[np.bytes_],
    wanted: NDArray[np.bool_],
    known: KnownFeatures,
    batch_size: int,
    minutes: float,
    screen: Screen,
) -> int:
    """Compute and keep what is wanted (bool [N, V]: views of patches) and not known; how many.

    `take` returns the patches uint8 [B, S, S, 3] at these places of the N. What is computed is kept
    every so many minutes: killed, the same call goes on from there.
    """
    views = range(wanted.shape[1])
    lack = wanted & np.stack([known.missing(keys_of(sha1, view)) for view in views], 1)
    _, first = np.unique(sha1, return_index=True)  # of equal patches one is enough
    lack &= np.isin(np.arange(len(sha1)), first)[:, None]
    count = int(lack.sum())
    if not count:
        return 0
    waiting = Waiting(known, minutes)
    with screen.bar("features", count, unit="views") as advance:
        for places, now in batches_of(lack, batch_size):
            found = extract(take(places), now)
            for column, view in enumerate(now):
                waiting.add(keys_of(sha1[places], view), found[:, column])
            advance(len(places) * len(now))
    waiting.keep()
    return count


def batches_of(lack: NDArray[np.bool_], size: int) -> list[tuple[NDArray[np.int64], list[int]]]:
    """Batches of patches that lack the same views: their places, and those views."""
    found = []
    for pattern in np.unique(lack, axis=0):
        places = np.flatnonzero((lack == pattern).all(1))
        now = np.flatnonzero(pattern).tolist()
        if now:
            found += [(places[i : i + size], now) for i in range(0, len(places), size)]
    return found


class Waiting:
    """Features that are computed and not yet kept."""

    def __init__(self, known: KnownFeatures, minutes: float) -> None:
        self.known, self.seconds, self.kept = known, 60 * max(minutes, 0.5), time.monotonic()
        self.keys: list[NDArray[np.bytes_]] = []
        self.values: list[NDArray[np.float32]] = []

    def add(self, keys: NDArray[np.bytes_], values: NDArray[np.float32]) -> None:
        """Add features [B, F], and keep all where it is time or they are many."""
        self.keys.append(keys)
        self.values.append(values)
        late = time.monotonic() - self.kept > self.seconds
        if late or sum(part.nbytes for part in self.values) > PART_BYTES:
            self.keep()

    def keep(self) -> None:
        """Keep what is computed."""
        if self.keys:
            self.known.add(np.concatenate(self.keys), np.concatenate(self.values))
        self.keys, self.values, self.kept = [], [], time.monotonic()
