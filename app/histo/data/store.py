"""The packed store: every patch decoded once, in one uint8 array on disk, memory-mapped.

A store is two files: `NAME.npz`, the index, and the `.npy` it names. The index is renamed into
place last, so that what it says is whole. A row is believed only where the file it came from has
the same size and time as then, and the row itself the same CRC-32; the others are decoded anew.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from histo.data.decode import pixel_sha1, read_patch
from histo.distributed import ranks
from histo.distributed.prefetch import prefetch
from histo.errors import HistoError
from histo.files.locks import locked_when_free
from histo.files.writing import written
from histo.pixels.fit import Fit, Pixels
from histo.screen import Screen

FORMAT = 3
AHEAD = 512
"""Patches decoded before they are asked for: enough for the next batch, little enough to hold."""
TOGETHER = 16
"""Patches that a thread decodes at once: to hand over each alone takes longer than to decode it."""


@dataclass(frozen=True)
class Store:
    """Decoded patches, N of them, in the order of the paths asked for.

    `pixels` uint8 [M, S, S, 3], RGB, hold them, perhaps among others: patch n is in row `rows[n]`,
    or n where there are no `rows`. `sha1` [N] are the SHA-1s of the whole decoded files, before
    crop and resize. `file` is what `pixels` maps; where there is none, they are in memory.
    """

    pixels: NDArray[np.uint8]
    sha1: NDArray[np.bytes_]
    path: Path | None = None
    file: Mapped | None = None
    rows: NDArray[np.int64] | None = None

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

        They are read, not taken from the map: there each page would bring its neighbours into this
        process, some ten times what was asked for, and a disk that fails would kill it.
        """
        rows = places if self.rows is None else self.rows[places]
        if self.file is None:
            np.take(self.pixels, rows, 0, out)
            return
        for row, patch in zip(rows.tolist(), out, strict=True):
            self.file.read(row, patch)


@dataclass(frozen=True)
class Mapped:
    """The open file of an array on disk, whose rows begin at byte `start`."""

    file: BinaryIO
    start: int

    def read(self, row: int, out: NDArray[np.uint8]) -> None:
        """Read one row; HistoError where the file does not have all of it."""
        place, left = self.start + row * out.nbytes, out.data.cast("B")
        while left:  # a file system over the network may give less than was asked for
            try:
                count = os.preadv(self.file.fileno(), [left], place)
            except OSError as error:
                raise HistoError(f"{self.file.name} cannot be read: {error.strerror}") from None
            if not count:
                raise HistoError(f"{self.file.name} ends in its row {row}: it was cut meanwhile")
            place, left = place + count, left[count:]


def map_pixels(path: Path) -> tuple[NDArray[np.uint8], Mapped | None]:
    """The array of a store, mapped, and its file; Windows reads it through the map alone."""
    pixels = np.load(path, mmap_mode="r")
    if not hasattr(os, "preadv"):
        return pixels.view(np.ndarray), None
    return pixels.view(np.ndarray), Mapped(path.open("rb", buffering=0), pixels.offset)


class StoreRow(NamedTuple):
    """One patch of a store, uint8 [S, S, 3], with the SHA-1 and the stamp of its file."""

    patch: Pixels
    sha1: bytes
    stamp: tuple[int, int] | NDArray[np.int64]


def release(pixels: NDArray[np.uint8]) -> None:
    """Give a mapped array's pages back: they stay in the system's cache, not in this process."""
    base = pixels.base
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)


def store_folder(data: Path, given: Path | None) -> Path:
    """Where the store lies: the folder given, DATA/.histo where DATA is writable, else the cache.

    A folder without a write bit is left alone even where this user, root say, could write.
    """
    if given is not None:
        return given
    if os.access(data, os.W_OK) and data.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP):
        return data / ".histo"
    import platformdirs

    return platformdirs.user_cache_path("histo")


def _index_path(folder: Path, images: Path, fit: Fit) -> Path:
    place = f"{images.resolve()}|{fit.crop}|{fit.size}"
    return folder / f"patches-{hashlib.sha256(place.encode()).hexdigest()[:12]}.npz"


def store_bytes(folder: Path, images: Path, fit: Fit) -> int:
    """The size on disk of the store of an images folder; 0 where there is none."""
    index = _index_path(folder, images, fit)
    found = [index, *folder.glob(f"{index.stem}-*.npy")] if index.is_file() else []
    return sum(path.stat().st_size for path in found)


