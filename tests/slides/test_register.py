"""A drawn cross is at its place in every file of a map."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest
import tifffile
from shapely.geometry import shape

from histo.errors import HistoError
from histo.screen import Screen
from histo.slides.heat import Scheme
from histo.slides.map_slide import MapModel, MapSettings, map_slide
from histo.slides.reader import open_slide
from histo.slides.tissue_tiles import all_tiles
from tests.conftest import rows_of
from tests.slides.made import MemorySlide, tissue_slide, write_scn, write_slide, write_svs
from tests.slides.made_dicom import write_dicom

SIDE = 16
MPP = 1.0
QUIET = Screen(quiet=True)


def blackness(tiles):
    """A model that sees black: its probability is the share of black pixels."""
    share = (tiles.max(-1) < 60).mean((1, 2))
    return np.stack([1 - share, share], 1)


MODEL = MapModel(blackness, Scheme(["other", "black"], 1, 0.5), SIDE, MPP, {"bundle": "black"})


def every_tile(_slide, grid):
    return all_tiles(grid), 1.0


def crossed(width: int, height: int, at: tuple[int, int], arm: int) -> np.ndarray:
    """Tissue with a black cross of square arms, its middle square's corner in level-0 px `at`."""
    pixels, (x, y) = tissue_slide(width, height, 1), at
    for right, down in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
        left, top = x + right * arm, y + down * arm
        pixels[top : top + arm, left : left + arm] = 0
    return pixels


def squares_of(at, arm):
    """The five squares of the cross, as (x, y)."""
    x, y = at
    return [(x, y), (x - arm, y), (x + arm, y), (x, y - arm), (x, y + arm)]


def exact(tmp_path):
    """Four px of the slide are one of the model."""
    return MemorySlide(crossed(1280, 960, (512, 448), 64), 0.25), (512, 448), 64


def with_bounds(tmp_path):
    """The scanned area begins at 100, 37, as in MRXS."""
    at = (100 + 512, 37 + 448)
    return MemorySlide(crossed(1380, 997, at, 64), 0.25, (100, 37)), at, 64


def scn_with_bounds(tmp_path):
    """A file of which OpenSlide says that the scanned area begins at 300, 137."""
    path = write_scn(tmp_path / "s.scn", crossed(1280, 960, (512, 448), 64), 0.25, (300, 137))
    return open_slide(path), (812, 585), 64


def odd_levels(tmp_path):
    """A file whose levels are down-sampled by 3.98 and 15.9."""
    pixels = crossed(2560, 1920, (1024, 896), 64)
    path = write_slide(tmp_path / "odd.tif", pixels, 0.25, (3.98, 15.9))
    return open_slide(path), (1024, 896), 64


def odd_scale(tmp_path):
    """3.88 px of the slide are one of the model."""
    corner = round(10 * SIDE * 3.88)
    pixels = crossed(1400, 1400, (corner, corner), 62)
    return MemorySlide(pixels, MPP / 3.88), (corner, corner), 62


def turned(tmp_path):
    """The same turned by a quarter: its sides change places."""
    pixels = np.ascontiguousarray(np.rot90(crossed(2560, 1920, (1024, 896), 64)))
    return open_slide(write_slide(tmp_path / "t.tif", pixels, 0.25, (3.98, 15.9))), (896, 1472), 64


def dicom(tmp_path):
    """A DICOM series: a file a level in a folder."""
    pixels = crossed(1280, 960, (512, 448), 64)
    return open_slide(write_dicom(tmp_path / "series", pixels, 0.25, (2.0, 4.0))), (512, 448), 64


def svs(tmp_path):
    """Aperio's file, which says its µm per px in a description."""
    path = write_svs(tmp_path / "a.svs", crossed(1280, 960, (512, 448), 64), 0.25)
    return open_slide(path), (512, 448), 64


def unsaid(tmp_path):
    """A slide without µm per px, which the user gives."""
    path = write_slide(tmp_path / "u.tif", crossed(1280, 960, (512, 448), 64), None)
    return open_slide(path, mpp=0.25), (512, 448), 64


MAKERS = (exact, with_bounds, scn_with_bounds, odd_levels, turned, odd_scale, dicom, svs, unsaid)


