"""The store on disk: an array of pixels, and the index that says what each of its rows holds.

A store is two files: `NAME.npz`, the index, and the `.npy` array it names. The index is renamed into
place last, so an index on disk always describes a complete array. A row is used only where its source
file has the stamp recorded for it, and the row itself its CRC-32; others are decoded again. Whether the
pixels are those of the files at all is asked by `histo.data.store_trust`.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from histo.data.patch_files import PatchFiles
from histo.distributed import ranks
from histo.errors import NO_ROOM, HistoError
from histo.files.arrays import parse_arrays
from histo.files.digests import sha256
from histo.files.limits import Limit, check_regular, read_bytes
from histo.files.packed import Stamp, stamp_of
from histo.files.writing import naming, written
from histo.pixels.fit import Fit, Pixels
from histo.screen import Screen

FORMAT = 5
STAMP = 4
"""Numbers that say whether a file has changed: size in bytes, mtime and ctime in ns, inode."""
INDEX_BYTES, ROW_BYTES = 64 << 20, 1000
"""An index that is read has so many bytes at most, or so many for each patch that is asked for."""


@dataclass(frozen=True)
class MappedFile:
    """The open file of an array on disk, whose rows begin at byte `start`."""

    file: BinaryIO
    start: int

    def read_rows(self, rows: Iterable[int], out: NDArray[np.uint8]) -> None:
        """Read the rows [B] into `out` [B, …], contiguous; HistoError as `read` raises it."""
        flat, handle, size, end = out.reshape(-1).data, self.file.fileno(), out[:1].nbytes, 0
        for number, row in enumerate(rows):
            begin, end = end, end + size
            try:
                whole = os.preadv(handle, [flat[begin:end]], self.start + row * size) == size
            except OSError:
                whole = False
            if not whole:  # `read` goes on, or says why not
                self.read(row, out[number])

    def read(self, row: int, out: NDArray[np.uint8]) -> None:
        """Read one row; HistoError where the file does not have all of it."""
        place, left = self.start + row * out.nbytes, out.data.cast("B")
        while left:  # a network file system may return less than was asked for
            try:
                count = os.preadv(self.file.fileno(), [left], place)
            except OSError as error:
                raise HistoError(f"{self.file.name} cannot be read: {error.strerror}") from None
            if not count:
                raise HistoError(
                    f"{self.file.name} ends in its row {row}: it was truncated while in use"
                )
            place, left = place + count, left[count:]


def map_pixels(path: Path) -> tuple[NDArray[np.uint8], MappedFile | None]:
    """The array of a store, memory-mapped, and its file; None on Windows, which has no `preadv`.

    ValueError where it is damaged.
    """
    try:
        pixels = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception:  # numpy evaluates the header as Python: it can raise anything
        raise ValueError(f"{path} is damaged") from None
    if not hasattr(os, "preadv"):
        return pixels.view(np.ndarray), None
    return pixels.view(np.ndarray), MappedFile(path.open("rb", buffering=0), pixels.offset)


def release(pixels: NDArray[np.uint8]) -> None:
    """Drop a mapped array's pages from this process; they stay in the system's page cache."""
    base = pixels.base
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)


def index_path_of(folder: Path, images: Path, fit: Fit) -> Path:
    """The index in `folder` of the store of an images folder, cropped and resized so."""
    place = f"{images.resolve()}|{fit.crop}|{fit.size}"
    return folder / f"patches-{hashlib.sha256(place.encode()).hexdigest()[:12]}.npz"


def version_of(index_path: Path) -> int:
    """A number that changes when an index is replaced; 0 where there is none."""
    return index_path.stat().st_mtime_ns if index_path.is_file() else 0


class StoreRow(NamedTuple):
    """One patch of a store, uint8 [S, S, 3], with the SHA-1 and the stamp of its file."""

    patch: Pixels
    sha1: bytes
    stamp: Stamp | NDArray[np.int64]


def names_and_stamps(paths: PatchFiles) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
    """Name [N], UTF-8, relative to the images folder, and stamp [N, STAMP] of each file."""
    stamps = np.empty((len(paths), STAMP), np.int64)
    for row, path in enumerate(paths):
        stamps[row] = stamp_of(path)
    return np.array([name.encode() for name in paths.names]), stamps


@dataclass(frozen=True)
class StoreIndex:
    """What a store on disk holds: one entry a row in each array."""

    pixels: NDArray[np.uint8]
    file: MappedFile | None
    names: NDArray[np.bytes_]
    """UTF-8, relative to the images folder"""
    stamps: NDArray[np.int64]
    crc: NDArray[np.uint32]
    sha1: NDArray[np.bytes_]
    name: str
    """of the file of the pixels, in the folder of the index"""
    digest: str
    """SHA-256 of the index"""

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
            results = screen.track(pool.map(sound, parts), "checking the store", len(parts))
            good = np.concatenate(list(results))
        return np.where(good, rows, -1)


def read_index(index_path: Path, count: int) -> StoreIndex | None:
    """A store as it lies on disk; None where it is damaged, absent or of another format.

    No more memory is taken than for `count` patches: an index says how much it holds, and it may be a
    stranger's.
    """
    most = Limit("", max(INDEX_BYTES, ROW_BYTES * count), "bytes")
    with suppress(OSError, ValueError, KeyError, HistoError):
        check_regular(index_path.lstat(), index_path)
        data = read_bytes(index_path, most)
        index = parse_arrays(data, len(data))
        name, version = str(index["pixels"]), int(index["format"])
        if version != FORMAT or Path(name).name != name:
            return None
        rows = [index[key] for key in ("names", "stamps", "crc", "sha1")]
        check_regular((index_path.parent / name).lstat(), index_path.parent / name)
        pixels, file = map_pixels(index_path.parent / name)
        n, kinds = len(pixels), [(r.dtype.kind, r.shape) for r in rows]
        square = pixels.ndim == 4 and pixels.shape[1] == pixels.shape[2] and pixels.shape[3] == 3
        expected = [("S", (n,)), ("i", (n, STAMP)), ("u", (n,)), ("S", (n,))]
        if pixels.dtype == np.uint8 and square and kinds == expected:
            named, stamps, crc, sha1 = rows
            digest = hashlib.sha256(data).hexdigest()
            return StoreIndex(pixels, file, named, stamps, crc, sha1, name, digest)
    return None


def find_rows(
    index_path: Path, names: NDArray[np.bytes_], stamps: NDArray[np.int64], screen: Screen
) -> tuple[StoreIndex | None, NDArray[np.int64]]:
    """The store on disk, and the sound row of each file; -1 where it has none."""
    found = read_index(index_path, len(names))
    if found is None:
        return None, np.full(len(names), -1)
    return found, found.find(names, stamps, screen)


def write_rows(
    index_path: Path, names: NDArray[np.bytes_], side: int, rows: Iterable[StoreRow]
) -> StoreIndex:
    """Write the array of a store, a row a name, and then its index; older arrays are removed."""
    count = len(names)
    crc, sha1 = np.empty(count, np.uint32), np.empty(count, "S40")
    stamps = np.empty((count, STAMP), np.int64)
    pixels_path = index_path.with_name(f"{index_path.stem}-{os.urandom(4).hex()}.npy")
    shape = (count, side, side, 3)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    try:
        with naming(pixels_path), pixels_path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            reserve_space(file.fileno(), pixels_path.parent, int(np.prod(shape)))
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
    remove_stale(index_path, pixels_path)
    made = (pixels_path.name, sha256(index_path))
    return StoreIndex(*map_pixels(pixels_path), names, stamps, crc, sha1, *made)


def remove_stale(index_path: Path, kept: Path | None = None) -> None:
    """Remove the arrays of a store except `kept`, and temporary files of an index that was killed."""
    arrays = index_path.parent.glob(f"{index_path.stem}-*.npy")
    for stale in [*arrays, *index_path.parent.glob(f".{index_path.name}.*")]:
        if stale != kept:
            stale.unlink(missing_ok=True)


def reserve_space(handle: int, folder: Path, size: int) -> None:
    """Allocate the disk space before decoding, so that a full disk fails at once."""
    try:
        os.posix_fallocate(handle, 0, size + 128)
    except AttributeError:  # no posix_fallocate on macOS and Windows
        pass
    except OSError as error:
        needed = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
        raise HistoError(
            f"no room for the store in {folder}: {needed} needed, {error.strerror}"
            if error.errno in NO_ROOM
            else f"no store can be made in {folder}: {error.strerror}",
            "give another {store} folder",
            "{no_store} keeps the patches in memory",
        ) from None
