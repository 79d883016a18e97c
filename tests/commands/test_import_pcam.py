"""`histo import-pcam`, on HDF5 files in the layout that PatchCamelyon is published in."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from filelock import FileLock

from histo.config import TrainConfig
from histo.data.dataset import load_dataset
from histo.data.decode import pixel_sha1, read_patch
from histo.data.label_table import read_label_table
from histo.data.labels import read_labels
from histo.data.patch_files import PatchFiles, list_patches
from histo.data.pcam import hash_patches, unpack
from histo.data.store import open_store
from histo.pixels.fit import Fit
from histo.screen import Screen
from tests.conftest import SHARED, TINY, assert_one_line_error, rows_of, run_histo
from tests.opened import files_opened

QUIET = Screen(quiet=True)
HEADER = ["", "coord_y", "coord_x", "tumor_patch", "center_tumor_patch", "wsi"]


def path_of(folder: Path, split: str, kind: str) -> Path:
    suffix = "csv" if kind == "meta" else "h5"
    return folder / f"camelyonpatch_level_2_split_{split}_{kind}.{suffix}"


def write_pcam(
    folder: Path,
    split: str,
    x: np.ndarray,
    y: np.ndarray | None = None,
    slides: list[str] | None = None,
    **how: Any,
) -> None:
    """One split as published: x uint8 [N, 96, 96, 3], y uint8 [N, 1, 1, 1], the meta columns."""
    folder.mkdir(exist_ok=True)
    y = np.arange(len(x)) % 2 if y is None else y
    slides = slides or [f"camelyon16_{split}_{n % 5:03d}" for n in range(len(x))]
    with h5py.File(path_of(folder, split, "x"), "w") as file:
        file.create_dataset("x", data=x, **how)
    with h5py.File(path_of(folder, split, "y"), "w") as file:
        file.create_dataset("y", data=y.astype(np.uint8).reshape(-1, 1, 1, 1), **how)
    with path_of(folder, split, "meta").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(HEADER)
        rows.writerows([n, 7 * n, 9 * n, False, bool(y[n]), slides[n]] for n in range(len(x)))


def draw(count: int, seed: int) -> np.ndarray:
    """Random patches uint8 [count, 96, 96, 3]."""
    data = np.random.default_rng(seed).bytes(count * 96 * 96 * 3)
    return np.frombuffer(data, np.uint8).reshape(count, 96, 96, 3)


def content(data: Path) -> dict[str, bytes]:
    """All files of an import but the store's, whose name and index hold the place and the time."""
    files = [p for p in data.rglob("*") if p.is_file() and p.parent.name != ".histo"]
    return {str(p.relative_to(data)): p.read_bytes() for p in files}


def stored(data: Path) -> np.ndarray:
    """The pixels of the store of an import; no patch may have to be decoded for them."""
    ids = [row.id for row in read_labels(data / "train_labels.csv")]
    paths = PatchFiles(data / "train", [f"{name}.tif" for name in ids])
    with files_opened(data / "train") as opened, pytest.MonkeyPatch.context() as patch:
        patch.setattr("histo.data.store_trust.SAMPLE", 0)  # patches decoded to compare them
        patch.setattr("histo.data.store_trust.ONE_IN", 10**9)
        store = open_store(paths, data / ".histo", Fit(), QUIET)
    assert not opened
    return store.take(np.arange(len(store)))


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """The disk's own pace is no part of these tests."""
    monkeypatch.setattr(os, "sync", lambda: None)


@pytest.fixture
def h5(tmp_path: Path) -> Path:
    """A train split of 20 patches, a valid of 8, a test of 6; none twice."""
    for n, (split, count) in enumerate((("train", 20), ("valid", 8), ("test", 6))):
        write_pcam(tmp_path / "h5", split, draw(count, n))
    return tmp_path / "h5"


