"""predict and evaluate in shards: parts that outlive a kill, and merge to what one process writes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

import histo
from histo.distributed import ranks
from histo.errors import HistoError
from histo.shards.shard import Shard, whole_path
from tests.conftest import assert_one_line_error, run_histo

BATCH = ("--device", "cpu", "--batch-size", 7)
"""160 patches are 22 batches of 7 and one of 6."""


@pytest.fixture(scope="module")
def bundle(tiny_run: Path) -> Path:
    return tiny_run / "export"


@pytest.fixture(scope="module")
def whole(bundle: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The table of the 160 patches as one process writes it."""
    out = tmp_path_factory.mktemp("whole") / "p.csv"
    assert run_histo("predict", bundle, dataset / "train", "--out", out, *BATCH).exit_code == 0
    return out.read_bytes()


@pytest.fixture
def patches(dataset: Path, tmp_path: Path) -> Path:
    """The 160 patches, to be tampered with."""
    return Path(shutil.copytree(dataset / "train", tmp_path / "patches"))


@pytest.fixture(scope="module")
def parts(bundle: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the parts of `whole`, three of them, and a part with other settings."""
    folder = tmp_path_factory.mktemp("parts")
    words = ("predict", bundle, dataset / "train", *BATCH, "--out")
    for number in (1, 2, 3):
        assert run_histo(*words, folder / "p.csv", "--shard", f"{number}/3").exit_code == 0
    (folder / "other").mkdir()
    run_histo(*words, folder / "other" / "p.csv", "--shard", "2/3", "--tta")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage(path: Path) -> bytes:
    """Make a patch unreadable; returns what it was."""
    data = path.read_bytes()
    path.write_bytes(b"no image")
    return data


@given(st.integers(0, 3000), st.integers(1, 300), st.integers(1, 40))
def test_shards_cover_all_patches_once_and_divide_no_batch(count, batch_size, of):
    blocks = [Shard(n + 1, of).block(count, batch_size) for n in range(of)]
    assert [i for b in blocks for i in range(count)[b]] == list(range(count))
    assert all(block.start % batch_size == 0 for block in blocks if block.start < count)
    sizes = [-(-(block.stop - block.start) // batch_size) for block in blocks]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "2", "a/b", "-1/4", "1/4/2", "1.5/4"])
def test_a_shard_that_is_none_is_a_wrong_option(text, bundle, dataset):
    result = run_histo("predict", bundle, dataset / "test", "--shard", text)
    assert result.exit_code == 2
    assert "I/N" in result.stderr or "count from 1" in result.stderr


def test_a_parts_name_says_of_what():
    assert Shard(2, 4).path(Path("a/b.v1.csv")) == Path("a/b.v1.2-of-4.csv")
    assert whole_path(Path("a/b.v1.2-of-4.csv")) == Path("a/b.v1.csv")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a pipe makes the process wait")
def test_four_shards_one_killed_and_repeated_make_the_table_of_one_process(
    bundle, dataset, patches, whole, tmp_path
):
    """What is repeated takes up the killed one's rows: it reads none of their patches but the last."""
    out, files = tmp_path / "p.csv", sorted(patches.iterdir())
    pipe = files[70]  # of its 35th to 76th patch, counted from 0
    data = pipe.read_bytes()
    pipe.unlink()
    os.mkfifo(pipe)  # who reads it waits
    words = ("predict", bundle, patches, "--out", out, *BATCH, "--shard", "2/4")
    command = [sys.executable, "-m", "histo", *map(str, words)]
    state = tmp_path / "p.2-of-4.csv.json"
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 60
        while not state.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    rows = json.loads(state.read_text())["rows"]
    assert 7 <= rows <= 35
    assert not (tmp_path / "p.2-of-4.csv").exists()
    assert_one_line_error(
        run_histo("merge", tmp_path / "p.2-of-4.csv.part"), f"not finished: {rows} of 42 patches"
    )

    pipe.unlink()
    pipe.write_bytes(data)
    with (tmp_path / "p.2-of-4.csv.part").open("ab") as file:
        file.write(b"torn,0,0.1\n" * 1000)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{rows} of 42 patches" in done.stdout
    for number in (1, 3, 4):
        words = ("predict", bundle, dataset / "train", "--out", out, *BATCH)
        assert run_histo(*words, "--shard", f"{number}/4").exit_code == 0
    result = run_histo("merge", *[tmp_path / f"p.{number}-of-4.csv" for number in (3, 1, 4, 2)])
    assert result.exit_code == 0, result.output
    assert f"predictions: {out} (160 patches)" in result.stdout
    assert out.read_bytes() == whole
    assert not [name for name in names(tmp_path) if name.endswith((".part", ".lock"))]


def test_predict_of_all_patches_goes_on_too(bundle, patches, whole, tmp_path):
    """Stopped by an unreadable patch, say; and nothing but the table is left."""
    files, out = sorted(patches.iterdir()), tmp_path / "p.csv"
    words = ("predict", bundle, patches, "--out", out, *BATCH)
    data = damage(files[100])
    assert_one_line_error(run_histo(*words), files[100].name)
    assert names(tmp_path) == ["p.csv.json", "p.csv.part", "patches"]
    files[100].write_bytes(data)
    result = run_histo(*words)
    assert "91 of 160 patches" in result.stdout
    assert out.read_bytes() == whole
    assert names(tmp_path) == ["p.csv", "patches"]


def stop_midway(bundle: Path, patches: Path, out: Path) -> tuple:
    """Leave a table of 91 rows; returns the command line that did."""
    path = sorted(patches.iterdir())[100]
    words = ("predict", bundle, patches, "--out", out, *BATCH)
    data = damage(path)
    assert run_histo(*words).exit_code == 1
    path.write_bytes(data)
    return words


def swap_two_patches(patches: Path, out: Path) -> None:
    files = sorted(patches.iterdir())
    files[90].write_bytes(files[0].read_bytes())


def rename_two_patches(patches: Path, out: Path) -> None:
    """To each other's names, neither the last that was predicted: sizes and mtimes stay as they were."""
    first, second, aside = *sorted(patches.iterdir())[:2], patches.parent / "aside"
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def change_a_digit(patches: Path, out: Path) -> None:
    part = out.with_name("p.csv.part")
    data = part.read_bytes()
    part.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])


