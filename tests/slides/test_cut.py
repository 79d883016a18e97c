"""histo cut: annotated slides into patches."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from histo.data.patch_files import list_patches
from histo.errors import HistoError
from histo.slides.asap import read_asap
from histo.slides.qupath import read_geojson
from histo.slides.reader import open_slide
from tests.conftest import TINY, assert_one_line_error, histo_process, rows_of, run_histo
from tests.slides.made import tissue_slide, write_scn, write_slide
from tests.slides.made_dicom import write_dicom

MPP, SIDE = 0.5, 48
TUMOUR = (96, 96, 96 + 5 * SIDE, 96 + 4 * SIDE)
"""x0, y0, x1, y1 of the annotation, on borders of tiles."""


def ring(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def feature(points, name="Tumor"):
    geometry = {"type": "Polygon", "coordinates": [points]}
    kind = {"name": name, "color": [200, 0, 0]}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": kind}}


def asap(points, group="Tumor"):
    places = "".join(
        f'<Coordinate Order="{n}" X="{x}" Y="{y}"/>' for n, (x, y) in enumerate(points)
    )
    return (
        f'<ASAP_Annotations><Annotations><Annotation Name="A" Type="Polygon" PartOfGroup="{group}">'
        f"<Coordinates>{places}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )


@pytest.fixture
def slide(tmp_path):
    """A slide of textured tissue and the folder for its annotations."""
    pixels = tissue_slide(12 * SIDE, 12 * SIDE)
    noise = np.random.default_rng(0).integers(-40, 40, pixels.shape)
    inside = pixels[..., 1] < 200
    pixels[inside] = (pixels + noise).clip(0, 255)[inside].astype(np.uint8)
    (tmp_path / "notes").mkdir()
    write_slide(tmp_path / "s1.tif", pixels, MPP)
    return tmp_path / "s1.tif", pixels


def cut(slide, out, *more):
    notes = slide.parent / "notes"
    words = ("--annotations", notes, "--out", out, "--mpp", MPP, "--size", SIDE)
    return run_histo("cut", slide, *words, *more)


def run_cut(slides, folder, out, *more):
    words = ("--annotations", folder / "notes", "--out", out, "--mpp", MPP, "--size", SIDE)
    return run_histo("cut", *slides, *words, *more)


def labels(out):
    return {row["id"]: row["label"] for row in rows_of(out / "train_labels.csv")}


def test_geojson_xml_and_mask_give_the_same_labels(slide, tmp_path):
    """And a bare list, a collection and .gz of GeoJSON; the patches are the slide's own pixels."""
    path, pixels = slide
    notes = tmp_path / "notes"
    drawn = feature(ring(*TUMOUR))
    x0, y0, x1, y1 = TUMOUR
    mask = np.zeros(pixels.shape[:2], np.uint8)
    mask[y0:y1, x0:x1] = 1
    packed = gzip.compress(json.dumps({"type": "FeatureCollection", "features": [drawn]}).encode())
    files = {
        "s1.geojson": (json.dumps([drawn]).encode(), "Tumor=tumor"),
        "s1.geojson.gz": (packed, "Tumor=tumor"),
        "s1.xml": (asap(ring(*TUMOUR)).encode(), "tumor=tumor"),
        "s1_mask.png": (cv2.imencode(".png", mask)[1].tobytes(), "1=tumor"),
    }
    found = []
    for name, (data, classes) in files.items():
        (notes / name).write_bytes(data)
        out = tmp_path / name.replace(".", "-")
        more = [] if name.endswith("xml") else ["--class", classes]
        done = cut(path, out, "--background", "normal", *more)
        assert done.exit_code == 0, done.output
        found.append(labels(out))
        (notes / name).unlink()
    assert all(one == found[0] for one in found)
    assert sum(name == "tumor" for name in found[0].values()) == 20
    assert sum(name == "normal" for name in found[0].values()) == 64 - 20
    for row in rows_of(out / "tiles.csv"):
        x, y = int(row["x"]), int(row["y"])
        patch = cv2.imread(str(out / "train" / f"{row['id']}.png"))[..., ::-1]
        assert np.array_equal(patch, pixels[y : y + SIDE, x : x + SIDE])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "Tumor: Positive"),
        ({"name": "Positive", "colorRGB": 1, "parentClass": {"name": "Tumor"}}, "Tumor: Positive"),
        ("Tumor", "Tumor"),
        ({"name": "Größe über 2 mm", "color": [1, 2, 3]}, "Größe über 2 mm"),
    ],
)
def test_a_class_is_called_as_qupath_shows_it(kind, name, slide, tmp_path):
    """In every form in which QuPath writes it."""
    drawn = feature(ring(*TUMOUR))
    drawn["properties"]["classification"] = kind
    (tmp_path / "notes" / "s1.geojson").write_text(json.dumps([drawn]), encoding="utf-8")
    done = cut(slide[0], tmp_path / "d", "--class", f"{name}=tumour")
    assert done.exit_code == 0, done.output
    assert list(labels(tmp_path / "d").values()) == ["tumour"] * 20


