"""The packed store: every patch decoded once, in one uint8 array, memory-mapped where it is on disk."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo.data.decode import read_patch
from histo.data.decode_ahead import AHEAD, decode_each
from histo.data.patch_files import PatchFiles
from histo.data.store_index import (
    MappedFile,
    StoreIndex,
    StoreRow,
    find_rows,
    index_path_of,
    names_and_stamps,
    remove_stale,
    version_of,
    write_rows,
)
from histo.data.store_trust import note, proven_rows
from histo.distributed import ranks
from histo.errors import HistoError
from histo.files.locks import locked_when_free
from histo.pixels.fit import Fit, Pixels
from histo.screen import Screen


@dataclass(frozen=True)
class Store:
    """Decoded patches, N of them, in the order of the paths asked for.

    `pixels` uint8 [M, S, S, 3], RGB, hold them, perhaps among others: patch n is in row `rows[n]`,
    or n where there are no `rows`. `sha1` [N] are the SHA-1s of the whole decoded files, before
    crop and resize. `file` is what `pixels` maps; without one they are in memory.
    """

    pixels: NDArray[np.uint8]
    sha1: NDArray[np.bytes_]
    path: Path | None = None
    file: MappedFile | None = None
    rows: NDArray[np.int64] | None = None
    unusable: dict[int, str] = field(default_factory=dict)
    """why not, by place: patches that could not be decoded or do not fit; their rows are black"""

    @classmethod
    def on_disk(
        cls, path: Path, index: StoreIndex, rows: NDArray[np.int64], unusable: dict[int, str]
    ) -> Store:
        """The patches in these rows [N] of an index."""
        if np.array_equal(rows, np.arange(len(index.pixels))):
            return cls(index.pixels, index.sha1, path, index.file, None, unusable)
        return cls(index.pixels, index.sha1[rows], path, index.file, rows, unusable)

    def pick(self, places: Sequence[int]) -> Store:
        """The patches at these places alone."""
        at = np.asarray(places, np.int64)
        rows = at if self.rows is None else self.rows[at]
        return replace(self, sha1=self.sha1[at], rows=rows, unusable={})

    def __len__(self) -> int:
        return len(self.sha1)

    @property
    def side(self) -> int:
        """Side of a patch in px."""
        return int(self.pixels.shape[1])

    def fingerprint(self) -> str:
        """SHA-256 over the patches' SHA-1s: the same pixels in any order give the same."""
        return hashlib.sha256(np.sort(self.sha1).tobytes()).hexdigest()

    def take(self, places: NDArray[np.int64]) -> Pixels:
        """The patches [B] at these places, uint8 [B, S, S, 3]."""
        out: Pixels = np.empty((len(places), *self.pixels.shape[1:]), np.uint8)
        self.gather(places, out)
        return out

    def gather(self, places: NDArray[np.int64], out: Pixels) -> None:
        """Copy the patches [B] at these places into `out`, uint8 [B, S, S, 3].

        Rows are read from the file, not through the map: a page fault would bring neighbouring pages
        into this process, some ten times what was asked for, and a disk error would kill it.
        """
        rows = places if self.rows is None else self.rows[places]
        if self.file is None:
            np.take(self.pixels, rows, 0, out)
            return
        self.file.read_rows(rows.tolist(), out)


def store_folder(data: Path, given: Path | None) -> Path:
    """Where the store lies: the folder given, DATA/.histo where DATA is writable, else the cache.

    A folder without a write bit is left alone even where this user, such as root, could write.
    """
    if given is not None:
        return given
    if os.access(data, os.W_OK) and data.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP):
        return data / ".histo"
    import platformdirs

    return platformdirs.user_cache_path("histo")


def store_bytes(folder: Path, images: Path, fit: Fit) -> int:
    """The size on disk of the store of an images folder; 0 where there is none."""
    index = index_path_of(folder, images, fit)
    found = [index, *folder.glob(f"{index.stem}-*.npy")] if index.is_file() else []
    return sum(path.stat().st_size for path in found)


def open_store(
    paths: PatchFiles, folder: Path | None, fit: Fit, screen: Screen, skip_bad: bool = False
) -> Store:
    """The patches of `paths`, read from the store in `folder`; those not in it are decoded into it.

    `folder=None` decodes into memory. All patches must come out square and of one size; with
    `skip_bad` the others are listed in the store's `unusable`.
    """
    if folder is None:
        return decode_into_memory(paths, fit, screen, skip_bad)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HistoError(
            f"no store can be made in {folder}: {error.strerror}",
            "give another {store} folder",
            "{no_store} keeps the patches in memory",
        ) from None
    index_path = index_path_of(folder, paths.folder, fit)
    names, stamps = names_and_stamps(paths)
    version = version_of(index_path)

    def look() -> tuple[StoreIndex | None, NDArray[np.int64]]:
        index, rows = find_rows(index_path, names, stamps, screen)
        if index is not None:
            at = replace(fit, side=index.pixels.shape[1])
            rows = proven_rows(index_path, index, rows, paths, at, screen)
        return index, rows

    index, rows = look()
    unusable = still_unusable(paths, index, rows, fit, skip_bad)
    if index is not None and rows.min() >= 0:
        return Store.on_disk(index_path, index, rows, unusable)

    def waiting() -> None:
        screen.say(f"waiting for another process that packs the same store: {folder}")

    with locked_when_free(index_path.with_suffix(".lock"), waiting):
        if version_of(index_path) != version:  # another process has written it meanwhile
            index, rows = look()
            unusable = still_unusable(paths, index, rows, fit, skip_bad)
        if index is None or rows.min() < 0:
            kept = index is not None and rows.max() >= 0
            side = index.pixels.shape[1] if index and kept else side_of(paths, fit, skip_bad)
            decoded = decoded_or_black(
                paths.pick(np.flatnonzero(rows < 0).tolist()), replace(fit, side=side), skip_bad
            )
            made = updated_rows(stamps, index, rows, decoded, unusable, screen)
            index, rows = write_rows(index_path, names, side, made), np.arange(len(names))
            note(index_path, index)
    return Store.on_disk(index_path, index, rows, unusable)