def test_ids_labels_slides_and_splits_are_those_of_the_files(h5, tmp_path):
    data = tmp_path / "data"
    assert run_histo("import-pcam", h5, data).exit_code == 0
    wanted = [
        (pixel_sha1(x), str(n % 2), f"camelyon16_{split}_{n % 5:03d}", split)
        for seed, (split, count) in enumerate((("train", 20), ("valid", 8), ("test", 6)))
        for n, x in enumerate(draw(count, seed))
    ]
    table = [*rows_of(data / "train_labels.csv"), *rows_of(data / "test_labels.csv")]
    assert [(r["id"], r["label"], r["split"]) for r in table] == [
        (w[0], w[1], w[3]) for w in wanted
    ]
    groups = rows_of(data / "groups.csv")
    assert [(r["id"], r["slide"], r["split"]) for r in groups] == [
        (w[0], w[2], w[3]) for w in wanted
    ]
    assert len(list_patches(data / "train")) == 28
    assert len(list_patches(data / "test")) == 6
    assert not (data / ".import-pcam").exists()


def test_a_training_knows_the_pixel_size_of_an_import(h5, tmp_path):
    """0.972 µm per px, PatchCamelyon's, is said and kept in run and model."""
    assert run_histo("import-pcam", h5, tmp_path / "data").exit_code == 0
    words = ("--weights", "none", "--epochs", 1, "--split-column", "split", "--size", 32)
    done = run_histo("train", tmp_path / "data", *TINY, *words, "--out", tmp_path / "run")
    assert "0.972 µm per px" in done.output
    config, card = (
        json.loads((tmp_path / "run" / name).read_text()) for name in ("config.json", "model.json")
    )
    assert config["mpp"] == {"value": 0.972, "source": "found"}
    assert card["mpp"] == pytest.approx(0.972 * 3)


def test_every_tif_decodes_to_its_id(h5, tmp_path):
    run_histo("import-pcam", h5, tmp_path / "data")
    paths = [*list_patches(tmp_path / "data" / "train"), *list_patches(tmp_path / "data" / "test")]
    assert all(pixel_sha1(read_patch(path)) == path.stem for path in paths)
    words = ("check", tmp_path / "data", "--out", tmp_path / "check")
    assert "all 28 ids are the SHA-1" in run_histo(*words).stdout


def test_training_finds_the_store_complete_and_the_official_split(h5, tmp_path):
    data = tmp_path / "data"
    run_histo("import-pcam", h5, data)
    assert np.array_equal(stored(data), np.concatenate([draw(20, 0), draw(8, 1)]))
    config = TrainConfig(data, split_column="split", groups=str(data / "groups.csv"))
    found = load_dataset(config, read_label_table(config, QUIET), QUIET)
    assert found.valid.tolist() == [False] * 20 + [True] * 8
    assert found.unit == "slide"
    assert not found.split.leak


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real patches are not here")
def test_real_patches_come_out_under_kaggles_ids(tmp_path):
    paths = list_patches(SHARED / "pcam-mini" / "train")[:30]
    write_pcam(tmp_path / "h5", "train", np.stack([read_patch(path) for path in paths]))
    run_histo("import-pcam", tmp_path / "h5", tmp_path / "data")
    assert list_patches(tmp_path / "data" / "train").names == [path.name for path in paths]


@pytest.mark.parametrize("how", ["gzipped", "in chunks", "in large chunks"])
def test_gzipped_and_chunked_files_give_the_same(h5, tmp_path, how, monkeypatch):
    run_histo("import-pcam", h5, tmp_path / "plain")
    packed = tmp_path / "packed"
    if how == "gzipped":
        shutil.copytree(h5, packed)
        for path in packed.glob("*.h5"):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
            path.unlink()
    else:
        monkeypatch.setattr("histo.data.pcam.FEW", 5)
        chunk = 3 if how == "in chunks" else 7
        for n, (split, count) in enumerate((("train", 20), ("valid", 8), ("test", 6))):
            x = draw(count, n)
            write_pcam(packed, split, x, chunks=True, compression="gzip")
            with h5py.File(path_of(packed, split, "x"), "w") as file:
                file.create_dataset(
                    "x", data=x, chunks=(min(chunk, count), 96, 48, 3), compression=1
                )
    before = sorted(packed.iterdir())
    run_histo("import-pcam", packed, tmp_path / "data")
    plain, other = content(tmp_path / "plain"), content(tmp_path / "data")
    del plain["import.json"], other["import.json"]
    assert plain == other
    assert np.array_equal(stored(tmp_path / "data"), stored(tmp_path / "plain"))
    assert sorted(packed.iterdir()) == before