def decode_all(
    paths: Iterable[Path], fit: Fit, cores: int | None = None
) -> Iterator[tuple[Pixels, bytes]]:
    """Patch and SHA-1 of each file in order, decoded some hundreds ahead: on this process's cores."""

    def decode(part: list[Path]) -> tuple[list[tuple[Pixels, bytes]], HistoError | None]:
        found: list[tuple[Pixels, bytes]] = []
        try:
            for path in part:
                pixels = read_patch(path)
                found.append((fit(pixels, path), pixel_sha1(pixels).encode()))
        except HistoError as error:  # it comes in its place, after those before it
            return found, error
        return found, None

    rest = iter(paths)
    parts = iter(lambda: list(islice(rest, TOGETHER)), [])
    for found, error in prefetch(decode, parts, AHEAD // TOGETHER, cores or ranks.cores()):
        yield from found
        if error:
            raise error


def decode_batches(
    paths: Sequence[Path], fit: Fit, batch_size: int
) -> Iterator[tuple[list[Path], Pixels, list[str]]]:
    """Files, their patches uint8 [B, S, S, 3] and SHA-1s in batches; memory does not grow.

    Raises HistoError, naming the file, where a patch does not come out as `fit` says.
    """
    rows = zip(paths, decode_all(paths, fit), strict=True)
    while part := list(islice(rows, batch_size)):
        pixels = np.stack([pixels for _, (pixels, _) in part])
        yield [path for path, _ in part], pixels, [sha1.decode() for _, (_, sha1) in part]


def open_store(
    paths: Sequence[Path],
    folder: Path | None,
    fit: Fit,
    screen: Screen,
) -> Store:
    """The patches of `paths`, from the store in `folder` where it has them, decoded where not.

    `folder=None` decodes into memory. All patches must come out square and of one size.
    """
    if folder is None:
        side = _first(paths, fit)
        pixels = np.empty((len(paths), side, side, 3), np.uint8)
        sha1 = np.empty(len(paths), "S40")
        fresh = decode_all(paths, replace(fit, side=side))
        for row, (patch, digest) in enumerate(screen.track(fresh, "reading patches", len(paths))):
            pixels[row], sha1[row] = patch, digest
        return Store(pixels, sha1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HistoError(
            f"no store can be made in {folder}: {error.strerror}",
            "give another {store} folder",
            "{no_store} keeps the patches in memory",
        ) from None
    index_path = _index_path(folder, paths[0].parent, fit)
    names, stamps = _stamped(paths)
    seen = _version(index_path)
    old, rows = _find(index_path, names, stamps, screen)
    if old is None or rows.min() < 0:

        def waiting() -> None:
            screen.say(f"waiting for another process that packs the same store: {folder}")

        with locked_when_free(index_path.with_suffix(".lock"), waiting):
            if _version(index_path) != seen:  # another process has made it
                old, rows = _find(index_path, names, stamps, screen)
            if old is None or rows.min() < 0:
                return _rebuild(index_path, paths, names, stamps, old, rows, fit, screen)
    if np.array_equal(rows, np.arange(len(old.pixels))):
        return Store(old.pixels, old.sha1, index_path, old.file)
    return Store(old.pixels, old.sha1[rows], index_path, old.file, rows)


def _stamped(paths: Sequence[Path]) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
    """Name [N], UTF-8, and stamp [N, 2] of each file."""
    names, stamps = [], np.empty((len(paths), 2), np.int64)
    for row, path in enumerate(paths):
        names.append(path.name.encode())
        stamps[row] = stamp_of(path)
    return np.array(names), stamps


def _find(
    index_path: Path, names: NDArray[np.bytes_], stamps: NDArray[np.int64], screen: Screen
) -> tuple[_Index | None, NDArray[np.int64]]:
    """The store that is there, and the sound row of each file; -1 where it has none."""
    old = _read(index_path)
    return old, old.find(names, stamps, screen) if old else np.full(len(names), -1)


def _version(index_path: Path) -> int:
    """What changes where an index is replaced; 0 where there is none."""
    return index_path.stat().st_mtime_ns if index_path.is_file() else 0


def stamp_of(path: Path) -> tuple[int, int]:
    """What says whether a file has changed: its size and time; HistoError for a link to nowhere."""
    try:
        info = path.stat()
    except OSError as error:
        raise HistoError(f"{path} cannot be read: {error.strerror}") from None
    return info.st_size, info.st_mtime_ns


def _first(paths: Sequence[Path], fit: Fit) -> int:
    return len(fit(read_patch(paths[0]), paths[0]))


@dataclass(frozen=True)
class _Index:
    """What lies on disk: one entry a row in each array."""

    pixels: NDArray[np.uint8]
    file: Mapped | None
    names: NDArray[np.bytes_]
    """UTF-8"""
    stamps: NDArray[np.int64]
    crc: NDArray[np.uint32]
    sha1: NDArray[np.bytes_]

    def find(
        self, names: NDArray[np.bytes_], stamps: NDArray[np.int64], screen: Screen
    ) -> NDArray[np.int64]:
        """The row of each file that is unchanged and whose pixels have their checksum; else -1."""
        if np.array_equal(names, self.names):
            rows = np.arange(len(names))
        else:
            place = {name: row for row, name in enumerate(self.names.tolist())}
            rows = np.array([place.get(name, -1) for name in names.tolist()])
        rows[(rows >= 0) & (self.stamps[rows] != stamps).any(1)] = -1

        def sound(part: NDArray[np.int64]) -> list[bool]:
            checked = [r >= 0 and zlib.crc32(self.pixels[r].data) == self.crc[r] for r in part]
            release(self.pixels)
            return checked

        per_part = 1024
        parts = [rows[i : i + per_part] for i in range(0, len(rows), per_part)]
        with ThreadPoolExecutor(ranks.cores()) as pool:
            seen = screen.track(pool.map(sound, parts), "checking the store", len(parts))
            good = np.concatenate(list(seen))
        return np.where(good, rows, -1)


def _read(index_path: Path) -> _Index | None:
    """A store as it lies on disk; None where it cannot be believed."""
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        with np.load(index_path, allow_pickle=False) as index:
            name = str(index["pixels"])
            if int(index["format"]) != FORMAT or Path(name).name != name:
                return None
            rows = [index[key] for key in ("names", "stamps", "crc", "sha1")]
        pixels, file = map_pixels(index_path.parent / name)
        n, kinds = len(pixels), [(r.dtype.kind, r.shape) for r in rows]
        square = pixels.ndim == 4 and pixels.shape[1] == pixels.shape[2]
        expected = [("S", (n,)), ("i", (n, 2)), ("u", (n,)), ("S", (n,))]
        if pixels.dtype == np.uint8 and square and kinds == expected:
            return _Index(pixels, file, *rows)
    return None


def _rebuild(
    index_path: Path,
    paths: Sequence[Path],
    names: NDArray[np.bytes_],
    stamps: NDArray[np.int64],
    old: _Index | None,
    rows: NDArray[np.int64],
    fit: Fit,
    screen: Screen,
) -> Store:
    """Write the store anew, row by row: sound ones copied, the others decoded."""
    have = rows >= 0
    kept = Store(old.pixels, old.sha1, file=old.file) if old and have.any() else None
    side = kept.side if kept else _first(paths, fit)
    missing = (path for path, known in zip(paths, have, strict=True) if not known)

    def made() -> Iterator[StoreRow]:
        # one process of a machine does this, while the others wait for it
        fresh = decode_all(
            missing, replace(fit, side=side), ranks.cores() * ranks.local_world_size()
        )
        with screen.bar("reading patches", int((~have).sum())) as advance:
            for row, stamp in zip(rows, stamps, strict=True):
                if row >= 0:
                    assert kept is not None
                    yield StoreRow(kept.take(np.array([row]))[0], kept.sha1[row], stamp)
                else:
                    patch, digest = next(fresh)
                    advance()
                    yield StoreRow(patch, digest, stamp)

    return _write(index_path, names, side, made())


def write_store(folder: Path, images: Path, names: Sequence[str], rows: Iterable[StoreRow]) -> None:
    """Make the store of whole patches of an images folder from what another source has decoded.

    One row a name, in the order of the label CSV: `open_store` then finds them and decodes none.
    What an earlier writing left unfinished is taken away first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index_path = _index_path(folder, images, Fit())
    if not index_path.is_file():
        _clear(index_path)
    ahead = iter(rows)
    first = next(ahead)
    side = first.patch.shape[0]
    _write(index_path, np.array([name.encode() for name in names]), side, chain([first], ahead))


def _write(
    index_path: Path, names: NDArray[np.bytes_], side: int, rows: Iterable[StoreRow]
) -> Store:
    """Write the rows of a store, one a name, then the index that makes them one."""
    count = len(names)
    crc, sha1 = np.empty(count, np.uint32), np.empty(count, "S40")
    stamps = np.empty((count, 2), np.int64)
    pixels_path = index_path.with_name(f"{index_path.stem}-{os.urandom(4).hex()}.npy")
    shape = (count, side, side, 3)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    try:
        with pixels_path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            _reserve(file.fileno(), pixels_path.parent, int(np.prod(shape)))
            for i, (_, row) in enumerate(zip(names, rows, strict=True)):
                data = np.ascontiguousarray(row.patch).data
                crc[i], sha1[i], stamps[i] = zlib.crc32(data), row.sha1, row.stamp
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with written(index_path) as file:
            index = {"names": names, "stamps": stamps, "crc": crc, "sha1": sha1}
            np.savez(file, format=FORMAT, pixels=pixels_path.name, **index)  # type: ignore[arg-type]
    except BaseException:
        pixels_path.unlink(missing_ok=True)
        raise
    _clear(index_path, pixels_path)
    pixels, mapped = map_pixels(pixels_path)
    return Store(pixels, sha1, index_path, mapped)


def _clear(index_path: Path, kept: Path | None = None) -> None:
    """Take away the arrays of a store but the one that is kept, and what a kill left of an index."""
    arrays = index_path.parent.glob(f"{index_path.stem}-*.npy")
    for stale in [*arrays, *index_path.parent.glob(f".{index_path.name}.*")]:
        if stale != kept:
            stale.unlink(missing_ok=True)


def _reserve(handle: int, folder: Path, size: int) -> None:
    """Ask for the disk space first: better no store after a second than none after an hour."""
    try:
        os.posix_fallocate(handle, 0, size + 128)
    except AttributeError:  # no posix_fallocate on macOS and Windows
        pass
    except OSError as error:
        raise HistoError(
            f"no room for the store in {folder}: {size / 1e9:.1f} GB needed, {error.strerror}",
            "give another {store} folder",
            "{no_store} keeps the patches in memory",
        ) from None