def still_unusable(
    paths: PatchFiles,
    index: StoreIndex | None,
    rows: NDArray[np.int64],
    fit: Fit,
    skip_bad: bool,
) -> dict[int, str]:
    """Why patches that the store has as unusable still are, by place; others are to be decoded (-1)."""
    found: dict[int, str] = {}
    if index is None:
        return found
    bad = np.flatnonzero((rows >= 0) & (index.sha1[rows] == b"")).tolist()
    tried = decode_each(paths.pick(bad), replace(fit, side=index.pixels.shape[1]))
    for place, result in zip(bad, tried, strict=True):
        if isinstance(result, HistoError) and skip_bad:
            found[place] = result.message
        else:
            rows[place] = -1
    return found


def decode_into_memory(paths: PatchFiles, fit: Fit, screen: Screen, skip_bad: bool) -> Store:
    """All patches in memory, none on disk."""
    side = side_of(paths, fit, skip_bad)
    pixels = np.empty((len(paths), side, side, 3), np.uint8)
    sha1, unusable = np.empty(len(paths), "S40"), {}
    fresh = decoded_or_black(paths, replace(fit, side=side), skip_bad)
    for row, found in enumerate(screen.track(fresh, "reading patches", len(paths))):
        pixels[row], sha1[row], why = found
        if why:
            unusable[row] = why
    return Store(pixels, sha1, unusable=unusable)


def side_of(paths: Sequence[Path], fit: Fit, skip_bad: bool) -> int:
    """Side in px of the patches: of the first, or with `skip_bad` of most of the first usable ones."""
    if not skip_bad:
        return len(fit(read_patch(paths[0]), paths[0]))
    errors, sides = list[HistoError](), Counter[int]()
    for found in decode_each(paths[:AHEAD], fit):
        if isinstance(found, HistoError):
            errors.append(found)
        else:
            sides[len(found[0])] += 1
    if not sides:
        raise errors[0]
    return sides.most_common(1)[0][0]


def decoded_or_black(
    paths: Sequence[Path], fit: Fit, skip_bad: bool
) -> Iterator[tuple[Pixels, bytes, str]]:
    """Patch, SHA-1 and an empty reason; with `skip_bad` unusable ones are black, without a SHA-1."""
    side = fit.side or 0
    # one process of a machine decodes for all that share a store, while the others wait for it
    for found in decode_each(paths, fit, ranks.cores() * ranks.local_world_size()):
        if not isinstance(found, HistoError):
            yield (*found, "")
        elif skip_bad:
            yield np.zeros((side, side, 3), np.uint8), b"", found.message
        else:
            raise found


def updated_rows(
    stamps: NDArray[np.int64],
    index: StoreIndex | None,
    rows: NDArray[np.int64],
    decoded: Iterator[tuple[Pixels, bytes, str]],
    unusable: dict[int, str],
    screen: Screen,
) -> Iterator[StoreRow]:
    """The rows of a new store: copied from `index` where `rows` [N] has them, else (-1) decoded.

    Reasons of patches that cannot be used are added to `unusable`.
    """
    old = Store(index.pixels, index.sha1, file=index.file) if index else None
    with screen.bar("reading patches", int((rows < 0).sum())) as advance:
        for place, (row, stamp) in enumerate(zip(rows, stamps, strict=True)):
            if old is not None and row >= 0:
                yield StoreRow(old.take(np.array([row]))[0], old.sha1[row], stamp)
                continue
            patch, digest, why = next(decoded)
            advance()
            if why:
                unusable[place] = why
            yield StoreRow(patch, digest, stamp)


def write_store(folder: Path, images: Path, names: Sequence[str], rows: Iterable[StoreRow]) -> None:
    """Make the store of whole patches of an images folder from rows decoded from another source.

    One row a name, in the order of the label CSV, so that `open_store` has nothing to decode.
    Temporary files of an earlier attempt are removed first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index_path = index_path_of(folder, images, Fit())
    if not index_path.is_file():
        remove_stale(index_path)
    ahead = iter(rows)
    first = next(ahead)
    encoded = np.array([name.encode() for name in names])
    note(index_path, write_rows(index_path, encoded, first.patch.shape[0], chain([first], ahead)))