@pytest.mark.parametrize("make", MAKERS)
def test_the_cross_is_where_it_was_drawn(make, tmp_path):
    """In tiles.csv, the heat map, the GeoJSON, the lesions and the overlay, to a pixel or a tile."""
    slide, at, arm = make(tmp_path)
    with slide if hasattr(slide, "__enter__") else open_memory(slide):
        done = map_slide(
            slide, "s", tmp_path_of(tmp_path), "k", MODEL, MapSettings(), every_tile, QUIET
        )
    folder = tmp_path / "map"
    squares = squares_of(at, arm)
    left, top = slide.bounds

    high = [r for r in rows_of(folder / "tiles.csv") if float(r["p_black"]) > 0.5]
    corners = sorted((int(r["x"]), int(r["y"])) for r in high)
    assert np.abs(np.array(corners) - np.array(sorted(squares))).max() <= 1
    assert all(abs(int(r["width"]) - arm) <= 1 for r in high)
    assert all(float(r["p_black"]) > 0.85 for r in high)  # of 16 px, one a side may be mixed

    with tifffile.TiffFile(folder / "heatmap.tiff") as tiff:
        image, ome = tiff.asarray(), tiff.ome_metadata
    pixel = float(re.search(r'PhysicalSizeX="([\d.]+)"', ome)[1])
    start = [
        float(v) for v in re.search(r'PositionX="([\d.]+)".*?PositionY="([\d.]+)"', ome).groups()
    ]
    rows, columns = np.nonzero(image > 128)
    places = np.stack([columns, rows], 1) * pixel + start
    expected = np.array(sorted(squares)) * slide.mpp
    assert np.abs(places[np.lexsort(places.T[::-1])] - expected).max() <= 1.01 * slide.mpp

    features = json.loads((folder / "map.geojson").read_text(encoding="utf-8"))["features"]
    (region,) = [f for f in features if f["properties"]["objectType"] == "annotation"]
    outline = shape(region["geometry"])
    drawn = [shape_of(x - left, y - top, arm) for x, y in squares]
    assert all(outline.intersection(one).area / arm**2 > 0.95 for one in drawn)
    assert outline.area == pytest.approx(5 * arm**2, rel=0.05)
    mm2 = region["properties"]["measurements"]["Area mm^2"]
    assert mm2 == pytest.approx(5 * (SIDE * MPP / 1000) ** 2, rel=1e-3)
    assert region["properties"]["classification"] == {"name": "black", "color": [213, 94, 0]}
    tile = features[-1]["geometry"]["coordinates"][0][0]
    last = rows_of(folder / "tiles.csv")[-1]
    assert tile == [int(last["x"]) - left, int(last["y"]) - top]

    first = rows_of(folder / "lesions.csv")[0]
    middle = at[0] + arm / 2, at[1] + arm / 2
    assert abs(int(first["x"]) - middle[0]) <= 1
    assert abs(int(first["y"]) - middle[1]) <= 1

    seen = done.picture.thumbnail.max(-1) < 60
    colours = done.picture.colours
    orange = (colours[..., 0] > 180) & (colours[..., 2] < 120) & (colours[..., 3] > 0)
    both, either = (seen & orange).sum(), (seen | orange).sum()
    assert both / either > 0.9


def tmp_path_of(folder):
    """A folder for the map."""
    (folder / "map").mkdir(exist_ok=True)
    return folder / "map"


class open_memory:  # noqa: N801
    """A slide in memory needs no closing."""

    def __init__(self, slide):
        self.slide = slide

    def __enter__(self):
        return self.slide

    def __exit__(self, *_):
        pass


def shape_of(x, y, side):
    """A square as a polygon."""
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    return shape({"type": "Polygon", "coordinates": [ring]})


