"""An import of PatchCamelyon: its HDF5 files into Kaggle's layout and the packed store.

Everything is written in a work folder inside DATA and moved to its name when complete. A killed
import leaves that folder and the next one continues in it: unpacked files, hashes and every patch
whose file decodes to its id are kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.data.decode import pixel_sha1, read_patch
from histo.data.patch_files import PatchFiles
from histo.data.pcam import (
    SIDE,
    SPLITS,
    PcamPatches,
    Source,
    encode_tif,
    read_pcam_patches,
    read_sources,
    unpack,
    unpacked_bytes,
)
from histo.data.store import store_folder, write_store
from histo.data.store_index import StoreRow
from histo.errors import NO_ROOM, HistoError
from histo.files.locks import locked
from histo.files.packed import stamp_of
from histo.files.tables import csv_writer
from histo.files.writing import flush_disks, read_json, write_bytes, write_json, written
from histo.pixels.fit import Pixels
from histo.screen import Screen, counted

WORK, RECORD, GROUPS = ".import-pcam", "import.json", "groups.csv"
BEGUN = "begun.json"
"""In the work folder: what is imported."""
FOLDERS = {"train": ("train", "valid"), "test": ("test",)}
"""Which splits lie in which folder: train and valid in one, told apart by the column `split`."""
TIF_BYTES, STORE_BYTES = 28_672, SIDE * SIDE * 3
"""What a patch takes on disk, as a file of whole blocks and in the store."""


def import_sources(
    sources: Sequence[Source],
    data: Path,
    screen: Screen,
    *,
    keep_duplicates: bool = False,
    groups_only: bool = False,
) -> bool:
    """Write `data` from the files of the splits; False where this very import is there already.

    Each distinct patch is kept once, where it first stands in train, valid, test.
    """
    plan = {
        "keep_duplicates": keep_duplicates,
        "groups_only": groups_only,
        "files": {path.name: list(stamp_of(path)[:2]) for s in sources for path in s.files},
    }
    if is_done(data, plan):
        return False
    with no_room(data):
        return write_import(sources, plan, data, screen, keep_duplicates, groups_only)


def write_import(
    sources: Sequence[Source],
    plan: dict[str, Any],
    data: Path,
    screen: Screen,
    keep_duplicates: bool,
    groups_only: bool,
) -> bool:
    """Write all of it; False where only its work folder had to be removed."""
    work = data / WORK
    if groups_only and (data / GROUPS).exists() and work.is_dir() and not (work / BEGUN).is_file():
        shutil.rmtree(work)  # an import of groups killed while it removed the folder
        return False
    work = begin_work(data, plan, groups_only)
    with locked(work / "lock", f"another import into {data} is running"):
        patches = read_sources(sources, work, screen)
        kept = ~patches.duplicate | keep_duplicates
        say_counts(patches, kept, screen, labels=not groups_only)
        if not groups_only:
            write_patches(sources, patches, kept, data, screen)
            write_labels(patches, kept, data)
        write_table(data / GROUPS, patches, kept, ("id", "slide", "split"))
        if not groups_only:
            write_json(work / RECORD, {**plan, "patches": counts_of(patches, kept)})
            (work / RECORD).replace(data / RECORD)
    (work / BEGUN).unlink()  # first: what is left without it is only to be removed
    shutil.rmtree(work)
    return True


def is_done(data: Path, plan: dict[str, Any]) -> bool:
    """Whether DATA is this very import, finished; HistoError where it is another."""
    if not (data / RECORD).is_file() or plan["groups_only"]:
        return False
    record = read_json(data / RECORD)
    if not isinstance(record, dict) or any(record.get(key) != plan[key] for key in plan):
        raise HistoError(
            f"{data} holds an import of other files or with other options (give another folder)"
        )
    shutil.rmtree(data / WORK, ignore_errors=True)  # an import killed while it removed the folder
    return True


def begin_work(data: Path, plan: dict[str, Any], groups_only: bool) -> Path:
    """The work folder, new or that of a killed import of the same plan."""
    work = data / WORK
    begun = work / BEGUN
    if begun.is_file():
        if read_json(begun) != plan:
            raise HistoError(
                f"{work} was begun from other files or with other options (remove it to start over)"
            )
        return work
    if groups_only and (data / GROUPS).exists():
        raise HistoError(f"{data / GROUPS} exists (remove it to have it written again)")
    if data.exists() and not data.is_dir():
        raise HistoError(f"{data} is a file (give a new folder)")
    if not groups_only and data.exists() and any(path != work for path in data.iterdir()):
        raise HistoError(f"{data} is not empty, and no import by histo (give a new folder)")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_json(begun, plan)
    return work


@contextmanager
def no_room(data: Path) -> Iterator[None]:
    """A full disk is an error that says how to continue."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise HistoError(
            f"{data} cannot be written: {error.strerror} (make room and run the same again: "
            "it continues)"
        ) from None


def counts_of(patches: PcamPatches, kept: NDArray[np.bool_]) -> dict[str, dict[str, int]]:
    """For each split: patches in its file, duplicates among them, patches kept, and those by label."""
    found = {}
    for split in [name for name in SPLITS if name in patches.split]:
        here = patches.split == split
        positive = int((here & kept & (patches.label == 1)).sum())
        found[split] = {
            "in_file": int(here.sum()),
            "duplicates": int((here & patches.duplicate).sum()),
            "kept": int((here & kept).sum()),
            "0": int((here & kept).sum()) - positive,
            "1": positive,
        }
    return found


