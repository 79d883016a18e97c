"""A store that somebody else made, or that does not hold what its files hold."""

from __future__ import annotations

import hashlib
import io
import os
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from histo.data.decode import pixel_sha1, read_patch
from histo.data.patch_files import PatchFiles, list_patches
from histo.data.store import Store, open_store
from histo.pixels.fit import Fit
from histo.screen import Screen
from tests.conftest import Memory, write_image
from tests.opened import files_opened

QUIET = Screen(quiet=True)


@pytest.fixture
def paths(tmp_path: Path) -> PatchFiles:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(20):
        write_image(folder / f"{n:02d}.png", rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    return list_patches(folder)


@pytest.fixture
def decoded(paths: PatchFiles) -> Iterator[set[str]]:
    """The names of the image files read from here on."""
    with files_opened(paths.folder) as names:
        yield names


@pytest.fixture
def user(tmp_path: Path, monkeypatch):
    """Become another user, by name: one with another home."""

    def become(name: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    become("me")
    return become


def opened(paths: PatchFiles, folder: Path) -> Store:
    return open_store(paths, folder, Fit(), Screen())


def check(store: Store, paths: PatchFiles) -> None:
    """The store has the pixels of the files."""
    wanted = [read_patch(path) for path in paths]
    assert np.array_equal(store.take(np.arange(len(paths))), wanted)
    assert [digest.decode() for digest in store.sha1] == [pixel_sha1(x) for x in wanted]


def test_a_store_with_other_pixels_and_right_checksums_is_not_believed(
    paths, tmp_path, user, capsys
):
    """As it may come with data on a disk, with the stamps of the very files."""
    user("stranger")
    opened(paths, tmp_path / "store")
    (index,), (array,) = (tmp_path / "store").glob("*.npz"), (tmp_path / "store").glob("*.npy")
    pixels = np.load(array, mmap_mode="r+")
    pixels[:] = 255 - pixels
    pixels.flush()
    facts = dict(np.load(index))
    facts["crc"] = np.array([zlib.crc32(x.data) for x in np.ascontiguousarray(pixels)], np.uint32)
    facts["sha1"] = np.array([hashlib.sha1(x.tobytes()).hexdigest().encode() for x in pixels])
    np.savez(index, **facts)
    user("me")
    capsys.readouterr()
    check(opened(paths, tmp_path / "store"), paths)
    assert "store was not made here by this user: comparing 20 patches" in capsys.readouterr().out


def test_a_store_that_another_user_made_is_compared_once_and_kept(
    paths, tmp_path, user, capsys, decoded
):
    user("colleague")
    opened(paths, tmp_path / "store")
    before = sorted((tmp_path / "store").glob("*.np?"))
    user("me")
    decoded.clear()
    check(opened(paths, tmp_path / "store"), paths)
    assert decoded == set(paths.names)
    assert sorted((tmp_path / "store").glob("*.np?")) == before
    capsys.readouterr()
    check(opened(paths, tmp_path / "store"), paths)
    user("colleague")
    check(opened(paths, tmp_path / "store"), paths)
    assert "comparing" not in capsys.readouterr().out


def test_pixels_written_over_later_are_compared_whatever_their_checksum(
    paths, tmp_path, user, capsys
):
    opened(paths, tmp_path / "store")
    (array,) = (tmp_path / "store").glob("*.npy")
    time.sleep(0.02)  # longer than a tick of the file system's clock
    with array.open("r+b") as file:
        last = os.pread(file.fileno(), 1, array.stat().st_size - 1)
        os.pwrite(file.fileno(), last, array.stat().st_size - 1)
    capsys.readouterr()
    opened(paths, tmp_path / "store")
    assert "comparing 20 patches with the files" in capsys.readouterr().out


def test_a_sample_is_compared_at_each_start(paths, tmp_path, user, capsys, monkeypatch):
    """Where a file system keeps neither times nor inodes, a store of other pixels is still found out."""
    monkeypatch.setattr("histo.data.store_index.stamp_of", lambda path: (1, 1, 1, 1))
    opened(paths, tmp_path / "store")
    for path in paths:
        write_image(path, 255 - read_patch(path))
    capsys.readouterr()
    check(opened(paths, tmp_path / "store"), paths)
    assert "does not hold the pixels of the files: made anew" in capsys.readouterr().out


def test_the_sample_is_small(tmp_path, user):
    """64 of 200 patches: at most one in a thousand of a large set."""
    (tmp_path / "images").mkdir()
    for n in range(200):
        write_image(tmp_path / "images" / f"{n}.png", np.full((4, 4, 3), n, np.uint8))
    paths = list_patches(tmp_path / "images")
    opened(paths, tmp_path / "store")
    with files_opened(paths.folder) as names:
        opened(paths, tmp_path / "store")
    assert len(names) == 64


def bomb(name: str, claims: str) -> bytes:
    """An index whose array `name` says that it has 4 GB."""
    file = io.BytesIO()
    header = {"descr": "|S40", "fortran_order": False, "shape": (100_000_000,)}
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, header)
    kind = zipfile.ZIP_DEFLATED if claims == "packed" else zipfile.ZIP_STORED
    body = bytes(4_000_000 if claims == "packed" else 40)
    with zipfile.ZipFile(file, "w", kind) as members:
        with members.open(f"{name}.npy", "w", force_zip64=True) as member:
            member.write(array.getvalue())
            for _ in range(1000 if claims == "packed" else 1):
                member.write(body)
        for other, value in (("pixels", "a.npy"), ("format", 5)):
            plain = io.BytesIO()
            np.save(plain, value)
            members.writestr(f"{other}.npy", plain.getvalue())
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("claims", ["packed", "header"])
def test_an_index_that_asks_for_gigabytes_is_not_believed(paths, tmp_path, user, claims):
    opened(paths, tmp_path / "store")
    (index,) = (tmp_path / "store").glob("*.npz")
    index.write_bytes(bomb("names", claims))
    assert index.stat().st_size < 20 << 20
    memory = Memory()
    check(opened(paths, tmp_path / "store"), paths)
    assert memory.taken < 100 << 20


@pytest.mark.parametrize("which", ["*.npz", "*.npy"])
@pytest.mark.parametrize("kind", ["pipe", "link", "zero"])
def test_a_pipe_or_a_link_in_place_of_a_store_is_not_followed(paths, tmp_path, user, which, kind):
    opened(paths, tmp_path / "store")
    (file,) = (tmp_path / "store").glob(which)
    private = tmp_path / "private"
    file.rename(private)
    before = private.read_bytes()
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(private if kind == "link" else "/dev/zero")
    check(opened(paths, tmp_path / "store"), paths)
    assert private.read_bytes() == before
