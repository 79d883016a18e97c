"""Duplicates: patches equal in every pixel, and those that differ by turning, flipping, re-saving."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from histo.data.decode import cv2
from histo.pixels.d4 import VIEWS, view
from histo.pixels.fit import Pixels

SIDE = 24
"""Side in px of the grey thumbnail that is kept of each patch: 576 bytes."""
LOWEST = 4
"""So many cosine frequencies along each axis make the hash: 15 numbers, and 220,025 patches are
searched in some 20 seconds. Five, 24 numbers, take twice as long and find no more."""
NEAR = 0.1
"""Two patches whose hashes are nearer (of at most 2) are compared. Re-saved, turned and resized
patches of PatchCamelyon lie at 0.02 (median) and 97 to 100 of 100 within 0.1 (see `near_pairs`)."""
NEIGHBOURS = 9
"""Each patch is compared with so many nearest ones, itself included: enough to join large sets."""
ALIKE = 0.85
"""Two patches are near-duplicates where the detail of their thumbnails correlates at least so. The
best of 8 million pairs of different patches, in all eight views, comes to 0.69."""
BATCH = 4096


def thumbnail(pixels: Pixels) -> NDArray[np.uint8]:
    """The grey thumbnail uint8 [SIDE, SIDE] of a patch, averaged over areas."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def thumbnails(patches: Pixels) -> NDArray[np.uint8]:
    """The grey thumbnails uint8 [N, SIDE, SIDE] of patches uint8 [N, S, S, 3].

    Where SIDE divides S, the patches are reduced as one picture, one below the other: no area spans
    two of them, and each comes out as by itself, in a third of the time.
    """
    n, side = patches.shape[:2]
    if side % SIDE or not n:
        return np.array([thumbnail(patch) for patch in patches], np.uint8).reshape(n, SIDE, SIDE)
    grey = cv2.cvtColor(
        np.ascontiguousarray(patches).reshape(n * side, side, 3), cv2.COLOR_RGB2GRAY
    )
    small = cv2.resize(grey, (SIDE, n * SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8).reshape(n, SIDE, SIDE)


def equal_sets(sha1: NDArray[np.bytes_]) -> list[NDArray[np.int64]]:
    """The rows of each set of two and more equal patches, in order of their first."""
    _, place = np.unique(sha1, return_inverse=True)
    return sets_of(place)


def near_sets(
    thumbs: NDArray[np.uint8], sha1: NDArray[np.bytes_], shown: NDArray[np.bool_]
) -> list[NDArray[np.int64]]:
    """The rows of each set of near-duplicates, and of patches equal to one of them.

    `shown` [N] is False for blank patches, which are all alike.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, first, place = np.unique(sha1, return_index=True, return_inverse=True)
    first = first[shown[first]]
    pairs = first[near_pairs(thumbs[first])]
    size = (int(place.max(initial=-1)) + 1,) * 2
    joined = coo_array((np.ones(len(pairs)), tuple(place[pairs].T)), shape=size)
    names = connected_components(joined, directed=False)[1]
    near = np.isin(names[place], names[place[pairs[:, 0]]])
    return sets_of(np.where(near, names[place], -1))


def sets_of(names: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows of each name (0 and up) that two rows and more have, in order of their first."""
    order = np.argsort(names, kind="stable")
    ends = np.flatnonzero(np.diff(names[order], prepend=-2, append=-2))
    found = [order[a:b] for a, b in pairwise(ends) if b - a > 1 and names[order[a]] >= 0]
    return sorted(found, key=lambda rows: int(rows[0]))


def near_pairs(thumbs: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pairs [P, 2] of thumbnails of one picture, in any of the eight views.

    Of 800 patches of PatchCamelyon, each saved as a JPEG of quality 75, or shrunk to 72 or 48 px
    and back, or with noise of standard deviation 5, all but one or none come within NEAR, of those
    brightened by 10 %, where white glass is cut off at 255, 97 of 100.
    """
    from scipy.spatial import cKDTree

    if len(thumbs) < 2:
        return np.empty((0, 2), np.int64)
    parts = range(0, len(thumbs), BATCH)
    hashes = np.concatenate([hash_thumbs(thumbs[i : i + BATCH]) for i in parts])
    _, near = cKDTree(hashes).query(
        hashes, k=min(NEIGHBOURS, len(thumbs)), distance_upper_bound=NEAR, workers=-1
    )
    own = np.repeat(np.arange(len(thumbs)), near.shape[1])
    pairs = np.stack([own, near.ravel()], 1)
    pairs = pairs[(pairs[:, 1] < len(thumbs)) & (pairs[:, 0] != pairs[:, 1])]
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    parts = range(0, len(pairs), BATCH)
    alike = [likeness(*thumbs[pairs[i : i + BATCH].T]) >= ALIKE for i in parts]
    return np.asarray(pairs[np.concatenate(alike)] if alike else pairs)


def hash_thumbs(thumbs: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A perceptual hash [N, 15] that is the same for all eight views of a picture.

    The lowest cosine coefficients, without the mean and scaled to length 1, so that brightness and
    contrast do not count. A flip changes signs of coefficients, a transpose swaps c[u, v] with
    c[v, u]; what is left alone by both is |c[u, v]| and |c[v, u]| as a pair without order: their
    sum and their difference, which keep distances as they were.
    """
    return magnitudes(thumbs.astype(np.float32), LOWEST).astype(np.float64)


def magnitudes(
    grey: NDArray[np.float32], lowest: int, weighted: bool = False
) -> NDArray[np.float32]:
    """What `hash_thumbs` says of the `lowest` frequencies along each axis: [N, lowest ** 2 - 1].

    `weighted` by frequency: a picture has less of the high ones, which tell pictures apart.
    """
    n, side = grey.shape[:2]
    # as matrices: the few lowest of scipy's dctn, several times as fast
    waves = _cosines(side, lowest)
    rows = (grey.reshape(n * side, side) @ waves).reshape(n, side, lowest)
    columns = np.ascontiguousarray(rows.transpose(0, 2, 1)).reshape(n * lowest, side)
    found = (columns @ waves).reshape(n, lowest, lowest)
    found[:, 0, 0] = 0
    if weighted:
        found = found * np.add.outer(np.arange(lowest), np.arange(lowest))
    size = np.abs(found / (np.sqrt((found**2).sum((1, 2), keepdims=True)) + 1e-6))
    u, v = np.triu_indices(lowest, 1)
    one, other = size[:, u, v], size[:, v, u]
    pairs = np.concatenate([one + other, np.abs(one - other)], 1) / np.sqrt(2)
    diagonal = np.arange(1, lowest)
    return np.concatenate([pairs, size[:, diagonal, diagonal]], 1)


@cache
def _cosines(side: int, lowest: int) -> NDArray[np.float32]:
    """The lowest cosines of a type II transform, each of length 1: [side, lowest]."""
    from scipy.fft import dct

    waves: NDArray[np.float64] = dct(np.eye(side), axis=0, norm="ortho")
    return waves[:lowest].T.astype(np.float32)


def likeness(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How alike pairs of thumbnails are, -1..1 [P]: the correlation of their detail in the best view.

    Detail is what a blur of sigma 2 takes away. The coarse part of two fat cells or of two edges of
    a slide can be alike to 0.94; the detail is not.
    """
    ours = _detail(one)
    seen = [(ours * _detail(view(other, k))).sum((1, 2)) for k in range(VIEWS)]
    return np.asarray(np.max(seen, axis=0))


def _detail(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Detail [N, SIDE, SIDE] of mean 0 and length 1."""
    grey = thumbs.astype(np.float32)
    fine = np.stack([picture - cv2.GaussianBlur(picture, (0, 0), 2) for picture in grey])
    fine -= fine.mean((1, 2), keepdims=True)
    return np.asarray(fine / (np.sqrt((fine**2).sum((1, 2), keepdims=True)) + 1e-3))