def say_counts(patches: PcamPatches, kept: NDArray[np.bool_], screen: Screen, labels: bool) -> None:
    """A row for each split, and how duplicates differ from the first patch with the same pixels."""
    columns = ["in_file", "duplicates", "kept", *(["0", "1"] if labels else [])]
    counts = counts_of(patches, kept)
    screen.table(
        [["split", *(name.replace("_", " ") for name in columns)]]
        + [[split, *(f"{n[name]:,}" for name in columns)] for split, n in counts.items()]
    )
    fate = "all are kept" if kept.all() else "the first is kept"
    for what, column in (
        ("in another split", patches.split),
        ("with another label", patches.label),
        ("of another slide", patches.slide),
    ):
        if count := int((column != column[patches.first]).sum()):
            screen.say(
                f"note: {counted(count, 'duplicate')} {what} than the first of the same pixels ({fate})"
            )


def write_patches(
    sources: Sequence[Source],
    patches: PcamPatches,
    kept: NDArray[np.bool_],
    data: Path,
    screen: Screen,
) -> None:
    """The folders of TIFs, and the store of the training folder; each gets its name when complete."""
    work = data / WORK
    for name, splits in FOLDERS.items():
        rows = np.flatnonzero(kept & np.isin(patches.split, splits))
        if not len(rows) or (data / name).exists():
            continue
        folder, stored = work / name, name == "train"
        folder.mkdir(exist_ok=True)
        names = [f"{patches.ids[row]}.tif" for row in rows]
        made = write_tifs(sources, patches, rows, PatchFiles(folder, names), stored, screen)
        if stored:
            write_store(store_folder(data, None), data / name, names, made)
        else:
            for _ in made:
                pass
        flush_disks()
        folder.rename(data / name)


def write_tifs(
    sources: Sequence[Source],
    patches: PcamPatches,
    rows: NDArray[np.int64],
    paths: PatchFiles,
    stored: bool,
    screen: Screen,
) -> Iterator[StoreRow]:
    """Write the TIF of each row and yield it for the store.

    Files that an interrupted import wrote are read back, up to the first that is missing or damaged.
    """
    work = paths.folder.parent
    check_room(paths, stored)  # only now has write_store removed its old temporary files
    sha1, done = patches.sha1[rows], 0
    with screen.bar(f"writing {paths.folder.name}", len(rows)) as advance:
        while done < len(rows) and (pixels := read_finished(paths[done], sha1[done])) is not None:
            yield StoreRow(pixels, sha1[done], stamp_of(paths[done]))
            advance()
            done += 1
        for source in sources:
            mine = patches.row[rows[done:]][patches.split[rows[done:]] == source.split]
            if not len(mine):
                continue
            most = unpacked_bytes(int((patches.split == source.split).sum()))
            for pixels in read_pcam_patches(unpack(source.x, work, screen, most), mine):
                if pixel_sha1(pixels).encode() != sha1[done]:
                    raise HistoError(f"{source.x} has changed since it was read (remove {work})")
                write_bytes(paths[done], encode_tif(pixels))
                yield StoreRow(pixels, sha1[done], stamp_of(paths[done]))
                advance()
                done += 1


def read_finished(path: Path, sha1: bytes) -> Pixels | None:
    """The pixels of a TIF that an interrupted import wrote; None where it is not whole."""
    try:
        pixels = read_patch(path)
    except HistoError:
        return None
    return pixels if pixel_sha1(pixels).encode() == sha1 else None


def check_room(paths: PatchFiles, stored: bool) -> None:
    """Refuse at once where the disk has too little space left."""
    left = len(paths) - sum(1 for _ in paths.folder.iterdir())
    need = left * TIF_BYTES + len(paths) * STORE_BYTES * stored
    free = shutil.disk_usage(paths.folder).free
    if need > free:
        raise HistoError(
            f"no room in {paths.folder.parent.parent}: {need / 1e6:,.0f} MB are needed and "
            f"{free / 1e6:,.0f} MB free (make room and run the same again: it continues)"
        )


def write_labels(patches: PcamPatches, kept: NDArray[np.bool_], data: Path) -> None:
    """The label table of each folder."""
    for name, splits in FOLDERS.items():
        here = kept & np.isin(patches.split, splits)
        if here.any():
            write_table(data / f"{name}_labels.csv", patches, here, ("id", "label", "split"))


def write_table(
    path: Path, patches: PcamPatches, wanted: NDArray[np.bool_], columns: Sequence[str]
) -> None:
    """A CSV of the wanted patches, in the order of the files; written in the work folder, then moved."""
    values: dict[str, Sequence[Any] | NDArray[Any]] = {
        "id": patches.ids,
        "label": patches.label,
        "slide": patches.slide,
        "split": patches.split,
    }
    made = path.parent / WORK / path.name
    with written(made, "w") as file:
        table = csv_writer(file)
        table.writerow(columns)
        table.writerows(
            [values[name][row] for name in columns] for row in np.flatnonzero(wanted).tolist()
        )
    made.replace(path)
