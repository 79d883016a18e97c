"""Slides over HTTP: their tiles and maps, and what a stranger's slide or name cannot do."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.conftest import replace_file, write_image
from tests.slides.made import tissue_slide, write_slide
from tests.web.conftest import client_of

BUNDLE = Path(__file__).parents[1] / "golden" / "bundle-2"
EVIL = "<img src=x onerror=alert(1)>.tif"


@pytest.fixture
def slides(tmp_path):
    """A folder with a slide, a bundle, and a slide beside the folder."""
    served = tmp_path / "served"
    shutil.copytree(BUNDLE, served / "bundle")
    write_slide(served / "a.tif", tissue_slide(600, 500), 0.5)
    write_slide(tmp_path / "secret.tif", tissue_slide(600, 500), 0.5)
    return served


def test_a_map_is_started_followed_and_shown(slides):
    """Its grid, its regions and the tiles of the slide come from the same folder."""
    with client_of(slides) as client:
        about = client.get("/api/slides/about", params={"name": "a.tif"}).json()
        assert (about["width"], about["height"], about["maps"]) == (600, 500, [])
        place = {"name": "a.tif", "level": 10, "column": 0, "row": 0}
        assert client.get("/api/slides/tile", params=place).content[:3] == b"\xff\xd8\xff"
        assert client.get("/api/slides/tile", params={**place, "column": 99}).status_code == 404
        start = {"slide": "a.tif", "bundle": "bundle", "mpp": 0.5}
        assert client.post("/api/slides/making", json=start).status_code == 200
        for _ in range(300):
            now = client.get("/api/slides/making").json()
            if now["state"] not in ("starting", "running"):
                break
            time.sleep(0.2)
        assert now["state"] == "finished", now
        assert str(slides) not in now["message"]
        assert '"finished"' in client.get("/api/slides/making/events").text
        (one,) = client.get("/api/slides/about", params={"name": "a.tif"}).json()["maps"]
        asked = {"name": "a.tif", "folder": one["folder"], "slide": one["slide"]}
        found = client.get("/api/slides/map", params=asked).json()
        assert found["columns"] * found["rows"] > 0
        assert found["classes"] == ["tumour"]
        assert "histo_requests_total" in client.get("/metrics").text


@pytest.mark.parametrize(
    "name", ["out.tif", "../secret.tif", "link/secret.tif", "a.tif/../../secret.tif"]
)
def test_no_slide_outside_the_folder_is_shown(slides, name):
    """By whatever link or way up."""
    (slides / "out.tif").symlink_to(slides.parent / "secret.tif")
    (slides / "link").symlink_to(slides.parent)
    with client_of(slides) as client:
        place = {"name": name, "level": 8, "column": 0, "row": 0}
        assert client.get("/api/slides/about", params={"name": name}).status_code == 404
        assert client.get("/api/slides/tile", params=place).status_code == 404
        start = {"slide": name, "bundle": "bundle", "mpp": 0.5}
        assert client.post("/api/slides/making", json=start).status_code == 404
        assert [row["name"] for row in client.get("/api/slides").json()] == ["a.tif"]


def test_script_in_a_name_is_text(slides):
    """On the list and on the slide's own page."""
    (slides / "a.tif").rename(slides / EVIL)
    with client_of(slides) as client:
        for page in (client.get("/slides"), client.get("/slides", params={"name": EVIL})):
            assert page.status_code == 200
            assert "<img" not in page.text
            assert "&lt;img" in page.text


def test_a_slide_whose_index_leads_away_is_not_opened(slides):
    """A stranger's .vms or .mrxs may name any file of the machine."""
    (slides / "b.vms").write_text("[Virtual Microscope Specimen]\nImageFile=../secret.jpg\n")
    (slides / "c").mkdir()
    (slides / "c" / "Slidedat.ini").write_text("[DATAFILE]\nFILE_0=../../secret.dat\n")
    (slides / "c.mrxs").write_bytes(b"")
    with client_of(slides) as client:
        assert [row["name"] for row in client.get("/api/slides").json()] == ["a.tif"]
        for name in ("b.vms", "c.mrxs"):
            assert client.get("/api/slides/about", params={"name": name}).status_code == 404


def test_a_dicom_series_is_one_slide(slides):
    """By its folder's name, with all its bytes; two series of one folder are two slides."""
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from tests.slides.made_dicom import write_dicom

    one = write_dicom(slides / "one", tissue_slide(600, 500), 0.5)
    for prefix in ("a", "b"):
        write_dicom(slides / "two", tissue_slide(600, 500), 0.5, prefix=prefix)
    with client_of(slides) as client:
        rows = {row["name"]: row["bytes"] for row in client.get("/api/slides").json()}
        assert list(rows) == ["a.tif", "one", "two/a0.dcm", "two/b0.dcm"]
        assert rows["one"] == sum(file.stat().st_size for file in one.iterdir())
        about = client.get("/api/slides/about", params={"name": "one"}).json()
        assert (about["width"], about["mpp"]) == (600, 0.5)
        place = {"name": "one", "level": 10, "column": 0, "row": 0}
        assert client.get("/api/slides/tile", params=place).content[:3] == b"\xff\xd8\xff"
        (found,) = mapped(client, "one")
        assert found["slide"] == "one"
        (one / "out.dcm").symlink_to(slides.parent / "secret.tif")
        assert "one" not in [row["name"] for row in client.get("/api/slides").json()]
    with client_of(one) as client:
        (one / "out.dcm").unlink()
        assert "one</a>" in client.get("/slides").text
        assert client.get("/slides", params={"name": "."}).status_code == 200


