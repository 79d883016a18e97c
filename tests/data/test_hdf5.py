"""The reader of HDF5: the pixels that the HDF5 library gives, and nothing from outside the file."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from histo.data.hdf5 import open_array
from histo.data.hdf5_parts import Hdf5DamageError
from histo.errors import HistoError
from tests.commands.test_import_pcam import draw, path_of, write_pcam
from tests.conftest import Memory, assert_one_line_error, run_histo

PATCH = (96, 96, 3)
PIXELS = np.random.default_rng(0).integers(0, 8, (11, *PATCH), np.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.h5"


@pytest.mark.parametrize("libver", [None, ("earliest", "v108"), ("v108", "v108")])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"chunks": (1, 96, 96, 3)},
        {"chunks": (5, 50, 96, 2), "compression": "gzip"},
        {"chunks": (11, 96, 96, 3), "compression": 9, "shuffle": True},
        {"chunks": (4, 33, 96, 3), "compression": 1, "shuffle": True, "fletcher32": True},
        {"chunks": (4, 96, 96, 3), "fletcher32": True},
        {"chunks": (1, 12, 12, 1)},
        {"maxshape": (None, 96, 96, 3)},
    ],
)
def test_rows_are_those_that_were_written(path, libver, how):
    with h5py.File(path, "w", libver=libver) as file:
        file.attrs["of"] = "the root"
        file["other"] = np.arange(5)
        file.create_dataset("x", data=PIXELS, **how).attrs["long"] = np.arange(1000)
    with open_array(path, "x", PATCH) as x:
        assert np.array_equal(x.read(0, 99), PIXELS)
        assert np.array_equal(x.read(3, 7), PIXELS[3:7])


def elsewhere(folder: Path) -> tuple[Path, Path]:
    """A stranger's own HDF5 file and bytes, which nobody named."""
    other, raw = folder / "other.h5", folder / "raw.bin"
    with h5py.File(other, "w") as file:
        file["x"] = PIXELS
    raw.write_bytes(b"BYTES OF ANOTHER FOLDER " * 20_000)
    return other, raw


def external(file: h5py.File, other: Path, raw: Path) -> None:
    file["x"] = h5py.ExternalLink(str(other), "/x")


def soft(file: h5py.File, other: Path, raw: Path) -> None:
    file["y"] = PIXELS
    file["x"] = h5py.SoftLink("/y")


def storage(file: h5py.File, other: Path, raw: Path) -> None:
    file.create_dataset("x", PIXELS.shape, np.uint8, external=[(str(raw), 0, PIXELS.nbytes)])


def device(file: h5py.File, other: Path, raw: Path) -> None:
    file.create_dataset("x", PIXELS.shape, np.uint8, external=[("/dev/zero", 0, PIXELS.nbytes)])


def virtual(file: h5py.File, other: Path, raw: Path) -> None:
    layout = h5py.VirtualLayout(PIXELS.shape, np.uint8)
    layout[:] = h5py.VirtualSource(str(other), "x", PIXELS.shape)
    file.create_virtual_dataset("x", layout)


def plugin(file: h5py.File, other: Path, raw: Path) -> None:
    file.create_dataset("x", data=PIXELS, compression="lzf")


def group(file: h5py.File, other: Path, raw: Path) -> None:
    file["x/inner"] = PIXELS


def committed(file: h5py.File, other: Path, raw: Path) -> None:
    file["type"] = np.dtype(np.uint8)
    file.create_dataset("x", data=PIXELS, dtype=file["type"])


def newer(file: h5py.File, other: Path, raw: Path) -> None:
    file.create_dataset("x", data=PIXELS, chunks=(2, 96, 96, 3))


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (external, "'x' is an external link, not pixels in this file"),
        (soft, "'x' is a soft link, not pixels in this file"),
        (storage, "the pixels of its 'x' are in other files"),
        (device, "the pixels of its 'x' are in other files"),
        (virtual, "it is a virtual dataset, of pixels in other files"),
        (plugin, "its pixels went through filter 32000"),
        (group, "it has a group of that name"),
        (committed, "a shared header message"),
        (newer, "which histo does not read (h5repack"),
    ],
)
def test_a_file_that_leads_out_of_itself_is_refused(
    tmp_path, attack: Callable[[h5py.File, Path, Path], None], said
):
    other, raw = elsewhere(tmp_path)
    write_pcam(tmp_path / "h5", "train", draw(11, 0))
    latest = {"libver": ("latest", "latest")} if attack is newer else {}
    with h5py.File(path_of(tmp_path / "h5", "train", "x"), "w", **latest) as file:
        attack(file, other, raw)
    result = run_histo("import-pcam", tmp_path / "h5", tmp_path / "data")
    assert_one_line_error(result, "train_x.h5", said)
    assert not list(tmp_path.glob("data/train*"))


