"""The figures of a report: which there are, their order, and what drawing leaves untouched."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from histo.errors import HistoError
from histo.report.figures import FIGURES
from histo.report.report import write_report
from histo.report.subject import Subject
from histo.run.gradcam import GradCam
from tests.report.tables import (
    QUIET,
    many_classes,
    one_class,
    page_of,
    patches_of,
    predictions,
    report_from_python,
    two_classes,
    write_table,
)

ALWAYS = {"confusion_matrix", "scores", "reliability", "selective"}
DRAWING = """
import importlib, pkgutil, sys
from pathlib import Path

import matplotlib

folder, table, pyplot = sys.argv[1:]
if pyplot == "pyplot":
    from matplotlib import pyplot as plt
    plt.switch_backend("svg")
settings = lambda: dict(dict.items(matplotlib.rcParams))  # reading `backend` imports pyplot
before = settings()
import histo.report
for module in pkgutil.iter_modules(histo.report.__path__, "histo.report."):
    importlib.import_module(module.name)
from histo.report.report import write_report
from histo.report.subject import Subject
from histo.run.predictions import read_predictions
from histo.screen import Screen
import numpy as np
read = lambda ids: [np.zeros((32, 32, 3), np.uint8) for _ in ids]
write_report(Path(folder), read_predictions(Path(table)), Subject(), Screen(quiet=True), read=read)
assert settings() == before
if pyplot == "pyplot":
    assert plt.get_backend() == "svg" and not plt.get_fignums()
else:
    assert "matplotlib.pyplot" not in sys.modules
"""
"""Run in a process of its own: this one has imported pyplot long ago."""


def maps_of(count: int) -> GradCam:
    """Maps of the first patches, of which half are to be looked at."""
    _, table = two_classes()
    called = [str(c) for c in (table[:count, 1] >= 0.5).astype(int)]
    maps = np.random.default_rng(0).random((count, 4, 4))
    return GradCam(
        [str(n) for n in range(count)], called, np.arange(count) % 2 == 0, maps / maps.max(), 32
    )


def drawn_in(folder) -> set[str]:
    """The names of the figures in a folder, each there as PNG and SVG."""
    names = {path.stem for path in folder.glob("*.png")}
    assert names == {path.stem for path in folder.glob("*.svg")}
    return names


@pytest.mark.slow
@pytest.mark.parametrize("pyplot", ["none", "pyplot"])
def test_drawing_leaves_matplotlib_as_it_was(tmp_path, pyplot):
    """Neither the backend nor a setting changes, no figure stays open, pyplot is not imported."""
    table = write_table(tmp_path, *two_classes())
    command = [sys.executable, "-c", DRAWING, tmp_path / "report", table, pyplot]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stdout
    assert done.returncode == 0, done.stderr
    assert "roc" in drawn_in(tmp_path / "report")


@pytest.mark.slow
def test_a_report_with_patches_and_maps_has_every_figure_in_the_order_of_the_list(tmp_path):
    report_from_python(tmp_path, read=patches_of, gradcam=maps_of(40), centre=16)
    assert drawn_in(tmp_path) == {figure.name for figure in FIGURES}
    page = page_of(tmp_path)
    places = [page.index(f'alt="{figure.caption}"') for figure in FIGURES]
    assert places == sorted(places)


def test_a_table_without_patches_has_no_sheets(tmp_path):
    report_from_python(tmp_path, gradcam=maps_of(40), centre=16)
    assert drawn_in(tmp_path) == ALWAYS | {"roc", "precision_recall"}
    assert "<h2>Mistakes</h2>" not in page_of(tmp_path)
    assert "Grad-CAM inside the centre 16x16 px" in page_of(tmp_path)


@pytest.mark.slow
def test_figures_of_an_earlier_report_that_no_longer_apply_are_removed(tmp_path):
    """Those of another table, and those that earlier versions called otherwise."""
    report_from_python(tmp_path, read=patches_of, gradcam=maps_of(40), centre=16)
    for suffix in ("png", "svg"):
        (tmp_path / f"attention.{suffix}").write_text("of histo 0.1")
    (tmp_path / "mine.png").write_text("the user's own")
    (tmp_path / "mine.svg").write_text("the user's own")
    write_report(tmp_path, predictions(*one_class()), Subject("one"), QUIET)
    assert drawn_in(tmp_path) == ALWAYS | {"mine"}
    assert "Sensitivity against false positive rate" not in page_of(tmp_path)


def test_many_classes_have_the_same_curves(tmp_path):
    write_report(tmp_path, predictions(*many_classes()), Subject("many"), QUIET)
    assert drawn_in(tmp_path) == ALWAYS | {"roc", "precision_recall"}


def test_patches_that_are_not_found_leave_the_rest_of_the_report(tmp_path):
    def missing(ids):
        raise HistoError(f"no patch {ids[0]} in there")

    report_from_python(tmp_path, read=missing)
    assert drawn_in(tmp_path) == ALWAYS | {"roc", "precision_recall"}


@pytest.mark.slow
def test_maps_of_patches_of_another_size_are_not_drawn(tmp_path):
    """The patches have been changed since."""

    def larger(ids):
        return [np.zeros((48, 48, 3), np.uint8) for _ in ids]

    report_from_python(tmp_path, read=larger, gradcam=maps_of(40), centre=16)
    assert "mistakes" in drawn_in(tmp_path)
    assert "gradcam" not in drawn_in(tmp_path)
