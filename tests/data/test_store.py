"""The packed store."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from histo.data import store as store_module
from histo.data.decode import pixel_sha1, read_patch
from histo.data.patch_files import list_patches
from histo.data.store import Store, map_pixels, open_store, store_folder
from histo.errors import HistoError
from histo.screen import Screen
from tests.conftest import Memory, write_image

QUIET = Screen(quiet=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(20):
        write_image(folder / f"{n:02d}.png", rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    return folder


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the files decoded from here on."""
    names: list[str] = []

    def spy(path: Path):
        names.append(path.name)
        return read_patch(path)

    monkeypatch.setattr(store_module, "read_patch", spy)
    return names


def test_the_pixels_of_the_store_are_those_of_the_files(images, tmp_path):
    paths = list_patches(images)
    for folder in (tmp_path / "store", None):
        store = open_store(paths, folder, None, None, QUIET)
        for row, path in enumerate(paths):
            assert np.array_equal(store.pixels[row], read_patch(path))
        rows = np.array([3, 19, 0, 3])
        gathered = np.empty((4, 16, 16, 3), np.uint8)
        store.gather(rows, gathered)
        assert np.array_equal(gathered, store.pixels[rows])


def test_what_is_gathered_from_a_large_store_leaves_nothing_of_it_in_memory(tmp_path):
    whole = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (4000, 96, 96, 3))
    whole[:] = 7
    del whole
    pixels, file = map_pixels(tmp_path / "a.npy")
    store, batch = Store(pixels, np.empty(4000, "S40"), None, file), np.empty((40, 96, 96, 3), "u1")
    memory = Memory()
    for rows in np.random.default_rng(0).permutation(4000).reshape(100, 40):
        store.gather(rows, batch)
    assert batch.min() == 7
    assert memory.taken < 8 << 20 < pixels.nbytes / 10


def test_a_store_cut_short_while_it_is_read_is_an_error_not_a_crash(images, tmp_path):
    store = open_store(list_patches(images), tmp_path / "store", None, None, QUIET)
    (pixels,) = (tmp_path / "store").glob("*.npy")
    os.truncate(pixels, 10_000)
    with pytest.raises(HistoError, match=r"npy ends in its row 19"):
        store.gather(np.array([0, 19]), np.empty((2, 16, 16, 3), np.uint8))


def test_a_second_opening_decodes_nothing(images, tmp_path, decoded):
    paths = list_patches(images)
    first = open_store(paths, tmp_path / "store", None, None, QUIET)
    del decoded[:]
    second = open_store(paths, tmp_path / "store", None, None, QUIET)
    assert decoded == []
    assert second.fingerprint() == first.fingerprint()


def test_only_what_changed_or_came_is_decoded_anew(images, tmp_path, decoded):
    open_store(list_patches(images), tmp_path / "store", None, None, QUIET)
    del decoded[:]
    write_image(images / "03.png", np.zeros((16, 16, 3), np.uint8))
    write_image(images / "99.png", np.ones((16, 16, 3), np.uint8))
    (images / "05.png").unlink()
    paths = list_patches(images)
    store = open_store(paths, tmp_path / "store", None, None, QUIET)
    assert sorted(decoded) == ["03.png", "99.png"]
    assert all(np.array_equal(store.pixels[i], read_patch(p)) for i, p in enumerate(paths))


def test_a_patch_of_the_same_size_or_the_same_time_is_decoded_anew(images, tmp_path, decoded):
    """Replaced within a second by a file of as many bytes, or by another one of the same age."""
    paths = list_patches(images)
    open_store(paths, tmp_path / "store", None, None, QUIET)
    del decoded[:]
    for path, change in ((paths[3], (0, 1)), (paths[4], (1, 0))):
        info = path.stat()
        path.write_bytes(path.read_bytes() + bytes(change[0]))
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns + change[1]))
    open_store(paths, tmp_path / "store", None, None, QUIET)
    assert sorted(decoded) == ["03.png", "04.png"]


def test_the_fingerprint_is_of_the_pixels_in_any_order(images):
    """And of the whole patch, however it is cropped; another pixel gives another."""
    paths = list_patches(images)
    whole = store_of(paths)
    for other in (store_of(paths[::-1]), store_of(paths, crop=8)):
        assert other.fingerprint() == whole.fingerprint()
    assert whole.sha1[3].decode() == hashlib.sha1(read_patch(paths[3]).tobytes()).hexdigest()
    write_image(paths[3], np.zeros((16, 16, 3), np.uint8))
    assert store_of(paths).fingerprint() != whole.fingerprint()


def store_of(paths: list[Path], crop: int | None = None) -> Store:
    return open_store(paths, None, crop, None, QUIET)


def test_another_order_of_the_same_patches_is_right(images, tmp_path):
    paths = list_patches(images)
    open_store(paths, tmp_path / "store", None, None, QUIET)
    back = open_store(paths[::-1], tmp_path / "store", None, None, QUIET)
    assert np.array_equal(whole_of(back), [read_patch(path) for path in paths[::-1]])
    assert back.sha1.tolist() == [pixel_sha1(x).encode() for x in whole_of(back)]


