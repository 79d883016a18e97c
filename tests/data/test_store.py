"""The packed store."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from histo.data.decode import cv2, pixel_sha1, read_patch
from histo.data.patch_files import PatchFiles, list_patches
from histo.data.store import Store, open_store, store_folder
from histo.data.store_index import map_pixels
from histo.errors import HistoError
from histo.pixels.fit import Fit
from histo.screen import Screen
from tests.conftest import Memory, write_image
from tests.opened import files_opened

QUIET = Screen(quiet=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(20):
        write_image(folder / f"{n:02d}.png", rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    return folder


@pytest.fixture(autouse=True)
def no_sample(monkeypatch) -> None:
    """The patches that are decoded to compare them are no part of these tests."""
    monkeypatch.setattr("histo.data.store_trust.SAMPLE", 0)


@pytest.fixture
def decoded(images: Path) -> Iterator[set[str]]:
    """The names of the image files read from here on."""
    with files_opened(images) as names:
        yield names


def test_the_pixels_of_the_store_are_those_of_the_files(images, tmp_path):
    paths = list_patches(images)
    for folder in (tmp_path / "store", None):
        store = open_store(paths, folder, Fit(), QUIET)
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
    store = open_store(list_patches(images), tmp_path / "store", Fit(), QUIET)
    (pixels,) = (tmp_path / "store").glob("*.npy")
    os.truncate(pixels, 10_000)
    with pytest.raises(HistoError, match=r"npy ends in its row 19: it was truncated"):
        store.gather(np.array([0, 19]), np.empty((2, 16, 16, 3), np.uint8))


def test_a_second_opening_decodes_nothing(images, tmp_path, decoded):
    paths = list_patches(images)
    first = open_store(paths, tmp_path / "store", Fit(), QUIET)
    decoded.clear()
    second = open_store(paths, tmp_path / "store", Fit(), QUIET)
    assert decoded == set()
    assert second.fingerprint() == first.fingerprint()


def test_only_what_changed_or_came_is_decoded_anew(images, tmp_path, decoded):
    open_store(list_patches(images), tmp_path / "store", Fit(), QUIET)
    decoded.clear()
    write_image(images / "03.png", np.zeros((16, 16, 3), np.uint8))
    write_image(images / "99.png", np.ones((16, 16, 3), np.uint8))
    (images / "05.png").unlink()
    paths = list_patches(images)
    decoded.clear()  # of the writing
    store = open_store(paths, tmp_path / "store", Fit(), QUIET)
    assert decoded == {"03.png", "99.png"}
    assert all(np.array_equal(store.pixels[i], read_patch(p)) for i, p in enumerate(paths))


def test_a_patch_of_the_same_size_or_the_same_time_is_decoded_anew(images, tmp_path, decoded):
    """Replaced within a second by a file of as many bytes, or by another one of the same age."""
    paths = list_patches(images)
    open_store(paths, tmp_path / "store", Fit(), QUIET)
    decoded.clear()
    for path, change in ((paths[3], (0, 1)), (paths[4], (1, 0))):
        info = path.stat()
        path.write_bytes(path.read_bytes() + bytes(change[0]))
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns + change[1]))
    decoded.clear()  # of the writing
    open_store(paths, tmp_path / "store", Fit(), QUIET)
    assert decoded == {"03.png", "04.png"}


def test_two_patches_renamed_to_each_others_names_are_decoded_anew(images, tmp_path, decoded):
    """Of one size and one time, as unzip, cp -p and rsync -t leave them: `mv` changes no more."""
    paths = list_patches(images)
    pixels = [np.full((16, 16, 3), value, np.uint8) for value in (10, 90)]
    for path, picture in zip(paths[:2], pixels, strict=True):
        path.write_bytes(png(picture))
        os.utime(path, (1, 1))
    assert paths[0].stat().st_size == paths[1].stat().st_size
    open_store(paths, tmp_path / "store", Fit(), QUIET)
    time.sleep(0.1)  # longer than a tick of the file system's clock
    paths[0].rename(images / "t")
    paths[1].rename(paths[0])
    (images / "t").rename(paths[1])
    store = open_store(paths, tmp_path / "store", Fit(), QUIET)
    assert np.array_equal(store.take(np.array([0, 1])), pixels[::-1])
    assert [s.decode() for s in store.sha1[:2]] == [pixel_sha1(p) for p in pixels[::-1]]


def png(pixels: np.ndarray) -> bytes:
    """Uncompressed, so that all have one size."""
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()


def test_a_store_of_an_earlier_histo_is_made_anew(images, tmp_path, decoded):
    """Without ctimes and inodes it could have come with the data."""
    paths, folder = list_patches(images), tmp_path / "store"
    open_store(paths, folder, Fit(), QUIET)
    (index,) = folder.glob("*.npz")
    with np.load(index) as members:
        old = {**members, "stamps": members["stamps"][:, :3], "format": 4}
    np.savez(index, **old)
    decoded.clear()
    open_store(paths, folder, Fit(), QUIET)
    assert decoded == set(paths.names)


def test_the_fingerprint_is_of_the_pixels_in_any_order(images):
    """And of the whole patch, however it is cropped; another pixel gives another."""
    paths = list_patches(images)
    whole = store_of(paths)
    for other in (store_of(paths[::-1]), store_of(paths, crop=8)):
        assert other.fingerprint() == whole.fingerprint()
    assert whole.sha1[3].decode() == hashlib.sha1(read_patch(paths[3]).tobytes()).hexdigest()
    write_image(paths[3], np.zeros((16, 16, 3), np.uint8))
    assert store_of(paths).fingerprint() != whole.fingerprint()


def store_of(paths: PatchFiles, crop: int | None = None) -> Store:
    return open_store(paths, None, Fit(crop=crop), QUIET)


def test_another_order_of_the_same_patches_is_right(images, tmp_path):
    paths = list_patches(images)
    open_store(paths, tmp_path / "store", Fit(), QUIET)
    back = open_store(paths[::-1], tmp_path / "store", Fit(), QUIET)
    assert np.array_equal(whole_of(back), [read_patch(path) for path in paths[::-1]])
    assert back.sha1.tolist() == [pixel_sha1(x).encode() for x in whole_of(back)]


def whole_of(store: Store) -> np.ndarray:
    return store.take(np.arange(len(store)))


def test_crop_and_size_have_stores_of_their_own(images, tmp_path):
    paths = list_patches(images)
    whole = open_store(paths, tmp_path / "store", Fit(), QUIET)
    small = open_store(paths, tmp_path / "store", Fit(crop=8), QUIET)
    shrunk = open_store(paths, tmp_path / "store", Fit(size=12), QUIET)
    assert (whole.side, small.side, shrunk.side) == (16, 8, 12)
    assert np.array_equal(small.pixels, whole.pixels[:, 4:12, 4:12])


@pytest.mark.parametrize("damage", ["flip", "cut", "index", "format", "path"])
def test_a_damaged_store_is_rebuilt_not_believed(images, tmp_path, decoded, damage):
    """All its patches are decoded anew: whoever wrote to it did not do so as histo does."""
    paths = list_patches(images)
    folder = tmp_path / "store"
    open_store(paths, folder, Fit(), QUIET)
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
    decoded.clear()
    store = open_store(paths, folder, Fit(), QUIET)
    assert len(decoded) == len(paths)
    assert all(np.array_equal(store.pixels[i], read_patch(p)) for i, p in enumerate(paths))
    assert len(list(folder.glob("*.npy"))) == 1


def test_the_pixels_are_on_disk_before_the_index_says_so(images, tmp_path, monkeypatch):
    """Else a loss of power leaves an index of pixels that are not there."""
    folder, seen, flush = tmp_path / "store", [], os.fsync

    def spy(handle: int) -> None:
        seen.append((os.fstat(handle).st_size, bool(list(folder.glob("*.npz")))))
        flush(handle)

    monkeypatch.setattr(os, "fsync", spy)
    open_store(list_patches(images), folder, Fit(), QUIET)
    (pixels,) = folder.glob("*.npy")
    assert seen[0] == (pixels.stat().st_size, False)
    assert seen[-1][1]


def test_a_store_of_more_patches_gives_those_asked_for(images, tmp_path):
    """Nothing is written anew for them: two jobs on parts of the data do not undo each other's."""
    everything = list_patches(images)
    open_store(everything, tmp_path / "store", Fit(), QUIET)
    (written,) = (tmp_path / "store").glob("*.npy")
    (images / "19.png").unlink()
    names = [name for name in list_patches(images).names if name != "03.png"]
    paths = PatchFiles(images, names)
    store = open_store(paths, tmp_path / "store", Fit(), QUIET)
    assert len(store) == len(store.sha1) == len(paths) == 18
    assert np.array_equal(whole_of(store), [read_patch(path) for path in paths])
    assert list((tmp_path / "store").glob("*.npy")) == [written]