def mapped(client, slide):
    """Map a slide with the bundle; the maps that it then has."""
    start = {"slide": slide, "bundle": "bundle", "mpp": 0.5}
    assert client.post("/api/slides/making", json=start).status_code == 200
    while (now := client.get("/api/slides/making").json())["state"] in ("starting", "running"):
        time.sleep(0.1)
    assert now["state"] == "finished", now
    return client.get("/api/slides/about", params={"name": slide}).json()["maps"]


def test_what_is_not_listed_is_said(slides):
    """A folder of many patches, TIFFs that are no slides, a link out; many slides are listed all."""
    (slides / "patches").mkdir()
    (slides / "many").mkdir()
    plain = write_image(slides / "plain.tif", tissue_slide(96, 96, 8)).read_bytes()
    for n in range(201):
        (slides / "patches" / f"{n:03d}.tif").write_bytes(plain)
        (slides / "many" / f"{n:03d}.tif").hardlink_to(slides / "a.tif")
    (slides / "out.svs").symlink_to(slides.parent / "secret.tif")
    with client_of(slides) as client:
        names = [row["name"] for row in client.get("/api/slides").json()]
        assert names == ["a.tif", *(f"many/{n:03d}.tif" for n in range(201))]
        page = client.get("/slides").text
    assert "patches: 201 files, taken for patches" in page
    assert "served: 1 file, no slides: not tiled" in page
    assert "served: 1 file, not opened: a link" in page


def shown(client, found):
    """The answer about a map of a.tif."""
    asked = {"name": "a.tif", "folder": found["folder"], "slide": found["slide"]}
    return client.get("/api/slides/map", params=asked)


@pytest.mark.parametrize("file", ["heatmap.tiff", "map.geojson", "slide.json"])
def test_a_map_of_a_stranger_reads_no_file_outside_and_no_huge_one(slides, file, monkeypatch):
    """A link out, a pipe, more than the bound, nonsense: no map, one line, and the slide is shown."""
    with client_of(slides) as client:
        (found,) = mapped(client, "a.tif")
        path = slides / found["folder"] / found["slide"] / file
        sound = path.read_bytes()
        assert shown(client, found).status_code == 200
        outside = slides.parent / file
        outside.write_bytes(sound)
        path.unlink()
        path.symlink_to(outside)
        assert shown(client, found).status_code == 404
        path.unlink()
        os.mkfifo(path)
        assert shown(client, found).status_code in (404, 422)
        for damaged in (b"", b"[]", b"{}", b"II*\0nonsense", sound[: len(sound) // 2]):
            replace_file(path, damaged)
            answer = shown(client, found)
            assert answer.status_code in (200, 404, 422)
            assert str(slides) not in answer.text
        replace_file(path, sound)
        limit = {"slide.json": "HISTO_MAX_JSON_BYTES"}.get(file, "HISTO_MAX_HEATMAP_BYTES")
        monkeypatch.setenv(limit, "10")
        assert shown(client, found).status_code in (404, 422)
        assert client.get("/slides", params={"name": "a.tif"}).status_code == 200


def test_a_line_of_regions_has_a_bound(slides):
    """A GeoJSON of one endless line is not read whole."""
    with client_of(slides) as client:
        (found,) = mapped(client, "a.tif")
        path = slides / found["folder"] / found["slide"] / "map.geojson"
        with path.open("wb") as file:
            file.truncate(1 << 32)  # 4 GB of nothing
        answer = shown(client, found)
        assert answer.json()["regions"] == []


@pytest.mark.parametrize(
    "classes", [[EVIL], [1], [{}], [None], [["a"]], "ab", {}, [], ["x" * 10**5]]
)
def test_names_in_a_map_of_a_stranger_are_text_or_refused(slides, classes):
    """Script in the name of a class is JSON; what is no name is no error of the server."""
    with client_of(slides) as client:
        (found,) = mapped(client, "a.tif")
        path = slides / found["folder"] / "maps.json"
        replace_file(
            path, json.dumps({**json.loads(path.read_text()), "classes": classes}).encode()
        )
        about = client.get("/api/slides/about", params={"name": "a.tif"})
        answer = shown(client, found)
        page = client.get("/slides", params={"name": "a.tif"})
    assert about.status_code == page.status_code == 200
    assert answer.status_code in (200, 404, 422)
    assert about.headers["content-type"] == answer.headers["content-type"] == "application/json"
    assert "<img" not in page.text