def cut_the_rows(patches: Path, out: Path) -> None:
    part = out.with_name("p.csv.part")
    part.write_bytes(part.read_bytes()[:500])


def break_the_json(patches: Path, out: Path) -> None:
    out.with_name("p.csv.json").write_text("{")


def remove_a_patch(patches: Path, out: Path) -> None:
    sorted(patches.iterdir())[159].unlink()


@pytest.mark.parametrize(
    "change",
    [
        *(swap_two_patches, rename_two_patches, change_a_digit),
        *(cut_the_rows, break_the_json, remove_a_patch),
    ],
)
def test_rows_that_cannot_be_believed_are_made_anew(bundle, patches, tmp_path, change):
    """Other patches under the old names, a changed byte, lost bytes, another list of patches."""
    out = tmp_path / "p.csv"
    words = stop_midway(bundle, patches, out)
    change(patches, out)
    result = run_histo(*words)
    assert result.exit_code == 0, result.output
    assert (
        "belongs to another prediction, or to files that have changed: starting over"
        in result.stdout
    )
    fresh = tmp_path / "fresh.csv"
    assert run_histo("predict", bundle, patches, "--out", fresh, *BATCH).exit_code == 0
    assert out.read_bytes() == fresh.read_bytes()


def test_other_settings_start_anew(bundle, patches, tmp_path):
    words = stop_midway(bundle, patches, tmp_path / "p.csv")
    result = run_histo(*words, "--raw")
    assert result.exit_code == 0
    assert (
        "belongs to another prediction, or to files that have changed: starting over"
        in result.stdout
    )


def test_a_part_that_is_there_is_not_made_twice(bundle, patches, parts, tmp_path):
    part = Path(shutil.copy(parts / "p.2-of-3.csv", tmp_path))
    shutil.copy(parts / "p.2-of-3.csv.json", tmp_path)
    before = part.stat().st_mtime_ns
    damage(sorted(patches.iterdir())[50])
    words = ("predict", bundle, patches, "--out", tmp_path / "p.csv", *BATCH, "--shard", "2/3")
    result = run_histo(*words)
    assert result.exit_code == 0, result.output
    assert "56 of 56 patches" in result.stdout
    assert part.stat().st_mtime_ns == before


def test_one_process_at_a_time_writes_a_part(bundle, patches, tmp_path):
    out = tmp_path / "p.csv"
    with FileLock(tmp_path / "p.1-of-2.csv.lock"):
        words = ("predict", bundle, patches, "--out", out, *BATCH, "--shard")
        assert_one_line_error(run_histo(*words, "1/2"), "another process is writing", "p.1-of-2")
        assert run_histo(*words, "2/2").exit_code == 0


def test_more_shards_than_batches_leave_some_empty(bundle, dataset, tmp_path):
    out = tmp_path / "p.csv"
    words = ("predict", bundle, dataset / "test", "--device", "cpu", "--out")
    for number in (1, 2, 3):
        result = run_histo(*words, out, "--shard", f"{number}/3")
        assert result.exit_code == 0, result.output
    assert run_histo("merge", tmp_path).exit_code == 0
    assert run_histo(*words, tmp_path / "one.csv").exit_code == 0
    assert out.read_bytes() == (tmp_path / "one.csv").read_bytes()


