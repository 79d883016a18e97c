"""histo interpret, as a user calls it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from histo.run.predictions import write_predictions
from tests.conftest import assert_one_line_error, run_histo


def test_interpret_draws_every_figure_twice_and_prints_the_table(tiny_run, tmp_path):
    result = run_histo("interpret", tiny_run, "--out", tmp_path / "report")
    for name in ("roc", "confusion_matrix", "precision_recall", "scores", "mistakes"):
        for suffix in ("png", "svg"):
            assert (tmp_path / "report" / f"{name}.{suffix}").stat().st_size > 1000
    for word in ("AUC", "sensitivity", "specificity", "F1", "log loss", "(Youden)"):
        assert word in result.stdout


def test_interpret_reads_a_table_of_any_other_system(tmp_path):
    table = tmp_path / "theirs.csv"
    values = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6]])
    write_predictions(table, list("abcd"), ["n", "t", "t", "n"], values, ["n", "t"])
    result = run_histo("interpret", table, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["roc_auc"] == 0.75
    assert metrics["at_0.5"]["confusion_matrix"] == [[1, 1], [1, 1]]
    assert "(give --images)" in result.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the columns must be"),
        ("id,label,p_0,p_1\n", "has no rows"),
        ("id,label,p_0,p_1\na,0,0.5\n", "row 1: 3 values"),
        ("id,label,p_0,p_1\na,2,0.5,0.5\n", "row 1: label '2' has no column"),
        ("id,label,p_0,p_1\na,0,x,0.5\n", "row 1: a probability is not a number"),
        ("id,label,p_0,p_1\na,0,nan,0.5\n", "row 1: the probabilities do not add up"),
    ],
)
def test_a_bad_predictions_table_is_one_line(tmp_path, text, said):
    (tmp_path / "p.csv").write_text(text)
    assert_one_line_error(run_histo("interpret", tmp_path / "p.csv"), said)
