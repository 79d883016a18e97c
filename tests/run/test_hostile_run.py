"""A run folder that a stranger sent, given to the commands that read one."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from histo.errors import HistoError
from histo.run.folder import RunFolder
from histo.run.gradcam import GRADCAM, read_gradcam
from histo.run.split import Split
from tests.conftest import Memory, assert_one_line_error, run_histo, write_image
from tests.report.tables import write_run

COMMANDS = [["interpret"], ["review"], ["export"], ["compare", "B"]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", Split("random"))


def within_seconds(*words: object) -> object:
    """The result of a command line, which must not hang."""
    done: list[object] = []
    thread = threading.Thread(target=lambda: done.append(run_histo(*words)), daemon=True)
    thread.start()
    thread.join(60)
    assert done, "it hangs"
    return done[0]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize("kind", ["pipe", "zero", "link"])
@pytest.mark.parametrize(
    "name",
    ["config.json", "environment.json", "split.csv", "predictions.csv", "gradcam.npz",
     "learning_curve.svg", "checkpoint/best.safetensors", "fold-1/gradcam.npz"],
)  # fmt: skip
def test_no_pipe_device_or_link_out_of_a_run_is_read(run, tmp_path, words, kind, name):
    (tmp_path / "private").write_text("a private file")
    path = run / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "zero" else tmp_path / "private")
    result = within_seconds(words[0], run, *([run] if len(words) > 1 else []))
    assert_one_line_error(result)
    assert "private file" not in "".join(p.read_text(errors="replace") for p in run.rglob("*.html"))


@pytest.mark.slow
def test_a_linked_folder_is_not_followed_out_of_a_run(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (run / "fold-1").symlink_to(tmp_path / "elsewhere")
    assert_one_line_error(run_histo("interpret", run), "is a link to a file outside the run")
    (run / "fold-1").unlink()
    (run / "same.csv").symlink_to(run / "split.csv")
    assert run_histo("interpret", run).exit_code == 0


def test_pictures_are_shown_of_the_patches_of_the_run_alone(tmp_path):
    """A stranger's config.json may name any folder of yours as that of its images."""
    images = tmp_path / "images"
    images.mkdir()
    for n in range(200):
        write_image(images / f"{n}.png", np.full((8, 8, 3), n, np.uint8))
    run = write_run(tmp_path / "run", Split("random"), images=str(images))
    page = run / "review" / "review.html"
    run_histo("review", run)
    before = page.read_text().count("data:image/jpeg")
    assert before
    for n in range(200):
        write_image(images / f"{n}.png", np.full((8, 8, 3), 255 - n, np.uint8))
    assert "is not the patch that" in run_histo("review", run).stdout
    assert "data:image/jpeg" not in page.read_text()
    run_histo("review", run, "--images", images)
    assert page.read_text().count("data:image/jpeg") == before


VALUES = [None, True, -1, 5, 1e308, "", "x", [], [1], {}, {"a": 1}, "9" * 5000]


@pytest.mark.slow
@pytest.mark.parametrize("file", ["config.json", "environment.json"])
def test_any_value_in_the_json_of_a_run_is_a_result_or_one_line(run, file):
    """Values of another type at any place, by chance."""
    sound = json.loads((run / file).read_text())
    rng = random.Random(0)
    for _ in range(12):
        facts = json.loads(json.dumps(sound))
        holder, key = facts, rng.choice(sorted(facts))
        while isinstance(holder[key], dict) and holder[key] and rng.random() < 0.8:
            holder, key = holder[key], rng.choice(sorted(holder[key]))
        holder[key] = rng.choice(VALUES)
        (run / file).write_text(json.dumps(facts))
        for words in (["interpret", run, "--out", run.parent / "out"], ["compare", run, run]):
            result = run_histo(*words)
            if result.exit_code:
                assert_one_line_error(result)


@pytest.mark.slow
def test_maps_that_unpack_to_gigabytes_are_refused(run):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members:
        for name in ("ids", "called", "drawn", "maps", "side"):
            with members.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (300_000_000,)}
                np.lib.format.write_array_header_1_0(member, header)
                for _ in range(300):
                    member.write(bytes(1_000_000))
    (run / GRADCAM).write_bytes(file.getvalue())
    memory = Memory()
    with pytest.raises(HistoError, match=r"gradcam.npz is damaged"):
        read_gradcam(run)
    assert memory.taken < 50 << 20


def test_weights_of_another_shape_are_refused_before_they_are_read(tiny_run, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(tiny_run, run)
    best = run / "checkpoint" / "best.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    with best.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(20 << 30)  # sparse
    memory = Memory()
    assert_one_line_error(run_histo("export", run), "best.safetensors")
    assert memory.taken < 500 << 20
    assert RunFolder(run).path.is_dir()
