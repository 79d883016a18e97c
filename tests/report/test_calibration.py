"""Temperature scaling, and the metrics of calibration with and without it."""

from __future__ import annotations

import numpy as np
import pytest

from histo.report.calibration import calibrate, reliability
from histo.run.calls import apply_temperature
from tests.report.tables import one_class, page_of, report_of, two_classes, write_table


@pytest.mark.slow
def test_an_overconfident_table_gets_the_temperature_that_mends_it(tmp_path):
    labels, table = two_classes(2000)
    sure = apply_temperature(table, 1 / 3)
    write_table(tmp_path, labels, sure)
    found = report_of(tmp_path)["calibration"]
    honest = calibrate(labels, table).temperature
    assert found["temperature"] == pytest.approx(3 * honest, rel=0.01)
    assert found["after"]["log_loss"] < found["before"]["log_loss"]
    assert "Temperature" in page_of(tmp_path / "report")
    assert found["after"]["error"] < found["before"]["error"]


def test_a_calibrated_table_is_left_alone():
    rng = np.random.default_rng(3)
    scores = rng.random(500)
    labels = (rng.random(500) < scores).astype(int)
    found = calibrate(labels, np.stack([1 - scores, scores], 1))
    assert 0.8 < found.temperature < 1.25


def test_patches_of_one_class_fit_no_temperature():
    found = calibrate(*one_class())
    assert found.temperature == 1
    assert found.after is None


def test_the_bins_of_the_reliability_diagram_hold_equal_counts():
    """Mean probability and frequency of class 1 in each; the error is their weighted distance."""
    labels, table = two_classes(150)
    bins = reliability(labels, table)
    assert set(bins.counts) == {10}
    lowest = np.argsort(table[:, 1])[:10]
    assert bins.confidence[0] == pytest.approx(table[lowest, 1].mean())
    assert bins.accuracy[0] == pytest.approx(labels[lowest].mean())
    assert bins.error == pytest.approx(np.abs(bins.confidence - bins.accuracy).mean())
