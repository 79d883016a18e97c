"""From an annotated slide to maps: histo cut, train, export and map, each a process of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.conftest import TINY, histo_process, rows_of
from tests.slides.made import tissue_slide, write_slide

SIDE, MPP = 48, 0.5
"""px and µm per px of the patches; the slide that is mapped has half the µm per px."""
TUMOUR = (96, 96, 96 + 6 * SIDE, 96 + 12 * SIDE)


def ran(*words):
    done = histo_process(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def annotated_slide(path, scale):
    """A slide whose annotated half is darker, at `scale` px for each px at MPP."""
    pixels = tissue_slide(14 * SIDE + 96, 14 * SIDE + 96)
    x0, y0, x1, y1 = TUMOUR
    pixels[y0:y1, x0:x1] = (110, 60, 130)
    noise = np.random.default_rng(0).integers(-12, 12, pixels.shape)
    pixels = (pixels + noise).clip(0, 255).astype(np.uint8)
    write_slide(path, pixels.repeat(scale, 0).repeat(scale, 1), MPP / scale)
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    outline = [[x * scale, y * scale] for x, y in ring]
    kind = {"classification": {"name": "Tumor", "color": [200, 0, 0]}}
    geometry = {"type": "Polygon", "coordinates": [outline]}
    drawn = [{"type": "Feature", "geometry": geometry, "properties": kind}]
    notes = path.parent / "notes"
    notes.mkdir(exist_ok=True)
    (notes / f"{path.stem}.geojson").write_text(json.dumps(drawn))
    return notes


@pytest.mark.slow
def test_cut_train_and_map_close_the_ring(tmp_path):
    """The map reads the slide at the pixel size that cut wrote and train kept.

    No command is told it: the tiles of the map are the patches of the cut, place by place.
    """
    notes = annotated_slide(tmp_path / "s1.tif", 1)
    annotated_slide(tmp_path / "s2.tif", 2)
    words = ("--annotations", notes, "--background", "normal", "--mpp", MPP, "--size", SIDE)
    data, run, maps = tmp_path / "data", tmp_path / "run", tmp_path / "maps"
    ran("cut", tmp_path / "s1.tif", tmp_path / "s2.tif", *words, "--out", data)
    words = ("--groups", data / "groups.csv", "--valid-pct", 50, "--weights", "none")
    said = ran("train", data, *TINY, *words, "--epochs", 1, "--out", run)
    assert f"{MPP} µm per px ({data / 'cut.json'})" in said
    ran("export", run)
    ran("map", run / "export", tmp_path / "s2.tif", "--out", maps)
    row = next(iter(rows_of(maps / "slides.csv")))
    assert not row["error"]
    tiles = rows_of(next(maps.rglob("tiles.csv")))
    cut = [r for r in rows_of(data / "tiles.csv") if r["slide"] == "s2"]
    place = ("x", "y", "width", "height")
    mapped = {tuple(round(float(r[name])) for name in place) for r in tiles}
    assert {tuple(round(float(r[name])) for name in place) for r in cut} <= mapped
    predicted = tmp_path / "predictions.csv"
    ran("predict", run / "export", data / "train" / "s2", "--out", predicted)
    by_place = {(r["x"], r["y"]): float(r["p_Tumor"]) for r in tiles}
    for r in rows_of(predicted):
        assert by_place[tuple(r["id"].split("_"))] == pytest.approx(float(r["p_Tumor"]), abs=0.01)

    judged = tmp_path / "judged"
    ran("evaluate", run / "export", tmp_path / "s2.tif", "--annotations", notes, "--out", judged)
    (found,) = rows_of(judged / "by_slide.csv")
    x0, y0, x1, y1 = (2 * side for side in TUMOUR)  # s2 has twice the px
    middles = [(int(r["x"]) + SIDE, int(r["y"]) + SIDE) for r in tiles]
    inside = [x0 <= x <= x1 and y0 <= y <= y1 for x, y in middles]
    scores = [float(r["p_Tumor"]) for r in tiles]
    assert int(found["tiles_inside"]) == sum(inside)
    assert float(found["tile_auc"]) == pytest.approx(roc_auc_score(inside, scores), abs=1e-4)
    assert float(found["score"]) == pytest.approx(np.mean(sorted(scores)[-10:]), abs=1e-6)