@pytest.fixture
def twice(tmp_path: Path) -> Path:
    """Train rows 0 and 3 equal, alike in all; 1 and 4 of two labels and slides; one more in valid."""
    x = draw(5, 0)
    train = np.stack([x[0], x[1], x[2], x[0], x[1]])
    write_pcam(tmp_path / "h5", "train", train, np.array([0, 1, 0, 0, 0]), list("abaac"))
    write_pcam(tmp_path / "h5", "valid", np.stack([x[3], x[2]]), np.array([1, 0]), ["v", "v"])
    write_pcam(tmp_path / "h5", "test", np.stack([x[4], x[0]]), np.array([1, 0]), ["t", "t"])
    return tmp_path / "h5"


def test_equal_patches_are_kept_once_where_they_first_stand(twice, tmp_path):
    data = tmp_path / "data"
    result = run_histo("import-pcam", twice, data)
    ids = [pixel_sha1(x) for x in draw(5, 0)]
    assert [r["id"] for r in rows_of(data / "groups.csv")] == ids
    assert [r["label"] for r in rows_of(data / "train_labels.csv")] == ["0", "1", "0", "1"]
    assert [r["slide"] for r in rows_of(data / "groups.csv")] == ["a", "b", "a", "v", "t"]
    assert json.loads((data / "import.json").read_text())["patches"]["train"] == {
        "in_file": 5, "duplicates": 2, "kept": 3, "0": 2, "1": 1,
    }  # fmt: skip
    assert "note: 2 duplicates in another split than the first" in result.stdout
    assert "note: 1 duplicate with another label than the first" in result.stdout
    assert "note: 3 duplicates of another slide than the first" in result.stdout


def test_kept_duplicates_have_ids_of_their_own(twice, tmp_path):
    data = tmp_path / "data"
    assert run_histo("import-pcam", twice, data, "--keep-duplicates").exit_code == 0
    a, b, c, d, e = (pixel_sha1(x) for x in draw(5, 0))
    table = rows_of(data / "groups.csv")
    assert [r["id"] for r in table] == [a, b, c, f"{a}-2", f"{b}-2", d, f"{c}-2", e, f"{a}-3"]
    assert [r["slide"] for r in table] == ["a", "b", "a", "a", "c", "v", "v", "t", "t"]
    assert pixel_sha1(read_patch(data / "test" / f"{a}-3.tif")) == a
    assert len(stored(data)) == 7


@pytest.mark.parametrize("splits", [["train"], ["valid", "test"], ["test"]])
def test_a_split_that_is_not_there_is_not_missed(h5, tmp_path, splits):
    for path in h5.iterdir():
        if not any(f"_{split}_" in path.name for split in splits):
            path.unlink()
    assert run_histo("import-pcam", h5, tmp_path / "data").exit_code == 0
    assert {r["split"] for r in rows_of(tmp_path / "data" / "groups.csv")} == set(splits)
    assert (tmp_path / "data" / "train").exists() == (splits != ["test"])


def test_groups_only_gives_kaggles_own_folder_its_slides(h5, tmp_path):
    kaggle = tmp_path / "kaggle"
    (kaggle / "train").mkdir(parents=True)
    (kaggle / "train_labels.csv").write_text("id,label\n")
    for split in ("train", "valid", "test"):
        path_of(h5, split, "y").unlink()
    result = run_histo("import-pcam", h5, kaggle, "--groups-only")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in kaggle.iterdir()) == ["groups.csv", "train", "train_labels.csv"]
    table = rows_of(kaggle / "groups.csv")
    assert list(table[0]) == ["id", "slide", "split"]
    assert [r["id"] for r in table[:20]] == [pixel_sha1(x) for x in draw(20, 0)]
    assert_one_line_error(
        run_histo("import-pcam", h5, kaggle, "--groups-only"), "groups.csv exists (remove it"
    )


