"""Hashes of patches that tell near-duplicates without the patches: what a bundle may hold.

A hash says whether a picture is nearly another, in any of the eight views; no picture can be made
from it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histo.data.check.duplicates import magnitudes, thumbnails
from histo.data.check.quality import BLANK
from histo.data.store import Store
from histo.pixels.fit import Pixels

FREQUENCIES = 8
"""Cosine frequencies along each axis: 63 numbers a patch."""
LENGTH = FREQUENCIES**2 - 1
NEAR = 0.2
"""Hashes nearer than this are of one picture. Of 4,000 patches of PatchCamelyon the nearest two that
differ lie 0.36 apart; of 800 of them saved as JPEG of quality 40 or 75, turned, shrunk to 48 px and
back, or with noise of standard deviation 5, 99 of 100 lie within 0.09, and within 0.17 where they
are brightened by 10 %."""
MOST = 32_000
"""Training patches that are hashed, drawn evenly: 2 MB, and a fifth of a second."""
BATCH, BATCH_BYTES = 128, 4 << 20
"""Patches that are hashed at once, and how large they are: they stay in the processor's cache."""
NONE = 0
"""The first number of the hash of a patch without detail, which is like any other such patch."""


def similarity_hashes(patches: Pixels) -> NDArray[np.uint8]:
    """The hashes uint8 [N, 63] of patches uint8 [N, S, S, 3]; zeros for blank ones."""
    if not len(patches):
        return np.empty((0, LENGTH), np.uint8)
    grey = thumbnails(patches).astype(np.float32)
    found = magnitudes(grey, FREQUENCIES, weighted=True)
    hashes: NDArray[np.uint8] = np.rint(255 * found.clip(0, 1)).astype(np.uint8, order="C")
    hashes[grey.std((1, 2)) < BLANK] = NONE
    return hashes


def hashes_of(store: Store) -> NDArray[np.uint8]:
    """The hashes of a store's patches, MOST of them at most."""
    n = len(store.sha1)
    places = np.unique(np.linspace(0, n - 1, min(n, MOST)).astype(np.int64))
    hashes = np.empty((len(places), LENGTH), np.uint8)
    shape = store.pixels.shape[1:]
    batch = max(1, min(BATCH, BATCH_BYTES // int(np.prod(shape))))
    patches = np.empty((batch, *shape), np.uint8)
    for start in range(0, len(places), batch):
        part = places[start : start + batch]
        some = patches[: len(part)]
        store.gather(part, some)
        hashes[start : start + batch] = similarity_hashes(some)
    return hashes


def similar_to(hashes: NDArray[np.uint8], known: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which of the hashes [N, 63] are near one of the known ones [M, 63]."""
    known = known[known.any(1)]
    if not len(known) or not len(hashes):
        return np.zeros(len(hashes), bool)
    ours, theirs = hashes.astype(np.float32) / 255, known.astype(np.float32) / 255
    squares = (ours**2).sum(1)[:, None] + (theirs**2).sum(1)[None] - 2 * ours @ theirs.T
    near = squares.min(1) < NEAR**2
    return np.asarray(near & hashes.any(1))