def test_a_map_that_failed_goes_on_after_the_tiles_it_has(tmp_path):
    """And ends with the bytes of one that did not fail."""
    slide, _, _ = exact(tmp_path)
    folders = tmp_path / "a", tmp_path / "b"
    seen = []

    def failing(tiles):
        seen.append(len(tiles))
        if sum(seen) > 128:
            raise HistoError("no more")
        return blackness(tiles)

    def rest(tiles):
        seen.append(len(tiles))
        return blackness(tiles)

    for folder in folders:
        folder.mkdir()
    settings = MapSettings(batch_size=64)
    model = MapModel(failing, MODEL.scheme, SIDE, MPP, {"bundle": "black"})
    with pytest.raises(HistoError):
        map_slide(slide, "s", folders[0], "k", model, settings, every_tile, QUIET)
    seen.clear()
    model = MapModel(rest, MODEL.scheme, SIDE, MPP, {"bundle": "black"})
    map_slide(slide, "s", folders[0], "k", model, settings, every_tile, QUIET)
    assert sum(seen) == 300 - 128
    map_slide(slide, "s", folders[1], "k", MODEL, settings, every_tile, QUIET)
    files = [{p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]


def test_overlapping_tiles_are_averaged_cell_by_cell(tmp_path):
    slide, at, _ = exact(tmp_path)
    (tmp_path / "map").mkdir()
    settings = MapSettings(stride=SIDE // 2)
    map_slide(slide, "s", tmp_path / "map", "k", MODEL, settings, every_tile, QUIET)
    image = tifffile.imread(tmp_path / "map" / "heatmap.tiff")
    column, row = at[0] // 32, at[1] // 32
    assert image[row, column] < 255  # a corner of the cross, under four tiles
    assert image.max() < 255
    inside = (image[row : row + 2, column : column + 2] - 1) / 254
    # each cell of the middle: one tile wholly in the cross, two half out of it along an arm, one more
    assert inside == pytest.approx(np.full((2, 2), (1 + 1 + 1 + 0.75) / 4), abs=0.01)


def test_holes_stay_holes(tmp_path):
    """A ring of black has a hole in its region."""
    pixels = tissue_slide(1280, 1280, 1)
    cv2.rectangle(pixels, (256, 256), (767, 767), (0, 0, 0), -1)
    pixels[384:640, 384:640] = 200
    (tmp_path / "map").mkdir()
    slide = MemorySlide(pixels, 0.25)
    map_slide(slide, "s", tmp_path / "map", "k", MODEL, MapSettings(), every_tile, QUIET)
    found = json.loads((tmp_path / "map" / "map.geojson").read_text(encoding="utf-8"))["features"]
    (region,) = [f for f in found if f["properties"]["objectType"] == "annotation"]
    assert len(region["geometry"]["coordinates"]) == 2
    assert shape(region["geometry"]).area == 512**2 - 256**2


def test_of_three_classes_each_has_a_channel_and_its_regions(tmp_path):
    """Cells have the colour of the class called; there are no lesions."""

    def third(tiles):
        black, red = (tiles.max(-1) < 60), (tiles[..., 0] > 200) & (tiles[..., 1] < 60)
        shares = [black.mean((1, 2)), red.mean((1, 2))]
        return np.stack([1 - shares[0] - shares[1], *shares], 1)

    pixels = tissue_slide(1280, 960, 1)
    pixels[256:384, 256:512] = 0
    pixels[512:640, 640:768] = (255, 0, 0)
    (tmp_path / "map").mkdir()
    model = MapModel(
        third, Scheme(["rest", "black", "red"], 0, 0.5), SIDE, MPP, {"bundle": "three"}
    )
    slide = MemorySlide(pixels, 0.25)
    done = map_slide(slide, "s", tmp_path / "map", "k", model, MapSettings(), every_tile, QUIET)
    with tifffile.TiffFile(tmp_path / "map" / "heatmap.tiff") as tiff:
        image, ome = tiff.asarray(), tiff.ome_metadata
    assert image.shape == (3, 15, 20)
    assert 'Name="p black"' in ome
    assert (image[1] == 255).sum() == 2 * 4
    assert (image[2] == 255).sum() == 2 * 2
    found = json.loads((tmp_path / "map" / "map.geojson").read_text(encoding="utf-8"))["features"]
    regions = [f for f in found if f["properties"]["objectType"] == "annotation"]
    names = [f["properties"]["classification"]["name"] for f in regions]
    assert names == ["rest", "black", "red"]
    assert len({tuple(f["properties"]["classification"]["color"]) for f in regions}) == 3
    cell = (SIDE * MPP / 1000) ** 2
    assert done.row.classes["black"].mm2 == pytest.approx(8 * cell)
    assert done.row.classes["rest"].share == pytest.approx(1 - 12 / 300)
    assert not (tmp_path / "map" / "lesions.csv").exists()