@pytest.mark.parametrize(
    "more",
    [
        {"properties": {"objectType": "tmaCore", "isMissing": False}},
        {"properties": {"object_type": "tma_core"}},
        {"id": "PathDetectionObject", "properties": {}},
    ],
)
def test_objects_that_nobody_drew_leave_no_tissue_out(more, slide, tmp_path):
    """The core of a tissue microarray lies round all of its annotations."""
    core = feature(ring(0, 0, 12 * SIDE, 12 * SIDE)) | more
    drawn = json.dumps([core, feature(ring(*TUMOUR))])
    (tmp_path / "notes" / "s1.geojson").write_text(drawn)
    assert cut(slide[0], tmp_path / "d", "--background", "normal").exit_code == 0
    found = list(labels(tmp_path / "d").values())
    assert (found.count("Tumor"), found.count("normal")) == (20, 64 - 20)


def test_objects_within_objects_are_read(slide, tmp_path):
    """As QuPath writes a hierarchy."""
    outer = feature(ring(0, 0, 48, 48), "Other")
    outer["properties"]["childObjects"] = [feature(ring(*TUMOUR))]
    (tmp_path / "notes" / "s1.geojson").write_text(json.dumps(outer))
    assert cut(slide[0], tmp_path / "d").exit_code == 0
    assert list(labels(tmp_path / "d").values()) == ["Tumor"] * 20


def test_points_of_asap_are_no_outline(slide, tmp_path):
    dots = asap(ring(*TUMOUR)).replace('Type="Polygon"', 'Type="PointSet"')
    both = asap(ring(96, 96, 96 + SIDE, 96 + SIDE)).replace("</Annotations>", "")
    both = both.replace("</ASAP_Annotations>", "") + dots.split("<Annotations>")[1]
    (tmp_path / "notes" / "s1.xml").write_text(both)
    done = cut(slide[0], tmp_path / "d")
    assert done.exit_code == 0, done.output
    assert list(labels(tmp_path / "d")) == ["s1/96_96"]


def test_centre_third_decides_as_in_patchcamelyon(slide, tmp_path):
    """A tile with a touch of tumour in its centre third is tumour, at its rim it is not."""
    path, _ = slide
    touch = [(144 + 20, 144 + 20), (144 + 21, 144 + 21)]
    rim = [(240 + 2, 240 + 2), (240 + 6, 240 + 6)]
    drawn = [feature(ring(*a, *b)) for a, b in (touch, rim)]
    (tmp_path / "notes" / "s1.geojson").write_text(json.dumps(drawn))
    assert cut(path, tmp_path / "d", "--cover", "centre", "--background", "n").exit_code == 0
    tumour = [name for name, label in labels(tmp_path / "d").items() if label == "Tumor"]
    assert tumour == ["s1/144_144"]


@pytest.mark.parametrize("step", [1.0, 2.0, 3.98])
def test_pixels_are_in_register_at_any_down_sample(tmp_path, step):
    """A cross on the slide lies where it should, within a px, though levels are not powers of two."""
    pixels = np.full((2000, 1600, 3), 240, np.uint8)
    pixels[1190:1210, :] = pixels[:, 890:910] = 0
    with open_slide(write_slide(tmp_path / "c.tif", pixels, MPP, (3.98,)), mpp=None) as slide:
        found = slide.read(700, 1000, round(400 / step), round(400 / step), scale=step)
    dark = found[..., 0] < 120
    x = np.flatnonzero(dark.mean(0) > 0.9).mean()
    y = np.flatnonzero(dark.mean(1) > 0.9).mean()
    assert abs((x + 0.5) * step - 200) <= step
    assert abs((y + 0.5) * step - 200) <= step


