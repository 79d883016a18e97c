"""A folder of maps that a stranger sent, given to the commands that read or go on with one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histo.errors import HistoError
from histo.slides.maps_folder import MapsFolder
from histo.slides.truth import tile_scores
from tests.conftest import assert_one_line_error, run_histo, write_image
from tests.slides.made import tissue_slide, write_slide

BUNDLE = Path(__file__).parents[1] / "golden" / "bundle-2"
ROW = {
    "key": "k", "slide": "a", "file": "a.tif", "mpp": 0.5, "tiles": 3, "tissue_mm2": 1.0,
    "classes": {"1": {"mm2": 1.0, "share": 0.5, "maximum": 1.0, "score": 1.0, "regions": 1}},
    "drift": None, "seconds": 1.0, "warnings": [], "error": "",
}  # fmt: skip


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """A folder with the map of one slide, and the private files of somebody else beside it."""
    folder = tmp_path / "maps"
    write_maps(folder, ["a"])
    write_own(folder / "a", ROW)
    write_own(tmp_path / "private", ROW)
    return folder


def write_maps(folder: Path, slides: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    facts = {"format": 1, "settings": {"mpp": 0.5}, "classes": ["1"], "slides": slides}
    (folder / "maps.json").write_text(json.dumps(facts))


def write_own(folder: Path, row: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "slide.json").write_text(json.dumps(row))
    write_image(folder / "overlay.png", np.zeros((9, 9, 3), np.uint8))


def test_a_whole_one_is_merged(maps):
    assert run_histo("merge", maps).exit_code == 0
    assert (maps / "slides.csv").read_text().splitlines()[1].startswith("a,a.tif,0.5,3,1.0000,")


@pytest.mark.parametrize("name", ["..", "../private", "/etc", "a/../../private", ".hidden", ""])
def test_a_slide_whose_name_leads_out_of_the_folder_is_refused(maps, name):
    write_maps(maps, ["a", name])
    assert_one_line_error(run_histo("merge", maps), "is not a folder of maps")


@pytest.mark.parametrize("name", ["a", "a/overlay.png", "a/slide.json", ".b.unfinished"])
def test_a_link_out_of_the_folder_is_refused(maps, tmp_path, name):
    """A picture would be shown in index.html; a folder would be written into."""
    for path in (maps / "a").iterdir() if name.startswith("a") else ():
        if path.name in name or name == "a":
            path.unlink()
    if name == "a":
        (maps / "a").rmdir()
    (maps / name).symlink_to(tmp_path / "private" / name.partition("/")[2])
    assert_one_line_error(run_histo("merge", maps), "is a link to a file outside the maps")
    assert not (maps / "index.html").exists()


def test_a_map_is_not_made_through_a_link(maps, tmp_path):
    """Neither its folder while it is made, nor the rows so far."""
    slide = write_slide(tmp_path / "b.tif", tissue_slide(600, 600), 0.5)
    (maps / ".b.unfinished").symlink_to(tmp_path / "private")
    before = sorted(path.name for path in (tmp_path / "private").iterdir())
    words = ("map", BUNDLE, slide, "--mpp", 0.5, "--out", maps, "--device", "cpu")
    assert_one_line_error(run_histo(*words), "is a link to a file outside the maps")
    assert sorted(path.name for path in (tmp_path / "private").iterdir()) == before


@pytest.mark.parametrize("kind", ["pipe", "vast", "text"])
def test_a_picture_that_is_none_is_one_line(maps, kind):
    picture = maps / "a" / "overlay.png"
    data = picture.read_bytes()
    picture.unlink()
    if kind == "pipe":
        os.mkfifo(picture)
    else:
        vast = data[:16] + (60_000).to_bytes(4, "big") * 2 + data[24:]
        picture.write_bytes(vast if kind == "vast" else b"text")
    assert_one_line_error(run_histo("merge", maps), "overlay.png")


VALUES = ["x", [1], {}, True, 1e999, 10**400]


@pytest.mark.parametrize("name", ["tiles", "mpp", "tissue_mm2", "classes", "drift", "mm2", "score"])
def test_any_value_in_the_json_of_a_map_is_a_result_or_one_line(maps, name):
    for value in VALUES:
        row = json.loads(json.dumps(ROW))
        (row if name in row else row["classes"]["1"])[name] = value
        (maps / "a" / "slide.json").write_text(json.dumps(row))
        result = run_histo("merge", maps)
        if result.exit_code:
            assert_one_line_error(result, "slide.json is damaged")


@pytest.mark.slow
def test_processes_that_open_one_folder_together_lose_no_slide(tmp_path):
    """Each removes the lock that it held, while others wait for it."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from histo.slides.maps_folder import MapsFolder\n"
        "time.sleep(max(0, float(sys.argv[2]) - time.time()))\n"
        "for n in range(40):\n"
        "    MapsFolder.open(Path(sys.argv[1]) / str(n), {}, ['1'], [sys.argv[3]])"
    )
    start, count = str(time.time() + 3), 4
    words = [sys.executable, "-c", code, str(tmp_path), start]
    every = [subprocess.Popen([*words, f"s{n}"]) for n in range(count)]
    assert [each.wait() for each in every] == [0] * count
    for n in range(40):
        assert len(MapsFolder.read(tmp_path / str(n)).slides) == count
        assert not (tmp_path / str(n) / ".maps.lock").exists()


@pytest.mark.parametrize("data", [b"", b"x,y\n1,2\n", b"x,y,width,p_1\n1,2\n", b"\xff\n", b'"\0'])
def test_a_damaged_table_of_tiles_is_one_line(tmp_path, data):
    (tmp_path / "tiles.csv").write_bytes(data)
    with pytest.raises(HistoError, match=r"tiles\.csv is damaged"):
        tile_scores(tmp_path / "tiles.csv", "1")