def whole_of(store: Store) -> np.ndarray:
    return store.take(np.arange(len(store)))


def test_crop_and_size_have_stores_of_their_own(images, tmp_path):
    paths = list_patches(images)
    whole = open_store(paths, tmp_path / "store", None, None, QUIET)
    small = open_store(paths, tmp_path / "store", 8, None, QUIET)
    shrunk = open_store(paths, tmp_path / "store", None, 12, QUIET)
    assert (whole.side, small.side, shrunk.side) == (16, 8, 12)
    assert np.array_equal(small.pixels, whole.pixels[:, 4:12, 4:12])


@pytest.mark.parametrize("damage", ["flip", "cut", "index", "format", "path"])
def test_a_damaged_store_is_rebuilt_not_believed(images, tmp_path, decoded, damage):
    """Where one pixel has changed its patch is decoded anew, else all are."""
    paths = list_patches(images)
    folder = tmp_path / "store"
    open_store(paths, folder, None, None, QUIET)
    (array,), (index,) = folder.glob("*.npy"), folder.glob("*.npz")
    data = bytearray(array.read_bytes())
    if damage == "flip":
        data[1000] ^= 1
        array.write_bytes(data)
    elif damage == "cut":
        array.write_bytes(data[:1000])
    elif damage == "index":
        index.write_bytes(index.read_bytes()[:100])
    else:  # of a later histo, or one that says to read another folder's array
        (tmp_path / array.name).write_bytes(data)
        said = {"format": 99} if damage == "format" else {"pixels": f"../{array.name}"}
        with np.load(index) as members:
            np.savez(index, **{**members, **said})
    del decoded[:]
    store = open_store(paths, folder, None, None, QUIET)
    assert len(set(decoded)) == (1 if damage == "flip" else len(paths))
    assert all(np.array_equal(store.pixels[i], read_patch(p)) for i, p in enumerate(paths))
    assert len(list(folder.glob("*.npy"))) == 1


def test_the_pixels_are_on_disk_before_the_index_says_so(images, tmp_path, monkeypatch):
    """Else a loss of power leaves an index of pixels that are not there."""
    folder, seen, flush = tmp_path / "store", [], os.fsync

    def spy(handle: int) -> None:
        seen.append((os.fstat(handle).st_size, bool(list(folder.glob("*.npz")))))
        flush(handle)

    monkeypatch.setattr(os, "fsync", spy)
    open_store(list_patches(images), folder, None, None, QUIET)
    (pixels,) = folder.glob("*.npy")
    assert seen[0] == (pixels.stat().st_size, False)
    assert seen[-1][1]


def test_a_store_of_more_patches_gives_those_asked_for(images, tmp_path):
    """Nothing is written anew for them: two jobs on parts of the data do not undo each other's."""
    everything = list_patches(images)
    open_store(everything, tmp_path / "store", None, None, QUIET)
    (written,) = (tmp_path / "store").glob("*.npy")
    (images / "19.png").unlink()
    paths = [path for path in list_patches(images) if path.stem != "03"]
    store = open_store(paths, tmp_path / "store", None, None, QUIET)
    assert len(store) == len(store.sha1) == len(paths) == 18
    assert np.array_equal(whole_of(store), [read_patch(path) for path in paths])
    assert list((tmp_path / "store").glob("*.npy")) == [written]


def test_an_unreadable_patch_leaves_no_half_store(images, tmp_path):
    (images / "07.png").write_bytes(b"")
    with pytest.raises(HistoError, match=r"07.png is empty"):
        open_store(list_patches(images), tmp_path / "store", None, None, QUIET)
    assert not list((tmp_path / "store").glob("*.np[yz]"))


def test_a_store_that_cannot_be_made_says_the_way_out(images, tmp_path, monkeypatch):
    """In a folder that is a file; on a disk that is full, before a patch is decoded for it."""
    paths = list_patches(images)
    (tmp_path / "file").touch()
    with pytest.raises(HistoError, match=r"no store can be made in .*--no-store"):
        open_store(paths, tmp_path / "file" / "store", None, None, QUIET)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(HistoError, match=r"no room for the store in .*0.0 GB needed, No space"):
        open_store(paths, tmp_path / "store", None, None, QUIET)
    assert list((tmp_path / "store").glob("*.np*")) == []


def test_a_patch_of_another_size_says_how_to_resize(images, tmp_path):
    write_image(images / "07.png", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(
        HistoError, match=r"07.png is 20x20 px where 16x16 px are expected \(--size 16"
    ):
        open_store(list_patches(images), tmp_path / "store", None, None, QUIET)


def test_the_store_lies_with_the_data_unless_that_is_read_only(images, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert store_folder(images, None) == images / ".histo"
    assert store_folder(images, tmp_path) == tmp_path
    images.chmod(0o555)
    assert images not in store_folder(images, None).parents