def test_a_slide_with_bounds_is_cut_where_qupath_drew(tmp_path):
    """QuPath's coordinates begin at the bounds."""
    (tmp_path / "notes").mkdir()
    path = write_scn(tmp_path / "b.scn", tissue_slide(1024, 1024, 4), MPP, (500, 300))
    (tmp_path / "notes" / "b.geojson").write_text(json.dumps([feature(ring(48, 96, 144, 192))]))
    assert cut(path, tmp_path / "d").exit_code == 0
    with open_slide(path) as slide:
        left, top = slide.bounds
    found = {(int(r["x"]) - left, int(r["y"]) - top) for r in rows_of(tmp_path / "d" / "tiles.csv")}
    assert found == {(48, 96), (96, 96), (48, 144), (96, 144)}
    assert left > 0


def test_a_slide_that_fails_is_listed_and_the_others_go_on(slide, tmp_path):
    """Exit status 3, failed.csv with the reason: µm per px missing, no annotations, not a slide."""
    path, pixels = slide
    drawn = json.dumps([feature(ring(*TUMOUR))])
    for name in ("s1", "blind", "broken"):
        (tmp_path / "notes" / f"{name}.geojson").write_text(drawn)
    blind = write_slide(tmp_path / "blind.tif", pixels, None)
    other = write_slide(tmp_path / "other.tif", pixels, MPP)
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"no slide")
    words = ("--annotations", tmp_path / "notes", "--out", tmp_path / "d", "--mpp", MPP)
    done = run_histo("cut", blind, other, broken, path, "--size", SIDE, *words)
    assert done.exit_code == 3, done.output
    failed = {row["slide"]: row["reason"] for row in rows_of(tmp_path / "d" / "failed.csv")}
    assert set(failed) == {"blind", "other", "broken"}
    assert "µm" in failed["blind"]
    assert {row["slide"] for row in rows_of(tmp_path / "d" / "groups.csv")} == {"s1"}


def test_names_that_no_annotation_has_are_told(slide, tmp_path):
    (tmp_path / "notes" / "s1.geojson").write_text(json.dumps([feature(ring(*TUMOUR))]))
    done = cut(slide[0], tmp_path / "d", "--class", "Tumour=t")
    assert_one_line_error(done, "'Tumour'", "'Tumor'")


def test_values_that_no_mask_has_are_told(slide, tmp_path):
    """Otherwise all of the tumour would become background."""
    mask = np.zeros((64, 64), np.uint8)
    mask[10:40, 10:40] = 1
    cv2.imwrite(str(tmp_path / "notes" / "s1_mask.png"), mask)
    done = cut(slide[0], tmp_path / "d", "--class", "7=tumour", "--background", "normal")
    assert_one_line_error(done, "'7'", "there are '1'")