def test_one_shard_of_one_is_a_part_too(bundle, dataset, whole, tmp_path):
    out = tmp_path / "p.csv"
    words = ("predict", bundle, dataset / "train", "--out", out, *BATCH, "--shard", "1/1")
    assert "p.1-of-1.csv" in run_histo(*words).stdout
    assert run_histo("merge", tmp_path / "p.1-of-1.csv").exit_code == 0
    assert out.read_bytes() == whole


def test_merge_takes_a_folder_and_writes_kaggles_submission(
    bundle, dataset, parts, whole, tmp_path
):
    words = ("--out", tmp_path / "m.csv", "--submission", tmp_path / "s.csv")
    assert run_histo("merge", parts, *words).exit_code == 0
    assert (tmp_path / "m.csv").read_bytes() == whole
    sent = (tmp_path / "s.csv").read_text().splitlines()
    rows = [line.split(",") for line in whole.decode().splitlines()]
    assert sent == ["id,label", *(f"{row[0]},{row[3]}" for row in rows[1:])]


def test_a_part_that_is_missing_twice_or_of_another_table_is_named(parts, tmp_path):
    one, two, three = (parts / f"p.{n}-of-3.csv" for n in (1, 2, 3))
    out = ("--out", tmp_path / "m.csv")

    def refused(*words: object) -> None:
        *given, said = words
        assert_one_line_error(run_histo("merge", *given, *out), *said)  # type: ignore[misc]

    refused(one, three, ["part 2/3 was not given", "p.2-of-3.csv"])
    refused(one, two, three, parts / "other" / "p.2-of-3.csv", ["tta is True and False"])
    moved = Path(shutil.copytree(parts, tmp_path / "moved"))
    refused(one, two, three, moved / "p.2-of-3.csv", ["p.2-of-3.csv are both part 2/3"])
    for path in moved.glob("p.2-of-3*"):
        path.unlink()
    refused(moved, ["part 2/3 is missing", "p.2-of-3.csv", "share 2/3"])
    refused(one, tmp_path / "none.csv", ["no file", "none.csv"])
    (tmp_path / "none.csv").write_text("id,predicted\n")
    refused(one, tmp_path / "none.csv", ["none.csv is no part"])
    refused(tmp_path, ["holds no parts"])
    assert not (tmp_path / "m.csv").exists()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("bundle", "0" * 64, "bundle is 0000"),
        ("names", "0" * 64, "names is 0000"),
        ("batch_size", 8, "are not of one table"),
        ("histo", "9.9", "histo is 9.9"),
        ("rows", 55, "not finished: 55 of 56"),
        ("rows", 57, "does not describe a part"),
        ("rows", "56", "does not describe a part"),
        ("shard", 4, "does not describe a part"),
        ("batch_size", 0, "does not describe a part"),
        ("format", 2, "does not describe a part"),
        *[
            (name, 5, "does not describe a part")
            for name in ("columns", "command", "tta", "settings")
        ],
        *[(name, None, "does not describe a part") for name in ("size", "sha256", "of", "bundle")],
        ("columns", ["id", "predicted", 7, []], "does not describe a part"),
        ("size", 1e300, "does not describe a part"),
        ("rows", True, "does not describe a part"),
        ("settings", [["positive"]], "does not describe a part"),
    ],
)
def test_a_part_that_says_something_else_is_refused(parts, tmp_path, name, value, said):
    folder = Path(shutil.copytree(parts, tmp_path / "parts"))
    path = folder / "p.2-of-3.csv.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    out = tmp_path / "m.csv"
    assert_one_line_error(run_histo("merge", folder, "--out", out), said)
    assert not out.exists()


@pytest.mark.parametrize("name", ["p.2-of-3.csv", "p.2-of-3.csv.json"])
def test_no_file_of_a_part_is_written_over(parts, tmp_path, name):
    """Not on --force either."""
    folder = Path(shutil.copytree(parts, tmp_path / "parts"))
    before = (folder / name).read_bytes()
    result = run_histo("merge", folder, "--out", folder / name, "--force")
    assert_one_line_error(result, "is an input", "--out")
    assert (folder / name).read_bytes() == before


def test_a_part_with_a_changed_byte_is_refused(parts, tmp_path):
    folder = Path(shutil.copytree(parts, tmp_path / "parts"))
    path = folder / "p.3-of-3.csv"
    data = path.read_bytes()
    path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    result = run_histo("merge", folder, "--out", tmp_path / "m.csv")
    assert_one_line_error(result, "p.3-of-3.csv is not as it was written")
    assert names(tmp_path) == ["parts"]


