"""The packed store: every patch decoded once, in one uint8 array on disk, memory-mapped.

A store is two files: `NAME.json`, the index, and the `.npy` it names. The index is renamed into
place last, so that what it says is whole. A row is believed only where the file it came from has
the same size and time as then, and the row itself the same CRC-32; the others are decoded anew.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from histo.data.patches import Pixels, check_size, fit_patch, pixel_sha1, read_patch
from histo.errors import HistoError
from histo.run import read_json, write_json
from histo.screen import Screen

FORMAT = 1
T = TypeVar("T")


@dataclass(frozen=True)
class Store:
    """Decoded patches: `pixels` uint8 [N, S, S, 3], RGB, in the order of the paths asked for.

    `sha1` holds for each row the SHA-1 of the whole decoded file, before crop and resize.
    """

    pixels: NDArray[np.uint8]
    sha1: list[str]
    path: Path | None = None

    @property
    def side(self) -> int:
        """Side of a patch in px."""
        return int(self.pixels.shape[1])

    def fingerprint(self) -> str:
        """SHA-256 over the patches' SHA-1s: the same pixels in any order give the same."""
        return hashlib.sha256("".join(sorted(self.sha1)).encode()).hexdigest()


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


def _decode(task: tuple[Path, int | None, int | None]) -> tuple[Pixels, str]:
    path, crop, size = task
    pixels = read_patch(path)
    return fit_patch(pixels, crop, size, path), pixel_sha1(pixels)


def decode_all(
    paths: Sequence[Path], crop: int | None, size: int | None
) -> Iterator[tuple[Pixels, str]]:
    """Decode files on every core, in order; a window of some hundred keeps memory flat."""
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), 256):
            part = paths[start : start + 256]
            yield from pool.map(_decode, [(path, crop, size) for path in part])


def _stamp(path: Path) -> list[int]:
    info = path.stat()
    return [info.st_size, info.st_mtime_ns]


def open_store(
    paths: Sequence[Path],
    folder: Path | None,
    crop: int | None,
    size: int | None,
    screen: Screen,
) -> Store:
    """The patches of `paths`, from the store in `folder` where it has them, decoded where not.

    `folder=None` decodes into memory. All patches must come out square and of one size.
    """
    if folder is None:
        first = _first(paths, crop, size)
        pixels = np.empty((len(paths), first, first, 3), np.uint8)
        return Store(pixels, _fill(pixels, paths, range(len(paths)), crop, size, screen))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HistoError(
            f"no store can be made in {folder}: {error.strerror} (--store DIR or --no-store)"
        ) from None
    place = f"{paths[0].parent.resolve()}|{crop}|{size}"
    index_path = folder / f"patches-{hashlib.sha256(place.encode()).hexdigest()[:12]}.json"
    stamps = {path.name: _stamp(path) for path in paths}
    old, known = _read(index_path)
    have = _intact(old, known, [path.name for path in paths], stamps)
    if len(have) == len(paths) == len(known):
        assert old is not None
        rows = [have[path.name] for path in paths]
        if rows == list(range(len(paths))):
            return Store(old, [known[path.name]["sha1"] for path in paths], index_path)
    side = old.shape[1] if old is not None and have else _first(paths, crop, size)
    return _rebuild(index_path, paths, stamps, old, known, have, side, crop, size, screen)


def _first(paths: Sequence[Path], crop: int | None, size: int | None) -> int:
    return check_size(_decode((paths[0], crop, size))[0], None, paths[0])


def _read(index_path: Path) -> tuple[NDArray[np.uint8] | None, dict[str, Any]]:
    """The array and the rows of a store by file name; nothing where it cannot be believed."""
    with suppress(HistoError, OSError, ValueError, KeyError, TypeError, AttributeError):
        index = read_json(index_path)
        if index["format"] == FORMAT and Path(index["pixels"]).name == index["pixels"]:
            pixels = np.load(index_path.parent / index["pixels"], mmap_mode="r")
            rows = index["rows"]
            square = pixels.ndim == 4 and pixels.shape[1] == pixels.shape[2]
            if pixels.dtype == np.uint8 and square and len(rows) == len(pixels):
                return pixels, rows
    return None, {}


