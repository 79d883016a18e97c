"""histo interpret, as a user calls it."""

from __future__ import annotations

import base64
import csv
import json
import re

import numpy as np
import pytest

from histo.run.predictions import write_predictions
from tests.conftest import assert_one_line_error, run_histo


@pytest.mark.slow
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


def test_a_centre_that_cannot_be_used_is_said(tmp_path):
    """A table of any other system has no Grad-CAM maps."""
    values = np.array([[0.9, 0.1], [0.2, 0.8]])
    write_predictions(tmp_path / "p.csv", list("ab"), ["n", "t"], values, ["n", "t"])
    result = run_histo("interpret", tmp_path / "p.csv", "--centre", 32, "--out", tmp_path / "out")
    assert "note: a centre of 32 px is not used" in result.stdout


def test_a_table_without_labels_is_refused_with_a_way_out(tmp_path):
    (tmp_path / "p.csv").write_text("id,predicted,p_0,p_1\na,0,0.9,0.1\n")
    result = run_histo("interpret", tmp_path / "p.csv")
    assert_one_line_error(result, "no labels (histo evaluate judges a bundle", "histo compare")


@pytest.mark.slow
def test_names_of_the_downloads_are_no_formulas(tmp_path):
    """A class called =1+1 would be run by a spreadsheet."""
    names, values = ["=1+1", "b"], np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6]])
    write_predictions(
        tmp_path / "p.csv", list("abcd"), [names[n] for n in (0, 1, 1, 0)], values, names
    )
    result = run_histo("interpret", tmp_path / "p.csv", "--positive", "b", "--out", tmp_path / "o")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "o" / "report.html").read_text()
    tables = [
        base64.b64decode(part).decode() for part in re.findall(r"base64,([^\"]+)\" download", page)
    ]
    cells = [cell for table in tables for row in csv.reader(table.splitlines()) for cell in row]
    assert "'=1+1" in cells
    assert not [cell for cell in cells if cell.startswith("=")]
