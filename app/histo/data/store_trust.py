"""Which stores this user has made, or proven, and what is done with any other.

A store lies beside the data, and may have come with it: its checksums say that it is undamaged, not
that its pixels are those of the files. So what this user's histo has made is noted in the user's own
cache folder. A store that is not noted there is compared with the files, all of it; one that is, with
a sample of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo.data.decode_ahead import decode_each
from histo.data.patch_files import PatchFiles
from histo.data.store_index import StoreIndex, release
from histo.distributed import ranks
from histo.errors import HistoError
from histo.files.notes import key_of, read_note, write_note
from histo.pixels.fit import Fit
from histo.screen import Screen, counted

STORES = "stores"
"""The kind of the notes."""
SAMPLE, ONE_IN = 64, 1000
"""Patches of a store that are decoded and compared at each start; or one in a thousand, if more."""


def state_of(index_path: Path, index: StoreIndex) -> str:
    """What a note holds: the SHA-256 of the index, and which file the pixels are in.

    The checksums in the index would not stop whoever can write the pixels: the time of the last
    change of their inode does.
    """
    pixels = (index_path.parent / index.name).stat()
    facts = (pixels.st_size, pixels.st_mtime_ns, pixels.st_ctime_ns, pixels.st_ino)
    return f"{index.digest} {' '.join(map(str, facts))}\n"


def is_noted(index_path: Path, index: StoreIndex) -> bool:
    """Whether this user has made this very store, or compared all of it with the files."""
    with suppress(OSError):
        return read_note(STORES, key_of(index_path)) == state_of(index_path, index)
    return False


def note(index_path: Path, index: StoreIndex) -> None:
    """Remember a store; where no cache can be written it is proven anew at each start."""
    with suppress(OSError):
        write_note(STORES, key_of(index_path), state_of(index_path, index))


def proven_rows(
    index_path: Path,
    index: StoreIndex,
    rows: NDArray[np.int64],
    paths: PatchFiles,
    fit: Fit,
    screen: Screen,
) -> NDArray[np.int64]:
    """The rows [N] that hold the pixels of their files; -1 for the others, which are to be decoded.

    Of a store that this user has made a sample is compared, else every row. Where one of the sample
    differs, none is believed.
    """
    there = np.flatnonzero(rows >= 0)
    usable = there[index.sha1[rows[there]] != b""]
    if not len(usable):
        return rows
    if is_noted(index_path, index):
        count = max(SAMPLE, len(usable) // ONE_IN)
        some = np.random.default_rng().permutation(usable)[:count]
        if all(_equal(index, rows, some, paths, fit)):
            return rows
        screen.say(f"{index_path.parent} does not hold the pixels of the files: made anew")
        return np.full(len(rows), -1)
    screen.say(
        f"{index_path.parent} was not made here by this user: comparing "
        f"{counted(len(usable), 'patch')} with the files"
    )
    equal = _equal(index, rows, usable, paths, fit)
    good = np.array(list(screen.track(equal, "comparing with the files", len(usable))), bool)
    proven = rows.copy()
    proven[usable[~good]] = -1
    if good.all() and len(np.unique(rows[there])) == len(index.pixels):
        note(index_path, index)
    return proven


def _equal(
    index: StoreIndex,
    rows: NDArray[np.int64],
    places: NDArray[np.int64],
    paths: PatchFiles,
    fit: Fit,
) -> Iterator[bool]:
    """Whether the rows of these places hold the pixels and the SHA-1s of their files, one by one."""
    cores = ranks.cores() * ranks.local_world_size()
    for place, found in zip(
        places, decode_each(paths.pick(places.tolist()), fit, cores), strict=True
    ):
        row = rows[place]
        if isinstance(found, HistoError):
            yield False
            continue
        pixels, sha1 = found
        same = pixels.shape == index.pixels.shape[1:] and np.array_equal(index.pixels[row], pixels)
        yield bool(same and sha1 == index.sha1[row])
    release(index.pixels)