def _intact(
    pixels: NDArray[np.uint8] | None,
    known: dict[str, Any],
    names: list[str],
    stamps: dict[str, list[int]],
) -> dict[str, int]:
    """The row of each name whose file is unchanged and whose pixels have their checksum."""
    if pixels is None:
        return {}

    def sound(name: str) -> int | None:
        entry = known.get(name)
        try:
            if entry and entry["stamp"] == stamps[name]:
                row = int(entry["row"])
                if row >= 0 and zlib.crc32(pixels[row].data) == entry["crc"]:
                    return row
        except (KeyError, TypeError, ValueError, IndexError):
            pass
        return None

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        rows = pool.map(sound, names, chunksize=256)
        return {name: row for name, row in zip(names, rows, strict=True) if row is not None}


def _rebuild(
    index_path: Path,
    paths: Sequence[Path],
    stamps: dict[str, list[int]],
    old: NDArray[np.uint8] | None,
    known: dict[str, Any],
    have: dict[str, int],
    side: int,
    crop: int | None,
    size: int | None,
    screen: Screen,
) -> Store:
    """Write the store anew: sound rows copied, the others decoded; then swap the index."""
    folder = index_path.parent
    needed = len(paths) * side * side * 3
    handle, name = tempfile.mkstemp(prefix=f"{index_path.stem}-", suffix=".npy", dir=folder)
    os.close(handle)
    try:
        _reserve(Path(name), needed)
        shape = (len(paths), side, side, 3)
        pixels = np.lib.format.open_memmap(name, mode="w+", dtype=np.uint8, shape=shape)
        missing = [i for i, path in enumerate(paths) if path.name not in have]
        sha1 = [""] * len(paths)
        for i, path in enumerate(paths):
            if old is not None and path.name in have:
                pixels[i] = old[have[path.name]]
                sha1[i] = known[path.name]["sha1"]
        done = _fill(pixels, [paths[i] for i in missing], missing, crop, size, screen)
        for i, digest in zip(missing, done, strict=True):
            sha1[i] = digest
        pixels.flush()
        rows = {
            path.name: {
                "row": i,
                "stamp": stamps[path.name],
                "crc": zlib.crc32(pixels[i].data),
                "sha1": sha1[i],
            }
            for i, path in enumerate(paths)
        }
        write_json(index_path, {"format": FORMAT, "pixels": Path(name).name, "rows": rows})
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    for stale in folder.glob(f"{index_path.stem}-*.npy"):
        if stale.name != Path(name).name:
            stale.unlink(missing_ok=True)
    return Store(np.load(name, mmap_mode="r"), sha1, index_path)


def _reserve(path: Path, size: int) -> None:
    """Take the disk space first: writing to a mapped file on a full disk would kill the process."""
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size + 128)
    except AttributeError:  # no posix_fallocate on macOS and Windows
        pass
    except OSError as error:
        raise HistoError(
            f"no room for the store in {path.parent}: {size / 1e9:.1f} GB needed, "
            f"{error.strerror} (--store DIR elsewhere, or --no-store)"
        ) from None


def _fill(
    pixels: NDArray[np.uint8],
    paths: Sequence[Path],
    rows: Sequence[int],
    crop: int | None,
    size: int | None,
    screen: Screen,
) -> list[str]:
    """Decode `paths` into the given rows; returns the SHA-1 of each."""
    sha1 = []
    patches = screen.track(decode_all(paths, crop, size), "reading patches", len(paths))
    for path, row, (patch, digest) in zip(paths, rows, patches, strict=True):
        check_size(patch, pixels.shape[1], path)
        pixels[row] = patch
        sha1.append(digest)
    return sha1