def test_a_driver_that_keeps_its_data_in_other_files_is_refused(tmp_path):
    name = tmp_path / "a-%d.h5"
    with h5py.File(name, "w", driver="family", memb_size=100_000) as file:
        file["x"] = PIXELS
    with (
        pytest.raises((HistoError, Hdf5DamageError)),
        open_array(tmp_path / "a-0.h5", "x", PATCH),
    ):
        pass


def test_a_chunk_of_a_gigabyte_is_refused_before_it_is_unpacked(path, monkeypatch):
    chunk = (40_000, 96, 96, 3)
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (40_000, *PATCH), np.uint8, chunks=chunk, compression=9)
        x.id.write_direct_chunk((0, 0, 0, 0), b"x\x9c" + b"\0" * 1000)
    memory = Memory()
    with (
        pytest.raises(HistoError, match=r"a chunk of .*HISTO_MAX_CHUNK_BYTES"),
        open_array(path, "x", PATCH),
    ):
        pass
    assert memory.taken < 10 << 20


@pytest.mark.slow
def test_a_chunk_that_unpacks_to_more_than_its_size_is_damage(path):
    import zlib

    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (1, *PATCH), np.uint8, chunks=(1, *PATCH), compression=9)
        x.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(500_000_000), 9))
    memory = Memory()
    with open_array(path, "x", PATCH) as x, pytest.raises(Hdf5DamageError):
        x.read(0, 1)
    assert memory.taken < 10 << 20


@pytest.mark.slow
def test_a_gz_that_unpacks_to_more_than_its_patches_need_is_refused_and_gone(tmp_path):
    h5, data = tmp_path / "h5", tmp_path / "data"
    write_pcam(h5, "train", draw(4, 0))
    x = path_of(h5, "train", "x")
    content = x.read_bytes()
    x.with_name(f"{x.name}.gz").write_bytes(gzip.compress(content + bytes(200 << 20), 1))
    x.unlink()
    assert_one_line_error(run_histo("import-pcam", h5, data), "it unpacks to more than the 67 MB")
    assert not list(data.rglob("*.h5*"))
    x.with_name(f"{x.name}.gz").write_bytes(gzip.compress(b"no HDF5 at all", 1))
    data = tmp_path / "again"
    assert_one_line_error(run_histo("import-pcam", h5, data), "no HDF5 file")
    assert not list(data.rglob("*.h5*"))


@pytest.mark.slow
def test_any_bytes_are_pixels_or_a_refusal(path):
    """2,000 files with some bytes changed, most of them in the headers."""
    made: list[bytes] = []
    hows: list[dict[str, Any]] = [
        {},
        {"chunks": (4, 48, 96, 3), "compression": 1, "fletcher32": True},
    ]
    for how in hows:
        for libver in (None, ("v108", "v108")):
            with h5py.File(path, "w", libver=libver) as file:
                file.create_dataset("x", data=PIXELS[:5], **how)
            made.append(path.read_bytes())
    rng, outcomes = random.Random(0), set()
    for n in range(2000):
        data = bytearray(made[n % len(made)])
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(rng.choice([100, 2500, len(data)]))
            data[at % len(data)] = rng.choice([0, 1, 255, rng.randrange(256)])
        path.write_bytes(data)
        try:
            with open_array(path, "x", PATCH) as x:
                outcomes.add(x.read(0, 99).shape[1:])
        except (HistoError, Hdf5DamageError) as error:
            outcomes.add(type(error).__name__)
    assert outcomes == {PATCH, "HistoError", "Hdf5DamageError"}