@pytest.mark.parametrize("form", ["tif", "png"])
def test_a_mask_that_reaches_over_the_slide_lies_by_its_own_pixel_size(slide, tmp_path, form):
    """As masks padded to whole tiles do; stretched over the slide, a third of these labels move."""
    path, pixels = slide
    x0, y0, x1, y1 = (side // 2 for side in TUMOUR)
    mask = np.zeros((pixels.shape[0] // 2 + 64, pixels.shape[1] // 2 + 64), np.uint8)
    mask[y0:y1, x0:x1] = 1
    if form == "tif":
        density = {"resolution": (1e4 / (2 * MPP),) * 2, "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(tmp_path / "notes" / "s1.tif", mask, compression="lzw", **density)
    else:
        dots = 25_400 / (2 * MPP)
        Image.fromarray(mask).save(tmp_path / "notes" / "s1.png", dpi=(dots, dots))
    done = cut(path, tmp_path / "d", "--cover", "0.9")
    assert done.exit_code == 0, done.output
    corners = {
        (x, y) for x in range(96, 96 + 5 * SIDE, SIDE) for y in range(96, 96 + 4 * SIDE, SIDE)
    }
    assert set(labels(tmp_path / "d")) == {f"s1/{x}_{y}" for x, y in corners}


def test_a_pixel_size_for_slides_that_do_not_say_leaves_the_others_theirs(slide, tmp_path):
    """And says so; a table of slides goes before what they say."""
    path, pixels = slide
    (tmp_path / "notes" / "s1.geojson").write_text(json.dumps([feature(ring(*TUMOUR))]))
    (tmp_path / "notes" / "s2.geojson").write_text(json.dumps([feature(ring(*TUMOUR))]))
    write_slide(tmp_path / "s2.tif", pixels, None)
    words = ("--slide-mpp", MPP / 2)
    done = run_cut([path, tmp_path / "s2.tif"], tmp_path, tmp_path / "d", *words)
    assert done.exit_code == 0, done.output
    widths = {row["slide"]: row["width"] for row in rows_of(tmp_path / "d" / "tiles.csv")}
    assert widths == {"s1": str(SIDE), "s2": str(2 * SIDE)}
    assert "s1: it says that it has 0.5 µm per px" in done.output
    (tmp_path / "mpp.csv").write_text(f"slide,mpp\ns1,{MPP / 2}\n")
    done = run_cut([path], tmp_path, tmp_path / "e", "--slide-mpp", tmp_path / "mpp.csv")
    assert done.exit_code == 0, done.output
    assert {row["width"] for row in rows_of(tmp_path / "e" / "tiles.csv")} == {str(2 * SIDE)}


def test_a_slide_that_can_no_longer_be_cut_is_not_trained_on(slide, tmp_path):
    """Its patches of an earlier cut have no place in the table, where failed.csv leaves it out."""
    path, pixels = slide
    for name in ("s1", "s2"):
        (tmp_path / "notes" / f"{name}.geojson").write_text(json.dumps([feature(ring(*TUMOUR))]))
    write_slide(tmp_path / "s2.tif", pixels, MPP)
    both = [path, tmp_path / "s2.tif"]
    assert run_cut(both, tmp_path, tmp_path / "d").exit_code == 0
    (tmp_path / "notes" / "s2.geojson").unlink()
    assert run_cut(both, tmp_path, tmp_path / "d").exit_code == 3
    assert {name.split("/")[0] for name in labels(tmp_path / "d")} == {"s1"}


def test_an_outline_that_crosses_itself_is_mended_and_said(slide, tmp_path):
    bow = [[96, 96], [288, 288], [288, 96], [96, 288], [96, 96]]
    (tmp_path / "notes" / "s1.geojson").write_text(json.dumps([feature(bow)]))
    done = cut(slide[0], tmp_path / "d")
    assert done.exit_code == 0
    assert "mended" in done.output


def test_annotations_that_label_nothing_are_told(slide, tmp_path):
    """A line, a point and an area far outside would else be cut as background without a word."""
    line = feature([])
    line["geometry"] = {"type": "LineString", "coordinates": [[96, 96], [288, 288]]}
    point = feature([])
    point["geometry"] = {"type": "Point", "coordinates": [96, 96]}
    far = feature(ring(10**6, 10**6, 10**6 + 96, 10**6 + 96))
    path = tmp_path / "notes" / "s1.geojson"
    path.write_text(json.dumps([line, point, far, feature(ring(*TUMOUR))]))
    done = cut(slide[0], tmp_path / "d", "--background", "normal")
    assert done.exit_code == 0, done.output
    assert "note: s1: 1 outline of a class outside the slide" in done.output
    assert "note: s1: 2 annotations of a class without an area" in done.output


def test_areas_of_two_classes_that_overlap_are_told_and_the_way_out_works(slide, tmp_path):
    """QuPath's outline of all tissue round a tumour, say."""
    whole = feature(ring(0, 0, 12 * SIDE, 12 * SIDE), "Tissue")
    notes = json.dumps([whole, feature(ring(*TUMOUR))])
    (tmp_path / "notes" / "s1.geojson").write_text(notes)
    done = cut(slide[0], tmp_path / "d")
    assert "note: s1: areas of 'Tissue' and 'Tumor' overlap" in " ".join(done.output.split())
    done = cut(slide[0], tmp_path / "e", "--class", "Tumor=Tumor", "--background", "normal")
    assert "overlap" not in done.output
    assert set(labels(tmp_path / "e").values()) == {"Tumor", "normal"}


def test_a_class_that_training_would_refuse_is_not_cut(slide, tmp_path):
    (tmp_path / "notes" / "s1.geojson").write_text(json.dumps([feature(ring(*TUMOUR), "Tu\nmor")]))
    done = cut(slide[0], tmp_path / "d", "--background", "normal")
    assert done.exit_code == 1
    assert "can be no class" in done.output
    assert not (tmp_path / "d" / "train").exists()


def test_a_sample_is_drawn_by_the_seed(slide, tmp_path):
    """At most N of each class, the same for the same seed; patients are named."""
    (tmp_path / "notes" / "s1.geojson").write_text(json.dumps([feature(ring(*TUMOUR))]))
    more = ("--background", "n", "--per-slide", 7, "--patient-from", r"s\d")
    found = []
    for number, seed in enumerate((1, 1, 2)):
        assert cut(slide[0], tmp_path / f"d{number}", *more, "--seed", seed).exit_code == 0
        found.append(labels(tmp_path / f"d{number}"))
    assert found[0] == found[1] != found[2]
    assert sorted(found[0].values()) == ["Tumor"] * 7 + ["n"] * 7
    assert {row["patient"] for row in rows_of(tmp_path / "d0" / "groups.csv")} == {"s1"}


def test_corrected_tissue_is_taken_back(slide, tmp_path):
    """The tissue.geojson of a cut gives the same tiles; a smaller outline fewer."""
    (tmp_path / "notes" / "s1.geojson").write_text(json.dumps([feature(ring(*TUMOUR))]))
    assert cut(slide[0], tmp_path / "d", "--background", "n").exit_code == 0
    back = ("--background", "n", "--tissue")
    assert cut(slide[0], tmp_path / "d2", *back, tmp_path / "d" / "slides").exit_code == 0
    assert labels(tmp_path / "d2") == labels(tmp_path / "d")
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "s1.geojson").write_text(json.dumps([feature(ring(96, 96, 144, 144))]))
    assert cut(slide[0], tmp_path / "d3", *back, tmp_path / "small").exit_code == 0
    assert list(labels(tmp_path / "d3")) == ["s1/96_96"]


HOSTILE_JSON = {
    "nested": "[" * 200_000,
    "far": json.dumps([feature([[0, 0], [1e300, 0], [1e300, 1e300], [0, 0]])]),
    "text": json.dumps([feature([["a", "b"]])]),
    "number": "7",
    "nan": '[{"type":"Feature","geometry":{"type":"Polygon","coordinates":[[[NaN,1],[2,3],[4,9],[NaN,1]]]}}]',
}


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_hostile_geojson_is_refused(tmp_path, name):
    (tmp_path / "a.geojson").write_text(HOSTILE_JSON[name])
    with pytest.raises(HistoError, match="is not GeoJSON"):
        list(read_geojson(tmp_path / "a.geojson"))


@pytest.mark.parametrize("name", ["\ud800", "a\r\nb", "x" * 201, "a\0"])
def test_a_name_that_can_be_no_class_is_refused(tmp_path, name):
    """It could be written to no table, or would be refused by `train` in hours."""
    one = feature([[0, 0], [9, 0], [9, 9], [0, 0]])
    one["properties"]["classification"] = {"name": name}
    (tmp_path / "a.geojson").write_text(json.dumps([one]))
    with pytest.raises(HistoError, match=r"a\.geojson: .* can be no class"):
        list(read_geojson(tmp_path / "a.geojson"))


@pytest.mark.slow
def test_an_outline_of_a_million_wild_points_is_refused_quickly(tmp_path):
    points = np.random.default_rng(0).integers(0, 50_000, (1_000_000, 2)).tolist()
    points.append(points[0])
    (tmp_path / "a.geojson").write_text(json.dumps([feature(points)]))
    began = time.monotonic()
    with pytest.raises(HistoError, match="crosses itself"):
        list(read_geojson(tmp_path / "a.geojson"))
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>',
        "<a>" * 100_000,
        asap([(0, 0), (1e300, 0), (1e300, 1e300)]),
        asap([(0, 0), ("x", 0), (1, 1)]),
        '<?xml version="1.0" encoding="foo"?><a/>',
        '<?xml version="1.0" encoding="zlib"?><a/>',
    ],
    ids=["entities", "nested", "far", "text", "encoding", "codec"],
)
def test_hostile_xml_is_refused(tmp_path, text):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(HistoError, match="ASAP"):
        list(read_asap(tmp_path / "a.xml"))


@pytest.mark.slow
def test_a_killed_cut_goes_on_with_the_same_bytes(slide, tmp_path):
    """Killed at several moments, the same command ends with the files of a cut that was not."""
    path, pixels = slide
    drawn = json.dumps([feature(ring(*TUMOUR))])
    for name in ("s1", "s2", "s3"):
        (tmp_path / "notes" / f"{name}.geojson").write_text(drawn)
    others = [write_slide(tmp_path / f"{name}.tif", pixels, MPP) for name in ("s2", "s3")]
    words = ["cut", path, *others, "--annotations", tmp_path / "notes", "--mpp", MPP]
    words += ["--size", SIDE, "--stride", 12, "--background", "n", "--out"]
    assert histo_process(*words, tmp_path / "whole").returncode == 0
    command = [sys.executable, "-m", "histo", *map(str, words), str(tmp_path / "killed")]
    for patches in (1, 900):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None:
            if sum(1 for _ in (tmp_path / "killed").rglob("*.png")) >= patches:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        process.wait()
    assert histo_process(*words, tmp_path / "killed").returncode == 0
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def files_of(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != "lock"
    }


def test_a_cut_is_trained_and_its_pixel_size_is_kept(slide, tmp_path):
    """Resizing changes the model's µm per px as it must."""
    (tmp_path / "notes" / "s1.geojson").write_text(json.dumps([feature(ring(*TUMOUR))]))
    assert cut(slide[0], tmp_path / "d", "--background", "n").exit_code == 0
    words = ("--weights", "none", "--epochs", 1, "--size", 32, "--out", tmp_path / "run")
    done = run_histo("train", tmp_path / "d", *TINY, *words)
    assert done.exit_code == 0, done.output
    card = json.loads((tmp_path / "run" / "model.json").read_text())
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["mpp"] == {"value": MPP, "source": "found"}
    assert card["mpp"] == pytest.approx(MPP * SIDE / 32)


def annotated(slide, tmp_path):
    """The slide's tumour drawn."""
    (tmp_path / "notes" / "s1.geojson").write_text(json.dumps([feature(ring(*TUMOUR))]))
    return slide[0]


@pytest.mark.slow
def test_without_files_every_command_finds_the_same_patches(slide, tmp_path):
    """One ZIP file a slide: check, train, predict and evaluate give what they give for files."""
    path = annotated(slide, tmp_path)
    both = tmp_path / "files", tmp_path / "zip"
    assert cut(path, both[0], "--background", "n").exit_code == 0
    assert cut(path, both[1], "--background", "n", "--no-files").exit_code == 0
    assert [p.name for p in (both[1] / "train" / "s1").iterdir()] == ["patches.zip"]
    assert labels(both[0]) == labels(both[1])
    seen = []
    for number, data in enumerate(both):
        run = tmp_path / f"run{number}"
        words = ("--weights", "none", "--epochs", 1, "--out", run)
        stored = [word for word in TINY if word != "--no-store"]
        assert run_histo("train", data, *stored, *words).exit_code == 0
        assert (
            run_histo("train", data, *stored, *words[:-1], tmp_path / f"x{number}").exit_code == 0
        )
        assert run_histo("export", run).exit_code == 0
        table = tmp_path / f"p{number}.csv"
        assert run_histo("predict", run / "export", data / "train", "--out", table).exit_code == 0
        assert run_histo("check", data, "--out", tmp_path / f"check{number}").exit_code in (0, 3)
        seen.append((run / "predictions.csv").read_bytes() + table.read_bytes())
    assert seen[0] == seen[1]
    one = both[1] / "train" / "s1" / "96_96.png"
    words = ("predict", tmp_path / "run1" / "export", one, "--out", tmp_path / "one.csv")
    assert run_histo(*words).exit_code == 0


def test_somebodys_archive_beside_the_patches_is_not_looked_into(dataset, tmp_path):
    """Not even where one of its members is stored as it is, as a cut's are."""
    data = Path(shutil.copytree(dataset, tmp_path / "d"))
    patches = sorted((data / "train").iterdir())
    with zipfile.ZipFile(data / "train" / "patches.zip", "w") as archive:
        archive.writestr("other.png", patches[0].read_bytes())
        archive.write(patches[1], "more.png", zipfile.ZIP_DEFLATED)
    assert list(list_patches(data / "train")) == patches


def test_a_zip_of_patches_that_is_damaged_is_told(slide, tmp_path):
    path = annotated(slide, tmp_path)
    assert cut(path, tmp_path / "d", "--no-files", "--background", "n").exit_code == 0
    pack = tmp_path / "d" / "train" / "s1" / "patches.zip"
    whole = pack.read_bytes()
    middle = len(whole) // 2
    for data in (whole[:middle], whole[:middle] + b"????" + whole[middle + 4 :], b""):
        pack.write_bytes(data)
        words = (*TINY, "--weights", "none", "--epochs", 1, "--out", tmp_path / "run")
        assert_one_line_error(run_histo("train", tmp_path / "d", *words), "patches.zip", "damaged")


def test_a_dicom_series_is_one_slide_by_its_folder(slide, tmp_path):
    """And gives the patches of the TIFF; of two series in a folder each is a slide."""
    path, pixels = slide
    annotated(slide, tmp_path)
    assert cut(path, tmp_path / "tiff", "--background", "n").exit_code == 0
    series = write_dicom(tmp_path / "dicom" / "case.1", pixels, MPP, (2.0,))
    (tmp_path / "notes" / "case.1.geojson").write_text(json.dumps([feature(ring(*TUMOUR))]))
    words = ("--annotations", tmp_path / "notes", "--mpp", MPP, "--size", SIDE)
    for number, given in enumerate((series.parent, series, series / "level1.dcm")):
        out = tmp_path / f"d{number}"
        done = run_histo("cut", given, *words, "--background", "n", "--out", out)
        assert done.exit_code == 0, done.output
        found = {name.removeprefix("case.1/"): label for name, label in labels(out).items()}
        assert found == {
            n.removeprefix("s1/"): label for n, label in labels(tmp_path / "tiff").items()
        }
        for name in found:
            files = [
                d / "train" / s / f"{name}.png"
                for d, s in ((out, "case.1"), (tmp_path / "tiff", "s1"))
            ]
            assert files[0].read_bytes() == files[1].read_bytes()
    write_dicom(series, pixels, MPP, (2.0,), "other")
    for name in ("level0", "other0"):
        (tmp_path / "notes" / f"{name}.geojson").write_text(json.dumps([feature(ring(*TUMOUR))]))
    done = run_histo("cut", series, *words, "--out", tmp_path / "two")
    assert done.exit_code == 0, done.output
    assert {row["slide"] for row in rows_of(tmp_path / "two" / "groups.csv")} == {
        "level0",
        "other0",
    }


def test_pixels_that_are_not_square_are_refused_by_name(slide, tmp_path):
    path, pixels = slide
    annotated(slide, tmp_path)
    with tifffile.TiffWriter(tmp_path / "s1.tif") as tiff:
        how = {"resolution": (20_000, 10_000), "resolutionunit": "CENTIMETER"}
        how |= {"tile": (256, 256), "photometric": "rgb", "metadata": None}
        tiff.write(pixels, **how)
        tiff.write(pixels[::2, ::2], subfiletype=1, **how)
    done = cut(path, tmp_path / "d")
    assert done.exit_code == 1
    assert "px of 0.5 x 1 µm, which are not square (give --slide-mpp)" in done.output


def test_the_next_line_names_groups_only_where_there_are_several(slide, tmp_path):
    """Training refuses a single group."""
    path, pixels = slide
    annotated(slide, tmp_path)
    assert "--groups" not in cut(path, tmp_path / "one").output
    other = write_slide(tmp_path / "s2.tif", pixels, MPP)
    (tmp_path / "notes" / "s2.geojson").write_text(json.dumps([feature(ring(*TUMOUR))]))
    words = ("--annotations", tmp_path / "notes", "--mpp", MPP, "--size", SIDE)
    for pattern, ending in (("s", "groups.csv)"), (r"s\d", "groups.csv:patient)")):
        out = tmp_path / f"by{len(pattern)}"
        done = run_histo("cut", path, other, *words, "--patient-from", pattern, "--out", out)
        assert done.output.strip().endswith(ending)


def test_corrected_tissue_is_taken_back_where_the_slide_has_bounds(tmp_path):
    """Outlines that a cut wrote give the same tiles to another cut."""
    (tmp_path / "notes").mkdir()
    path = write_scn(tmp_path / "b.scn", tissue_slide(1024, 1024, 200), MPP, (500, 300))
    (tmp_path / "notes" / "b.geojson").write_text(json.dumps([feature(ring(0, 0, 1024, 1024))]))
    assert cut(path, tmp_path / "d").exit_code == 0
    back = ("--tissue", tmp_path / "d" / "slides")
    assert cut(path, tmp_path / "again", *back).exit_code == 0
    assert labels(tmp_path / "d") == labels(tmp_path / "again")
    assert 15**2 > len(labels(tmp_path / "d")) >= 13**2


@pytest.mark.slow
def test_predict_notes_patches_of_another_pixel_size(slide, tmp_path):
    path = annotated(slide, tmp_path)
    assert cut(path, tmp_path / "d", "--background", "n").exit_code == 0
    words = ("--weights", "none", "--epochs", 1, "--out", tmp_path / "run")
    assert run_histo("train", tmp_path / "d", *TINY, *words).exit_code == 0
    assert run_histo("export", tmp_path / "run").exit_code == 0
    other = tmp_path / "other"
    more = ("--annotations", tmp_path / "notes", "--mpp", 2 * MPP, "--size", SIDE)
    assert run_histo("cut", path, *more, "--out", other).exit_code == 0
    predict = ("predict", tmp_path / "run" / "export")
    done = run_histo(*predict, tmp_path / "d" / "train", "--out", tmp_path / "a.csv")
    assert "µm per px" not in done.output
    done = run_histo(*predict, other / "train" / "s1", "--out", tmp_path / "b.csv")
    assert "these patches at 1 µm per px and was trained at 0.5" in done.output
    (tmp_path / "d" / "cut.json").unlink()  # the pixel size is not recorded, and given
    words = (tmp_path / "run" / "export", tmp_path / "d", "--out", tmp_path / "judged")
    done = run_histo("evaluate", *words, "--mpp", 1)
    assert "these patches at 1 µm per px and was trained at 0.5" in done.output


def test_a_slide_whose_name_would_lead_out_of_the_results_is_refused(slide, tmp_path, monkeypatch):
    """Its folder would be another one's, which is written over."""
    path, pixels = slide
    annotated(slide, tmp_path)
    bad = path.rename(tmp_path / "...tif")
    assert_one_line_error(cut(bad, tmp_path / "d"), "rename it")
    series = write_dicom(tmp_path / "case", pixels, MPP)
    (tmp_path / "notes" / "case.geojson").write_text(json.dumps([feature(ring(*TUMOUR))]))
    monkeypatch.chdir(series)
    words = ("--annotations", "../notes", "--out", "../d", "--mpp", MPP, "--size", SIDE)
    assert run_histo("cut", "level0.dcm", *words).exit_code == 0
    assert {row["slide"] for row in rows_of(tmp_path / "d" / "groups.csv")} == {"case"}


@pytest.mark.long
def test_a_million_points_are_read_in_bounded_time(tmp_path):
    """A circle of a million points, as GeoJSON and as XML, is an outline of its area."""
    around = np.linspace(0, 2 * np.pi, 1_000_000)
    circle = np.stack([30_000 + 20_000 * np.cos(around), 30_000 + 20_000 * np.sin(around)], 1)
    circle = np.concatenate([circle.round(2)[:-1], circle.round(2)[:1]]).tolist()
    (tmp_path / "a.geojson").write_text(json.dumps([feature(circle)]))
    (tmp_path / "a.xml").write_text(asap(circle))
    began = time.monotonic()
    for found in (read_geojson(tmp_path / "a.geojson"), read_asap(tmp_path / "a.xml")):
        (outline,) = found
        assert outline.polygon.area == pytest.approx(np.pi * 20_000**2, rel=1e-3)
    assert time.monotonic() - began < 120


def test_the_next_cut_removes_what_a_killed_one_was_removing(slide, tmp_path):
    path, _ = slide
    (tmp_path / "notes" / "s1.geojson").write_text(json.dumps([feature(ring(*TUMOUR))]))
    assert cut(path, tmp_path / "d").exit_code == 0
    left = [tmp_path / "d" / name / ".s1.0a1b2c3d.histo" for name in ("train", "slides")]
    for folder in left:
        folder.mkdir()
        (folder / "96_96.png").write_bytes(b"half removed")
    again = ("--annotations", tmp_path / "notes", "--out", tmp_path / "d", "--mpp", MPP)
    assert histo_process("cut", path, *again, "--size", SIDE).returncode == 0
    assert not any(folder.exists() for folder in left)
