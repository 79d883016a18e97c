"""histo map: a bundle laid over whole slides."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from tests.conftest import assert_one_line_error, rows_of, run_histo, write_image
from tests.slides.made import tissue_slide, write_slide

BUNDLE = Path(__file__).parents[1] / "golden" / "bundle-2"
"""Patches of 48 px, classes normal and tumour, threshold 0.4."""
MPP = 0.5
SIDE = 48


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """24 patches with something on them, by name."""
    folder = tmp_path_factory.mktemp("patches")
    rng = np.random.default_rng(0)
    found = {}
    for number in range(24):
        base = rng.integers(90, 220, 3)
        noise = rng.normal(0, 60, (12, 12, 3))
        patch = cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC) + base
        found[f"{number:02d}"] = patch.clip(0, 200).astype(np.uint8)
        write_image(folder / f"{number:02d}.png", found[f"{number:02d}"])
    return folder, found


def mosaic(found, scale: int = 1) -> np.ndarray:
    """Six columns of four patches with a margin of two tiles of glass."""
    pixels = np.full((8 * SIDE, 10 * SIDE, 3), 243, np.uint8)
    for number, patch in enumerate(found.values()):
        y, x = (2 + number // 6) * SIDE, (2 + number % 6) * SIDE
        pixels[y : y + SIDE, x : x + SIDE] = patch
    return np.repeat(np.repeat(pixels, scale, 0), scale, 1)


@pytest.fixture(scope="module")
def slides(patches, tmp_path_factory):
    """The same mosaic at the model's resolution and at twice that."""
    folder = tmp_path_factory.mktemp("slides")
    for scale in (1, 2):
        write_slide(folder / f"scale{scale}.tif", mosaic(patches[1], scale), MPP / scale)
    return folder


@pytest.fixture(scope="module")
def maps(slides, tmp_path_factory):
    """Both slides mapped."""
    out = tmp_path_factory.mktemp("maps") / "maps"
    done = run_histo("map", BUNDLE, slides, "--out", out, "--mpp", MPP, "--hdf5")
    assert done.exit_code == 0, done.output
    return out


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but those that hold the seconds it took."""
    paths = [p for p in folder.rglob("*") if p.is_file()]
    kept = [p for p in paths if p.name not in ("slide.json", "slides.csv")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


def plain_rows(maps: Path) -> list[dict[str, str]]:
    """slides.csv without the seconds."""
    return [{k: v for k, v in r.items() if k != "seconds"} for r in rows_of(maps / "slides.csv")]


@pytest.mark.parametrize("scale", [1, 2])
def test_a_tile_has_the_probability_that_predict_gives_its_patch(scale, patches, maps, tmp_path):
    """From a finer slide too; and tiles of bare glass are left out."""
    out = tmp_path / "p.csv"
    assert run_histo("predict", BUNDLE, patches[0], "--out", out).exit_code == 0
    ours = {
        (int(row["x"]), int(row["y"])): float(row["p_tumour"])
        for row in rows_of(maps / f"scale{scale}" / "tiles.csv")
    }
    step = SIDE * scale
    for number, row in enumerate(rows_of(out)):
        corner = ((2 + number % 6) * step, (2 + number // 6) * step)
        assert ours[corner] == pytest.approx(float(row["p_tumour"]), abs=1e-5)
    assert len(ours) < 48  # 24, and some on the border of the tissue mask, of 80
    assert (0, 0) not in ours


def test_the_folder_of_a_slide_is_whole(maps):
    names = {path.name for path in (maps / "scale1").iterdir()}
    expected = "tiles.csv tiles.h5 heatmap.tiff overlay.png map.geojson lesions.csv"
    assert names == {*expected.split(), "slide.html", "slide.json"}
    assert not [p for p in maps.iterdir() if p.name.startswith(".")]
    (one, two) = rows_of(maps / "slides.csv")
    assert (one["slide"], one["error"], float(one["mpp"])) == ("scale1", "", 0.5)
    assert float(two["positive_mm2"]) == pytest.approx(float(one["positive_mm2"]))
    cell = (SIDE * MPP / 1000) ** 2
    tiles = rows_of(maps / "scale1" / "tiles.csv")
    called = [t for t in tiles if float(t["p_tumour"]) >= 0.4]
    assert 0 < len(called) < len(tiles)
    assert float(one["positive_mm2"]) == pytest.approx(len(called) * cell, abs=1e-4)
    assert float(one["positive_share"]) == pytest.approx(len(called) / len(tiles), abs=1e-6)
    highest = sorted((float(t["p_tumour"]) for t in tiles), reverse=True)
    assert float(one["max"]) == pytest.approx(highest[0], abs=1e-6)
    assert float(one["score"]) == pytest.approx(np.mean(highest[:10]), abs=1e-6)


def test_the_pages_need_no_network(maps):
    for page in (maps / "index.html", maps / "scale1" / "slide.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""(src|href)=["'](https?:)?//""", text)
    assert 'href="scale1/slide.html"' in (maps / "index.html").read_text(encoding="utf-8")
    assert text.count("data:image/jpeg") == 1 + 24  # the slide, twelve tiles twice