@pytest.mark.slow
def test_evaluate_in_shards_gives_the_run_of_one_process(bundle, dataset, tmp_path):
    """The same settings, split, predictions and leak; labels and groups go with the parts."""
    groups = tmp_path / "slides.csv"
    rows = (dataset / "train_labels.csv").read_text().splitlines()[1:]
    lines = [f"{row.split(',')[0]},s{n % 9}" for n, row in enumerate(rows)]
    groups.write_text("\n".join(["id,slide", *lines]) + "\n")
    for number in (1, 2, 3):
        words = (
            "evaluate",
            bundle,
            dataset,
            "--groups",
            groups,
            *BATCH,
            "--out",
            tmp_path / "many",
        )
        result = run_histo(*words, "--shard", f"{number}/3")
        assert result.exit_code == 0, result.output
    assert not (tmp_path / "many").exists()
    result = run_histo("merge", tmp_path)
    assert result.exit_code == 0, result.output
    assert "160 of 160 patches are among those" in result.stdout
    assert (tmp_path / "many" / "report" / "report.html").is_file()
    settings = {"groups": str(groups), "device": "cpu", "batch_size": 7}
    histo.evaluate(bundle, dataset, out=tmp_path / "one", **settings)
    for name in ("config.json", "split.csv", "predictions.csv"):
        one, many = (tmp_path / run / name for run in ("one", "many"))
        assert one.read_bytes() == many.read_bytes()
    assert not list(tmp_path.glob("one.*"))
    assert_one_line_error(run_histo("merge", tmp_path), "many exists")
    assert_one_line_error(run_histo(*words, "--shard", "1/3"), "many exists")


def test_evaluate_goes_on_where_it_stopped(bundle, dataset, tmp_path, monkeypatch, capsys):
    """Without a name for its run, too."""
    monkeypatch.chdir(tmp_path)
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    row = (data / "train_labels.csv").read_text().splitlines()[1 + 100]
    path = data / "train" / f"{row.split(',')[0]}.tif"
    image = damage(path)
    settings = {"device": "cpu", "batch_size": 7}
    with pytest.raises(HistoError, match=path.name):
        histo.evaluate(bundle, data, **settings)
    path.write_bytes(image)
    run = histo.evaluate(bundle, data, progress=True, **settings)
    assert "98 of 160 patches" in capsys.readouterr().out
    assert len(run.predictions) == 160
    assert names(tmp_path / "runs") == ["evaluate-1"]


def launched(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, str(rank))
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, str(world))


@pytest.mark.slow
def test_a_launchers_processes_take_a_share_each_and_the_first_joins_them(
    bundle, patches, whole, tmp_path, monkeypatch
):
    """One that fails leaves nothing under the name; launched again, all go on from their parts.

    The processes are started as torchrun starts them, by its variables.
    """
    out, bad = tmp_path / "p.csv", sorted(patches.iterdir())[150]
    words = ("predict", bundle, patches, "--out", out, *BATCH)
    image = damage(bad)
    with monkeypatch.context() as context:
        launched(context, 1, 2)
        assert_one_line_error(run_histo(*words), bad.name)
        assert run_histo(*words, "--shard", "1/2").exit_code == 2  # who divides the work, then?
    assert not out.exists()
    rows = json.loads((tmp_path / "p.2-of-2.csv.json").read_text())["rows"]
    assert 0 < rows < 83
    bad.write_bytes(image)
    with socket.create_server(("127.0.0.1", 0)) as free:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    command = [sys.executable, "-m", "histo", *map(str, words)]
    processes = []
    for rank in ("0", "1"):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        environment = {**os.environ, **meeting, **place}
        processes.append(
            subprocess.Popen(
                command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    # torch 2.10 says on stdout that Gloo is connected
    ours = [[x for x in lines.splitlines() if not x.startswith("[Gloo]")] for lines, _ in said]
    last = [lines[-1:] for lines in ours]
    assert last == [[f"predictions: {out} (160 patches)"], []]
    assert out.read_bytes() == whole
    assert names(tmp_path) == ["p.csv", "patches"]


def test_each_process_of_a_launch_has_its_share_of_the_cores(monkeypatch):
    alone = ranks.cores()
    assert (ranks.rank(), ranks.world_size(), ranks.local_rank()) == (0, 1, 0)
    launched(monkeypatch, 1, 2)
    assert (ranks.rank(), ranks.world_size(), ranks.local_rank()) == (1, 2, 1)
    assert ranks.cores() == max(1, alone // 2)
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setenv("RANK", "3")  # some systems set it without a launch
    assert ranks.rank() == 0
