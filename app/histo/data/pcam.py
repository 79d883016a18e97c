"""PatchCamelyon's own files: found, unpacked, checked, and read a few patches at a time.

A split (train, valid, test) is three files, each with a row a patch in the same order:
`…_x.h5`, uint8 [N, 96, 96, 3], RGB; `…_y.h5`, uint8 [N, 1, 1, 1], 0 or 1; and `…_meta.csv`, with
the slide in its column `wsi`. Published as Zenodo record 2546921, the HDF5 files gzipped, CC0.
"""

from __future__ import annotations

import gzip
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo.data.columns import read_rows
from histo.data.decode import cv2, pixel_sha1
from histo.data.hdf5 import Hdf5Array, open_array
from histo.data.hdf5_parts import Hdf5DamageError
from histo.data.split import with_first
from histo.errors import HistoError
from histo.files.limits import MB, TABLE_BYTES
from histo.files.writing import naming, written
from histo.pixels.fit import Pixels
from histo.screen import Screen

SPLITS = ("train", "valid", "test")
SIDE = 96
"""Side of a patch in px."""
FEW, MOST = 512, 8192
"""Patches read at a time: 14 MB, and at most 226 MB where the file is laid out in large chunks."""
SHA1_LENGTH = 40
SLACK = 64 * MB
"""What a file may hold beside its pixels, unpacked: headers, and chunks that reach over the end."""


@dataclass(frozen=True)
class Source:
    """The files of one split; `y` is None where the labels are not wanted."""

    split: str
    x: Path
    y: Path | None
    meta: Path

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [path for path in (self.x, self.y, self.meta) if path is not None]


def find_sources(folder: Path, labels: bool) -> list[Source]:
    """The splits in a folder; HistoError where there is none, or one lacks a file."""
    found = []
    for split in SPLITS:
        stem = f"camelyonpatch_level_2_split_{split}_"
        names = {"x": f"{stem}x.h5", "y": f"{stem}y.h5", "meta": f"{stem}meta.csv"}
        if not labels:
            del names["y"]
        files = {kind: _plain_or_packed(folder / name) for kind, name in names.items()}
        absent = [names[kind] for kind, path in files.items() if path is None]
        if len(absent) == len(files):
            continue
        if absent:
            raise HistoError(
                f"{folder} has no {' and no '.join(absent)}, plain or .gz, but other files of the "
                f"{split} split (the three files of a split belong together)"
            )
        there = {kind: path for kind, path in files.items() if path is not None}
        found.append(Source(split, there["x"], there.get("y"), there["meta"]))
    if not found:
        raise HistoError(
            f"no PatchCamelyon files in {folder}: camelyonpatch_level_2_split_train_x.h5 or .h5.gz, "
            "its _y.h5 and _meta.csv, or those of valid or test"
        )
    return found


def _plain_or_packed(path: Path) -> Path | None:
    return next((p for p in (path, path.with_name(f"{path.name}.gz")) if p.is_file()), None)