def test_a_finished_import_is_left_as_it_is(h5, tmp_path):
    data = tmp_path / "data"
    run_histo("import-pcam", h5, data)
    before = {p: p.stat().st_mtime_ns for p in data.rglob("*")}
    result = run_histo("import-pcam", h5, data)
    assert result.exit_code == 0
    assert "holds this import already" in result.stdout
    assert {p: p.stat().st_mtime_ns for p in data.rglob("*")} == before


def test_what_is_no_import_of_these_files_is_refused(h5, tmp_path):
    data, other = tmp_path / "data", tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    assert_one_line_error(
        run_histo("import-pcam", h5, other), "is not empty, and no import by histo"
    )
    assert [p.name for p in other.iterdir()] == ["notes.txt"]
    assert_one_line_error(run_histo("import-pcam", h5, other / "notes.txt"), "is a file")
    run_histo("import-pcam", h5, data)
    assert_one_line_error(
        run_histo("import-pcam", h5, data, "--keep-duplicates"),
        "of other files or with other options",
    )
    write_pcam(h5, "train", draw(20, 9))
    assert_one_line_error(
        run_histo("import-pcam", h5, data), "of other files or with other options"
    )


def spoil(h5: Path, what: str) -> None:  # noqa: PLR0912  (a branch a fault)
    """One fault in the train files of a folder."""
    x, y, meta = (path_of(h5, "train", kind) for kind in ("x", "y", "meta"))
    if what == "text":
        x.write_text("not found")
    elif what == "cut":
        os.truncate(x, x.stat().st_size // 2)
    elif what == "gzip cut":
        data = gzip.compress(x.read_bytes(), 1)
        x.with_name(f"{x.name}.gz").write_bytes(data[: len(data) // 2])
        x.unlink()
    elif what == "no gzip":
        x.rename(x.with_name(f"{x.name}.gz"))
    elif what == "chunk":
        write_pcam(h5, "train", draw(20, 0), chunks=True, compression="gzip")
        data = bytearray(x.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
        x.write_bytes(data)
    elif what == "key":
        with h5py.File(x, "w") as file:
            file["images"] = draw(20, 0)
    elif what == "side":
        write_pcam(h5, "train", draw(20, 0)[:, :64, :64])
    elif what == "float":
        write_pcam(h5, "train", draw(20, 0).astype(np.float32))
    elif what == "empty":
        write_pcam(h5, "train", draw(0, 0))
    elif what == "y rows":
        shutil.copy(path_of(h5, "valid", "y"), y)
    elif what == "y values":
        write_pcam(h5, "train", draw(20, 0), np.arange(20))
    elif what == "no y":
        y.unlink()
    elif what == "no meta":
        meta.unlink()
    elif what == "meta rows":
        shutil.copy(path_of(h5, "valid", "meta"), meta)
    elif what == "meta column":
        meta.write_text(meta.read_text().replace("wsi", "slide_name"))
    elif what == "meta blank":
        meta.write_text(meta.read_text().replace("camelyon16_train_003", ""))
    elif what == "nothing":
        for path in h5.iterdir():
            path.unlink()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("text", "train_x.h5 is no HDF5 file, or cut short or damaged (download it again)"),
        ("cut", "train_x.h5 is no HDF5 file, or cut short or damaged"),
        ("gzip cut", "train_x.h5.gz is cut short or damaged (download it again)"),
        ("no gzip", "train_x.h5.gz is cut short or damaged"),
        ("chunk", "train_x.h5 is damaged at row 0 or soon after"),
        ("key", "train_x.h5 has no dataset 'x': it has images"),
        ("side", "'x' is uint8 [20, 64, 64, 3], not uint8 [N, 96, 96, 3]"),
        ("float", "'x' is float32 [20, 96, 96, 3], not uint8 [N, 96, 96, 3]"),
        ("empty", "train_meta.csv has a header and no rows"),
        ("y rows", "train_y.h5 has 8 labels for 20 patches"),
        ("y values", "train_y.h5, row 2: the label is 2, not 0 or 1"),
        ("no y", "has no camelyonpatch_level_2_split_train_y.h5, plain or .gz"),
        ("no meta", "has no camelyonpatch_level_2_split_train_meta.csv"),
        ("meta rows", "train_meta.csv has 8 rows for 20 patches"),
        ("meta column", "train_meta.csv has no column 'wsi': it has"),
        ("meta blank", "train_meta.csv, line 5: the wsi is blank"),
        ("nothing", "no PatchCamelyon files in"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_under_a_final_name(h5, tmp_path, what, said):
    spoil(h5, what)
    assert_one_line_error(run_histo("import-pcam", h5, tmp_path / "data"), said)
    left = [p.name for p in tmp_path.glob("data/*")]
    assert left in ([], [".import-pcam"])


def test_a_file_that_changes_while_it_is_read_is_noticed(h5, tmp_path, monkeypatch):
    usage = shutil.disk_usage

    def changed(path: Path) -> Any:  # asked once all files are read, before the first TIF
        with h5py.File(path_of(h5, "valid", "x"), "r+") as file:
            file["x"][3] = 0
        return usage(path)

    monkeypatch.setattr(shutil, "disk_usage", changed)
    assert_one_line_error(
        run_histo("import-pcam", h5, tmp_path / "data"), "has changed since it was"
    )
    assert [p.name for p in (tmp_path / "data").iterdir() if p.name != ".histo"] == [".import-pcam"]


def test_where_there_is_no_room_nothing_is_begun(h5, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 10_000))
    result = run_histo("import-pcam", h5, tmp_path / "data")
    assert_one_line_error(result, "no room in", "2 MB are needed and 0 MB free", "it continues")
    assert not list((tmp_path / "data" / ".import-pcam" / "train").iterdir())


def test_a_disk_that_fills_up_is_one_line_and_the_import_goes_on(h5, tmp_path):
    """The kernel refuses to let a file grow beyond 100 kB, as a full disk does."""
    data = tmp_path / "data"
    packed = path_of(h5, "train", "x")
    packed.with_name(f"{packed.name}.gz").write_bytes(gzip.compress(packed.read_bytes(), 1))
    packed.unlink()
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2); "
    run = f"{limit} from histo.cli import app; app(['import-pcam', sys.argv[1], sys.argv[2]])"
    done = subprocess.run(
        [sys.executable, "-c", run, h5, data], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be written: File too large (make room and run the same again" in done.stderr
    assert [p.name for p in data.iterdir()] == [".import-pcam"]
    assert run_histo("import-pcam", h5, data).exit_code == 0
    assert len(stored(data)) == 28


def test_two_imports_into_one_folder_do_not_meet(h5, tmp_path):
    work = tmp_path / "data" / ".import-pcam"
    work.mkdir(parents=True)
    with FileLock(work / "lock"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *words, **named: None)
        patch.setattr(Path, "mkdir", lambda *words, **named: None)
        assert_one_line_error(
            run_histo("import-pcam", h5, tmp_path / "data"), "another import into", "is running"
        )


KILL_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
import histo.commands.import_pcam

STEPS = [(Path, "rename"), (Path, "replace"), (Path, "write_bytes"), (Path, "mkdir"),
         (os, "fsync"), (os, "unlink"), (os, "rmdir"), (os, "sync")]

def finish(data, kill_at):
    child = os.fork()  # a process of its own, without the seconds that imports take
    if child:
        return os.waitpid(child, 0)[1]
    at = 0
    def counted(do):
        def wrapped(*words, **named):
            nonlocal at
            at += 1
            if at == kill_at:
                if do is write_bytes:
                    words[0].open("wb").write(words[1][:9999])
                os.kill(os.getpid(), signal.SIGKILL)
            return do(*words, **named)
        return wrapped
    for of, name in STEPS:
        setattr(of, name, counted(getattr(of, name)))
    try:
        histo.import_pcam(sys.argv[1], data)
    finally:
        os._exit(0 if (data / "import.json").exists() else 9)

os.fsync = lambda handle: None  # a killed process loses nothing that it has written
write_bytes = Path.write_bytes
os.sync, kill_at = lambda: None, 0
while True:
    kill_at += 1
    data = Path(sys.argv[2], str(kill_at))
    if finish(data, kill_at) != signal.SIGKILL:
        break
    if finish(data, 0):
        sys.exit(f"after a kill at step {kill_at} it does not go on")
"""


@pytest.mark.long
def test_killed_at_any_step_it_goes_on_to_the_same_end(tmp_path):
    """Each writing, flushing, renaming and removing in turn is where the process is killed."""
    for n, (split, count) in enumerate((("train", 5), ("valid", 2), ("test", 2))):
        write_pcam(tmp_path / "h5", split, draw(count, n))
    packed = path_of(tmp_path / "h5", "train", "x")
    packed.with_name(f"{packed.name}.gz").write_bytes(gzip.compress(packed.read_bytes(), 1))
    packed.unlink()
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", KILL_AT_EVERY_STEP, tmp_path / "h5", out],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folders = sorted(out.iterdir(), key=lambda p: int(p.name))
    unbroken = folders.pop()
    assert len(folders) > 30
    wanted, pixels = content(unbroken), stored(unbroken)
    for folder in folders:
        assert content(folder) == wanted
        assert np.array_equal(stored(folder), pixels)
        assert len(list((folder / ".histo").iterdir())) == 2


@pytest.mark.slow
def test_killed_while_it_writes_patches_it_does_not_write_them_again(tmp_path):
    write_pcam(tmp_path / "h5", "train", draw(2000, 0))
    data = tmp_path / "data"
    work = data / ".import-pcam" / "train"
    words = [sys.executable, "-m", "histo", "import-pcam", str(tmp_path / "h5"), str(data)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while not (work.is_dir() and len(list_patches(work)) > 100) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert [p.name for p in data.iterdir() if p.name != ".histo"] == [".import-pcam"]
    written = sorted(work.iterdir(), key=lambda p: p.stat().st_mtime_ns)[:-1]
    times = {p.name: p.stat().st_mtime_ns for p in written}
    assert 100 <= len(times) < 2000
    assert run_histo("import-pcam", tmp_path / "h5", data).exit_code == 0
    again = [n for n, at in times.items() if (data / "train" / n).stat().st_mtime_ns != at]
    assert len(again) <= 1  # what it had in hand when it was killed
    assert np.array_equal(stored(data), draw(2000, 0))


def test_hashes_and_unpacked_files_of_a_killed_import_are_gone_on_with(h5, tmp_path):
    """A hash cut short is made again, those before it are not; a file unpacked in part is removed."""
    x, kept = path_of(h5, "train", "x"), tmp_path / "train.sha1"
    wanted = [pixel_sha1(pixels).encode() for pixels in draw(20, 0)]
    kept.write_bytes(b"0" * 40 + wanted[1] + wanted[2][:13])
    assert hash_patches(x, kept, QUIET).tolist() == [b"0" * 40, *wanted[1:]]
    packed = tmp_path / f"{x.name}.gz"
    packed.write_bytes(gzip.compress(x.read_bytes(), 1))
    part = tmp_path / f".{x.name}.abcd"
    part.write_bytes(b"in part")
    assert unpack(packed, tmp_path, QUIET, x.stat().st_size).read_bytes() == x.read_bytes()
    assert not part.exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """Three times the patches, 66 MB more, take some MB more of memory at their peak."""
    peak = "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    run = (
        "import os, sys; os.sync = lambda: None; from histo.cli import app; "
        "app(sys.argv[1:], standalone_mode=False)"
    )
    peaks = []
    for count in (1200, 3600):
        write_pcam(tmp_path / f"h5-{count}", "train", draw(count, 0))
        words = ["import-pcam", tmp_path / f"h5-{count}", tmp_path / f"data-{count}"]
        done = subprocess.run(
            [sys.executable, "-c", f"{run}\n{peak}", *words],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 20
    assert peaks[1] < 500
