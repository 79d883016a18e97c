"""Grad-CAM in the report: the share inside the centre, the sheet, damaged or missing maps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from histo.report.gradcam import centre_of, enlarge, share_in_centre, share_inside
from histo.run.gradcam import GRADCAM, GradCam, write_gradcam
from tests.conftest import assert_one_line_error, run_histo, write_image
from tests.report.tables import page_of, patches_of, two_classes, write_run


def test_enlarging_is_bilinear_and_a_uniform_map_gives_the_centre_its_area():
    maps = np.random.default_rng(0).random((2, 3, 5))
    there = interpolate(torch.tensor(maps)[:, None], (96, 96), mode="bilinear")[:, 0].numpy()
    assert enlarge(maps, 96) == pytest.approx(there)
    assert share_inside(np.ones((1, 3, 3)), 96, 32) == pytest.approx(1 / 9)
    centre, corner, empty = np.zeros((3, 9, 9))
    centre[4, 4], corner[0, 0] = 1, 1
    shares = share_inside(np.stack([centre, corner, empty]), 96, 32)
    assert shares[:2].tolist() == pytest.approx([1, 0])
    assert np.isnan(shares[2])


def test_shares_are_means_over_the_sample_alone_and_by_class_called():
    maps = np.zeros((60, 9, 9))
    maps[:30, 4, 4] = maps[30:, 0, 0] = 1  # the first half looks at the centre
    called = ["yes"] * 20 + ["no"] * 40
    drawn = np.arange(60) % 10 != 0
    ids = [str(n) for n in range(60)]
    found = share_in_centre(GradCam(ids, called, drawn, maps, 96), 32, None)
    assert found.patches == 54
    assert found.even == pytest.approx(1 / 9)
    assert found.classes["yes"].share == pytest.approx(1)
    assert found.classes["no"].share == pytest.approx(9 / 36)
    low, high = found.classes["no"].interval
    assert low < 9 / 36 < high


def test_the_centre_is_that_of_patchcamelyon_or_what_the_user_says():
    assert (centre_of(96, False), centre_of(64, False)) == (32, 32)
    assert centre_of(224, False) == centre_of(96, True) == centre_of(48, False) == 0


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with maps of 3x3 cells of its first 40 patches of 32 px, every second a sample."""
    labels, table = two_classes()
    images = tmp_path / "images"
    images.mkdir()
    for n, pixels in enumerate(patches_of([str(n) for n in range(len(labels))])):
        write_image(images / f"{n}.png", pixels)
    folder = write_run(tmp_path / "run", images=str(images))
    write_gradcam(folder, maps_of(table))
    return folder


def maps_of(table: np.ndarray, cells: int = 3) -> GradCam:
    """Maps of the first 40 patches of a table."""
    called = [str(c) for c in (table[:40, 1] >= 0.5).astype(int)]
    maps = np.random.default_rng(0).random((40, cells, cells))
    return GradCam([str(n) for n in range(40)], called, np.arange(40) % 2 == 0, maps, 32)


@pytest.mark.slow
def test_the_report_shows_maps_and_their_share_inside_the_centre(run):
    """Patches of 32 px have no known centre: it is reported where the user gives one."""
    assert run_histo("interpret", run).exit_code == 0
    page = page_of(run / "report")
    assert "Grad-CAM: where the model looked" in page
    assert "inside the centre" not in page
    assert "gradcam" not in json.loads((run / "report" / "metrics.json").read_text())
    result = run_histo("interpret", run, "--centre", 16)
    assert result.exit_code == 0, result.output
    found = json.loads((run / "report" / "metrics.json").read_text())["gradcam"]
    assert found["even"] == pytest.approx(1 / 4)
    assert sum(part["patches"] for part in found["classes"].values()) == found["patches"] == 20
    assert "Grad-CAM inside the centre 16x16 px" in result.stdout
    assert "A uniform map would have 25.0 %" in page_of(run / "report")
    assert (run / "report" / "gradcam.png").stat().st_size > 1000


@pytest.mark.slow
def test_a_centre_that_the_maps_cannot_show_is_one_line(run):
    assert_one_line_error(run_histo("interpret", run, "--centre", 64), "32x32 px")
    write_gradcam(run, maps_of(two_classes()[1], cells=2))
    assert_one_line_error(run_histo("interpret", run, "--centre", 16), "2x2 cells")
    assert run_histo("interpret", run).exit_code == 0


@pytest.mark.slow
def test_the_maps_of_folds_are_in_one_report(run, tmp_path):
    """Half of the maps in each fold give the report of all of them in the run."""
    run_histo("interpret", run, "--centre", 16)
    whole = json.loads((run / "report" / "metrics.json").read_text())["gradcam"]
    config = json.loads((run / "config.json").read_text())
    config["folds"] = {"value": 2, "source": "given"}
    (run / "config.json").write_text(json.dumps(config))
    (run / GRADCAM).unlink()
    found = maps_of(two_classes()[1])
    for number, rows in enumerate((slice(0, 20), slice(20, 40))):
        half = GradCam(
            found.ids[rows], found.called[rows], found.drawn[rows], found.maps[rows], found.side
        )
        (run / f"fold-{number + 1}").mkdir()
        write_gradcam(run / f"fold-{number + 1}", half)
    assert run_histo("interpret", run, "--centre", 16).exit_code == 0
    assert json.loads((run / "report" / "metrics.json").read_text())["gradcam"] == whole


def test_a_damaged_file_of_maps_is_one_line(run, tmp_path):
    data = (run / GRADCAM).read_bytes()
    found = maps_of(two_classes()[1])
    (tmp_path / "short").mkdir()
    write_gradcam(tmp_path / "short", replace(found, ids=found.ids[:3]))
    short = (tmp_path / "short" / GRADCAM).read_bytes()
    for broken in (data[: len(data) // 2], b"", b"no zip", short):
        (run / GRADCAM).write_bytes(broken)
        assert_one_line_error(run_histo("interpret", run), GRADCAM, "is damaged")


@pytest.mark.slow
def test_a_run_without_maps_has_a_report_without_them(run):
    """A run of an earlier version, or of a transformer."""
    (run / GRADCAM).unlink()
    assert run_histo("interpret", run).exit_code == 0
    assert not (run / "report" / "gradcam.png").exists()
    assert "where the model looked" not in page_of(run / "report")