def test_the_heat_map_opens_at_the_right_size(maps):
    """In OpenSlide and as OME-TIFF: a pixel a tile, its µm per px, its place."""
    path = maps / "scale2" / "heatmap.tiff"
    with openslide.OpenSlide(str(path)) as slide:
        assert slide.dimensions == (10, 8)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(SIDE * MPP)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_ome
        assert len(tiff.series[0].levels) > 1
        image = tiff.asarray()
        ome = tiff.ome_metadata
    assert float(re.search(r'PhysicalSizeX="([\d.]+)"', ome)[1]) == pytest.approx(SIDE * MPP)
    for row in rows_of(maps / "scale2" / "tiles.csv"):
        value = image[int(row["y"]) // (2 * SIDE), int(row["x"]) // (2 * SIDE)]
        assert (value - 1) / 254 == pytest.approx(float(row["p_tumour"]), abs=0.002)


def test_shares_and_merge_make_what_one_process_makes(slides, maps, tmp_path):
    out = tmp_path / "maps"
    words = ["map", BUNDLE, slides, "--out", out, "--mpp", MPP, "--hdf5"]
    assert run_histo(*words, "--shard", "2/2").exit_code == 0
    early = run_histo("merge", out)
    assert_one_line_error(early, "scale1 not mapped yet")
    assert run_histo(*words, "--shard", "1/2").exit_code == 0
    assert run_histo("merge", out).exit_code == 0
    assert contents(out) == contents(maps)
    assert plain_rows(out) == plain_rows(maps)


@pytest.mark.long
def test_a_killed_map_goes_on_to_the_same_bytes(tmp_path):
    """Killed a few times at any moment, the same call ends with what an undisturbed one makes."""
    slide = write_slide(tmp_path / "s.tif", speckled(48 * 64), MPP)
    words = ["map", BUNDLE, slide, "--mpp", MPP, "--stride", 24]
    assert run_histo(*words, "--out", tmp_path / "whole").exit_code == 0
    command = [sys.executable, "-m", "histo", *map(str, words), "--out", str(tmp_path / "killed")]
    kills = 0
    for seconds in (1.2, 1.8, 2.4, 3.0, 3.6):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(seconds)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills
    done = run_histo(*words, "--out", tmp_path / "killed")
    assert done.exit_code == 0, done.output
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def speckled(side: int) -> np.ndarray:
    """Tissue that differs from place to place."""
    noise = np.random.default_rng(0).integers(60, 200, (side // 16, side // 16, 3), dtype=np.uint8)
    return cv2.resize(noise, (side, side), interpolation=cv2.INTER_LINEAR)


def test_a_second_call_has_nothing_to_do(slides, maps):
    before = contents(maps)
    done = run_histo("map", BUNDLE, slides, "--out", maps, "--mpp", MPP, "--hdf5")
    assert "scale1: done already" in done.output
    assert contents(maps) == before


def test_other_settings_are_refused_in_the_same_folder(slides, maps):
    result = run_histo("map", BUNDLE, slides, "--out", maps, "--mpp", 0.6, "--hdf5")
    assert_one_line_error(result, "holds maps with other settings (mpp)", "give another --out")
    words = ["map", BUNDLE, slides, "--out", maps, "--mpp", MPP, "--hdf5", "--tta"]
    assert_one_line_error(run_histo(*words), "holds maps with other settings (views)")


def test_a_slide_that_cannot_be_read_is_listed_and_the_others_go_on(slides, tmp_path):
    folder = tmp_path / "slides"
    shutil.copytree(slides, folder)
    (folder / "broken.svs").write_bytes(b"II*\0 no slide at all")
    (folder / "empty.ndpi").write_bytes(b"")
    write_slide(folder / "unsaid.tif", tissue_slide(500, 500), None)
    result = run_histo("map", BUNDLE, folder, "--out", tmp_path / "maps", "--mpp", MPP)
    assert result.exit_code == 3
    assert "does not say how many µm a px has (give --slide-mpp)" in result.output
    rows = {row["slide"]: row for row in rows_of(tmp_path / "maps" / "slides.csv")}
    assert not rows["scale1"]["error"]
    assert "not a slide" in rows["broken"]["error"]
    assert rows["empty"]["error"]
    assert "µm" in rows["unsaid"]["error"]
    assert not (tmp_path / "maps" / "broken").exists()

    table = tmp_path / "mpp.csv"
    table.write_text("slide,mpp\nunsaid,0.5\n")
    words = [folder / "unsaid.tif", "--out", tmp_path / "more", "--mpp", MPP, "--slide-mpp", table]
    assert run_histo("map", BUNDLE, *words).exit_code == 0


def test_a_slide_that_can_no_longer_be_read_is_listed_though_it_has_a_map(slides, tmp_path):
    """The map is of an earlier file; `merge` too ends with the status of what is left out."""
    folder, out = tmp_path / "slides", tmp_path / "maps"
    folder.mkdir()
    path = next(iter(sorted(slides.iterdir())))
    shutil.copy(path, folder / "one.tif")
    words = ["map", BUNDLE, folder, "--out", out, "--mpp", MPP]
    assert run_histo(*words).exit_code == 0
    (folder / "one.tif").write_bytes(b"II*\0 no slide at all")
    assert run_histo(*words).exit_code == 3
    assert "not a slide" in rows_of(out / "slides.csv")[0]["error"]
    assert run_histo("merge", out).exit_code == 3
    shutil.copy(path, folder / "one.tif")
    assert run_histo(*words).exit_code == 0
    assert not rows_of(out / "slides.csv")[0]["error"]
    assert run_histo("merge", out).exit_code == 0


def test_a_slide_resolution_that_is_neither_number_nor_table_is_told(slides, tmp_path):
    words = [slides, "--out", tmp_path / "maps", "--mpp", MPP, "--slide-mpp", "0,5"]
    assert_one_line_error(
        run_histo("map", BUNDLE, *words), "0,5 is neither a number of µm per px nor a CSV file"
    )


@pytest.mark.parametrize("given", ["0.02", "100", "nan", "mpp.csv"])
def test_a_slide_resolution_that_cannot_be_is_refused(given, slides, tmp_path):
    (tmp_path / "mpp.csv").write_text("slide,mpp\nscale1,0.001\n")
    table = tmp_path / given if given.endswith("csv") else given
    words = [slides, "--out", tmp_path / "maps", "--mpp", MPP, "--slide-mpp", table]
    assert_one_line_error(run_histo("map", BUNDLE, *words), "µm per px")


def test_the_model_resolution_must_be_known(slides, tmp_path):
    result = run_histo("map", BUNDLE, slides, "--out", tmp_path / "maps")
    assert_one_line_error(result, "does not say at how many µm per px", "give --mpp")
    assert not (tmp_path / "maps").exists()


def test_more_tiles_than_fit_are_refused_in_a_line(slides, tmp_path, monkeypatch):
    monkeypatch.setenv("HISTO_MAX_TILES", "50")
    result = run_histo("map", BUNDLE, slides, "--out", tmp_path / "maps", "--mpp", MPP)
    assert result.exit_code == 3
    assert "more than 50 tiles (the variable HISTO_MAX_TILES raises that)" in result.output


def test_predict_and_map_name_each_other(slides, patches, tmp_path):
    wrong = run_histo("predict", BUNDLE, slides / "scale1.tif", "--out", tmp_path / "p.csv")
    assert_one_line_error(wrong, "is a whole slide, not a patch", "histo map")
    wrong = run_histo("map", BUNDLE, patches[0], "--out", tmp_path / "maps", "--mpp", MPP)
    assert_one_line_error(wrong, "is a patch, not a whole slide", "histo predict")


def test_patches_in_tiled_tiffs_are_patches(patches, tmp_path):
    """They are predicted, as those in strips are."""
    for name, pixels in patches[1].items():
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, tile=(64, 64), photometric="rgb")
    done = run_histo("predict", BUNDLE, tmp_path, "--out", tmp_path / "p.csv")
    assert done.exit_code == 0, done.output
    assert len(rows_of(tmp_path / "p.csv")) == len(patches[1])


def test_the_map_without_tissue_found_says_so(tmp_path):
    glass = write_slide(tmp_path / "glass.tif", np.full((590, 590, 3), 243, np.uint8), MPP)
    done = run_histo("map", BUNDLE, glass, "--out", tmp_path / "maps", "--mpp", MPP)
    assert done.exit_code == 0, done.output
    (row,) = rows_of(tmp_path / "maps" / "slides.csv")
    assert (row["tiles"], row["warnings"]) == ("0", "no tissue was found")
    assert "nan" not in done.output
    whole = run_histo("map", BUNDLE, glass, "--out", tmp_path / "all", "--mpp", MPP, "--no-tissue")
    assert whole.exit_code == 0
    assert rows_of(tmp_path / "all" / "slides.csv")[0]["tiles"] == str(12 * 12)


def test_outlines_of_tissue_take_the_place_of_what_is_found(slides, tmp_path):
    """A slide without an outline is listed."""
    (tmp_path / "outlines").mkdir()
    ring = [[96, 96], [192, 96], [192, 192], [96, 192], [96, 96]]
    feature = {"geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    (tmp_path / "outlines" / "scale1.geojson").write_text(json.dumps([feature]))
    out = tmp_path / "maps"
    words = ["--out", out, "--mpp", MPP, "--tissue", tmp_path / "outlines"]
    assert run_histo("map", BUNDLE, slides, *words).exit_code == 3
    corners = {(r["x"], r["y"]) for r in rows_of(out / "scale1" / "tiles.csv")}
    assert corners == {("96", "96"), ("144", "96"), ("96", "144"), ("144", "144")}
    first, second = rows_of(out / "slides.csv")
    assert float(first["tissue_mm2"]) == pytest.approx((96 * MPP / 1000) ** 2, rel=0.05)
    assert "has no scale2.geojson" in second["error"]


def test_tiles_with_measurements_and_regions_are_there_for_qupath(maps):
    found = json.loads((maps / "scale2" / "map.geojson").read_text(encoding="utf-8"))
    kinds = [f["properties"]["objectType"] for f in found["features"]]
    tiles = rows_of(maps / "scale2" / "tiles.csv")
    assert kinds.count("tile") == len(tiles)
    for feature in found["features"]:
        assert len(feature["properties"]["classification"]["color"]) == 3
    regions = [f for f in found["features"] if f["properties"]["objectType"] == "annotation"]
    area = sum(f["properties"]["measurements"]["Area mm^2"] for f in regions)
    assert area == pytest.approx(float(rows_of(maps / "slides.csv")[1]["positive_mm2"]), abs=1e-3)


def test_python_gives_the_table(slides, tmp_path):
    import histo

    table = histo.map(BUNDLE, slides / "scale1.tif", out=tmp_path / "maps", mpp=MPP)
    assert table["slide"].tolist() == ["scale1"]


def test_a_slide_of_a_thousand_million_tiles_is_refused_in_a_line(tmp_path):
    """Without a picture of it being read: its px are said to be 50 µm wide."""
    pixels = np.zeros((2048, 2048, 3), np.uint8)
    path = write_slide(tmp_path / "vast.tif", pixels, None)
    words = ["--out", tmp_path / "maps", "--mpp", "0.05", "--slide-mpp", "50"]
    began = time.monotonic()
    result = run_histo("map", BUNDLE, path, *words, "--stride", 2)
    assert result.exit_code == 3
    assert "tiles (the variable HISTO_MAX_TILES raises that)" in result.output
    assert time.monotonic() - began < 60


@pytest.mark.long
def test_a_slide_of_many_pixels_is_mapped_without_a_word_of_pillow(tmp_path):
    """Pillow warns of images over 89 million px; a slide is larger."""
    path = tmp_path / "wide.tif"
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        glass = np.full((512, 512, 3), 243, np.uint8)
        how = {"tile": (512, 512), "photometric": "rgb", "compression": "zlib", "metadata": None}
        tiff.write((glass for _ in range(400)), shape=(10_240, 10_240, 3), dtype=np.uint8, **how)
    words = ["map", str(BUNDLE), str(path), "--out", str(tmp_path / "maps"), "--mpp", str(MPP)]
    command = [sys.executable, "-m", "histo", *words, "--slide-mpp", str(MPP)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