def test_an_unreadable_patch_leaves_no_half_store(images, tmp_path):
    (images / "07.png").write_bytes(b"")
    with pytest.raises(HistoError, match=r"07.png is empty"):
        open_store(list_patches(images), tmp_path / "store", Fit(), QUIET)
    assert not list((tmp_path / "store").glob("*.np[yz]"))


def test_a_store_that_cannot_be_made_says_the_way_out(images, tmp_path, monkeypatch):
    """In a folder that is a file; on a disk that is full, before a patch is decoded for it."""
    paths = list_patches(images)
    (tmp_path / "file").touch()
    with pytest.raises(HistoError, match=r"no store can be made in .*no_store="):
        open_store(paths, tmp_path / "file" / "store", Fit(), QUIET)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(HistoError, match=r"no room for the store in .* MB needed, No space"):
        open_store(paths, tmp_path / "store", Fit(), QUIET)
    assert list((tmp_path / "store").glob("*.np*")) == []


def test_a_patch_of_another_size_says_how_to_resize(images, tmp_path):
    write_image(images / "07.png", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(
        HistoError, match=r"07.png is 20x20 px where 16x16 px are expected \(size= 16"
    ):
        open_store(list_patches(images), tmp_path / "store", Fit(), QUIET)


def test_the_store_lies_with_the_data_unless_that_is_read_only(images, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert store_folder(images, None) == images / ".histo"
    assert store_folder(images, tmp_path) == tmp_path
    images.chmod(0o555)
    assert images not in store_folder(images, None).parents