def unpack(path: Path, work: Path, screen: Screen, most: int) -> Path:
    """The file itself; where it is gzipped, its content in `work`, unpacked once.

    HDF5 needs random access, which gzip does not give: so it must be on disk unpacked. `most` is
    how many bytes that may be.
    """
    plain = work / path.stem
    if path.suffix != ".gz" or plain.is_file():
        return plain if path.suffix == ".gz" else path
    for part in work.glob(f".{plain.name}.*"):  # left by an unpacking that was killed
        part.unlink()
    what, size = f"unpacking {path.name}, MB", path.stat().st_size // MB
    try:
        with path.open("rb") as packed, written(plain) as file, screen.bar(what, size) as advance:
            stream, said, count = gzip.GzipFile(fileobj=packed), 0, 0
            while data := stream.read(MB):
                count += len(data)
                if count > most:
                    raise HistoError(
                        f"{path} is refused: it unpacks to more than the {most / 1e6:,.0f} MB that "
                        "its patches can take"
                    )
                file.write(data)
                advance(packed.tell() // MB - said)
                said = packed.tell() // MB
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise HistoError(f"{path} is cut short or damaged (download it again)") from None
    return plain


@contextmanager
def _dataset(path: Path, key: str, row: tuple[int, ...]) -> Iterator[Hdf5Array]:
    """The HDF5 dataset `key` of a file, uint8 [N, *row]; HistoError where it is not that."""
    with ExitStack() as stack:
        try:
            found = stack.enter_context(open_array(path, key, row))
        except Hdf5DamageError:
            raise HistoError(
                f"{path} is no HDF5 file, or cut short or damaged (download it again)"
            ) from None
        yield found


def count_patches(path: Path) -> int:
    """How many patches an `…_x.h5` holds."""
    with _dataset(path, "x", (SIDE, SIDE, 3)) as x:
        return x.shape[0]


def read_pcam_patches(path: Path, rows: NDArray[np.int64]) -> Iterator[Pixels]:
    """The patches uint8 [96, 96, 3], RGB, of ascending rows of an `…_x.h5`; memory does not grow."""
    with _dataset(path, "x", (SIDE, SIDE, 3)) as x:
        # a whole chunk is unpacked for each read of a part of it
        chunk = x.chunk_rows
        step = min(max(FEW // chunk * chunk, chunk), MOST)
        at = 0
        while at < len(rows):
            start = int(rows[at])
            try:
                part = x.read(start, start + step)
            except Hdf5DamageError:
                raise HistoError(
                    f"{path} is damaged at row {start} or soon after (download it again)"
                ) from None
            end = int(np.searchsorted(rows, start + step))
            for row in rows[at:end]:
                yield part[row - start].copy()
            del part  # frees it before the next part is read
            at = end


def hash_patches(path: Path, kept: Path, screen: Screen) -> NDArray[np.bytes_]:
    """The SHA-1 of each patch of an `…_x.h5`, S40 [N]; those already in the file `kept` are reused."""
    total = count_patches(path)
    with (
        naming(kept),
        kept.open("ab") as file,
        screen.bar(f"hashing {path.name}", total) as advance,
    ):
        done = file.tell() // SHA1_LENGTH
        file.truncate(done * SHA1_LENGTH)
        advance(done)
        for pixels in read_pcam_patches(path, np.arange(done, total)):
            file.write(pixel_sha1(pixels).encode())
            advance()
    return np.fromfile(kept, f"S{SHA1_LENGTH}")


def read_targets(path: Path, count: int) -> NDArray[np.uint8]:
    """The labels [N], 0 or 1, of an `…_y.h5` of `count` rows."""
    with _dataset(path, "y", (1, 1, 1)) as y:
        if y.shape[0] != count:
            raise HistoError(f"{path} has {y.shape[0]} labels for {count} patches")
        try:
            labels = y.read(0, count).reshape(-1)
        except Hdf5DamageError:
            raise HistoError(f"{path} is damaged (download it again)") from None
    for row in np.flatnonzero(labels > 1)[:1]:
        raise HistoError(f"{path}, row {row}: the label is {labels[row]}, not 0 or 1")
    return labels


def read_slides(path: Path) -> list[str]:
    """The slide of each patch, from a `…_meta.csv`."""
    slides = []
    for line, (slide,) in read_rows(path, ["wsi"]):
        if not slide:
            raise HistoError(f"{path.name}, line {line}: the wsi is blank")
        slides.append(sys.intern(slide))
    return slides


@dataclass(frozen=True)
class PcamPatches:
    """The patches of all splits, one after the other: one entry a patch in each array.

    `row` is a patch's row in its file; `first` the place here of the first with its pixels.
    """

    sha1: NDArray[np.bytes_]
    label: NDArray[np.uint8]
    slide: NDArray[np.object_]
    split: NDArray[np.str_]
    row: NDArray[np.int64]
    first: NDArray[np.int64]

    @property
    def duplicate(self) -> NDArray[np.bool_]:
        """Whether an earlier patch has the same pixels."""
        return np.not_equal(self.first, np.arange(len(self.first)))

    @cached_property
    def ids(self) -> list[str]:
        """The SHA-1 of the pixels, Kaggle's id; the second of equal patches with `-2`, and so on."""
        seen: Counter[str] = Counter()
        names = []
        for name in np.char.decode(self.sha1, "ascii").tolist():
            seen[name] += 1
            names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
        return names


def read_sources(sources: Sequence[Source], work: Path, screen: Screen) -> PcamPatches:
    """Labels, slides and SHA-1s of all the splits; unpacked files and SHA-1s are kept in `work`."""
    parts = []
    for source in sources:
        try:
            parts.append(_read_source(source, work, screen))
        except HistoError:
            for path in source.files:
                if path.suffix == ".gz":
                    (work / path.stem).unlink(missing_ok=True)
            raise
    sha1, label, slide, split = (np.concatenate(column) for column in zip(*parts, strict=True))
    row = np.concatenate([np.arange(len(part[0])) for part in parts])
    return PcamPatches(sha1, label, slide, split, row, with_first(np.arange(len(sha1)), sha1))


def _read_source(
    source: Source, work: Path, screen: Screen
) -> tuple[NDArray[np.bytes_], NDArray[np.uint8], NDArray[np.object_], NDArray[np.str_]]:
    """SHA-1, label, slide and split of each patch of a split.

    The slides come first: their number says how large the other files may be, unpacked.
    """
    slides = read_slides(unpack(source.meta, work, screen, TABLE_BYTES.value))
    count, meta = len(slides), source.meta
    x = unpack(source.x, work, screen, unpacked_bytes(count))
    if count_patches(x) != count:
        raise HistoError(f"{meta} has {count} rows for {count_patches(x)} patches")
    labels = np.zeros(count, np.uint8)
    if source.y is not None:
        labels = read_targets(unpack(source.y, work, screen, count + SLACK), count)
    sha1 = hash_patches(x, work / f"{source.split}.sha1", screen)
    return sha1, labels, np.array(slides, object), np.full(count, source.split)


def unpacked_bytes(count: int) -> int:
    """The most bytes of an `…_x.h5` of so many patches."""
    return count * SIDE * SIDE * 3 * 11 // 10 + SLACK


def encode_tif(pixels: Pixels) -> bytes:
    """A patch as an uncompressed TIF in one strip, as Kaggle's are."""
    how = [cv2.IMWRITE_TIFF_COMPRESSION, 1, cv2.IMWRITE_TIFF_ROWSPERSTRIP, SIDE]
    good, data = cv2.imencode(".tif", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), how)
    assert good
    return data.tobytes()
