"""A set that ships as folders, from check to evaluate, without a table."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import histo
from tests.conftest import TINY, assert_one_line_error, rows_of, run_histo


@pytest.fixture(scope="module")
def idc(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PATIENT/CLASS/*.tif, as IDC ships: 160 patches of 8 patients."""
    folder = tmp_path_factory.mktemp("idc")
    for n, row in enumerate(rows_of(dataset / "train_labels.csv")):
        place = folder / f"{8860 + n % 8}" / row["label"]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(dataset / "train" / f"{row['id']}.tif", place / f"x{n}.tif")
    return folder


@pytest.fixture(scope="module")
def run(idc: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on it, by patient."""
    out = tmp_path_factory.mktemp("runs") / "idc"
    result = run_histo("train", idc, *TINY, "--weights", weights, "--epochs", 1, "--out", out)
    assert result.exit_code == 0, result.output
    assert "by folder: none of 8 is on both sides" in result.stdout
    assert run_histo("interpret", out).exit_code == 0
    assert run_histo("export", out).exit_code == 0
    return out


def test_check_finds_the_set_ready(idc, tmp_path):
    result = run_histo("check", idc, "--out", tmp_path / "check")
    assert result.exit_code == 0, result.output
    assert "classes from level 2: 0, 1 (2); groups from level 1: 8860, 8861" in result.stdout
    assert "8 groups (folder)" in result.stdout


def test_the_run_holds_paths_and_patients(idc, run):
    rows = rows_of(run / "split.csv")
    assert len(rows) == 160
    assert all((idc / row["id"]).is_file() for row in rows)
    assert {row["id"].split("/")[0] == row["group"] for row in rows} == {True}
    sides = {(row["group"], row["split"]) for row in rows}
    assert len(sides) == 8


@pytest.mark.slow
def test_predict_and_evaluate_descend_and_agree(idc, run, tmp_path):
    words = (run / "export", idc, "--device", "cpu", "--out")
    assert run_histo("predict", *words, tmp_path / "p.csv").exit_code == 0
    result = run_histo("evaluate", *words, tmp_path / "e")
    assert result.exit_code == 0, result.output
    predicted = {row["id"]: row["p_1"] for row in rows_of(tmp_path / "p.csv")}
    judged = {row["id"]: row["p_1"] for row in rows_of(tmp_path / "e" / "predictions.csv")}
    assert predicted == judged
    assert len(predicted) == 160
    assert {row["group"] for row in rows_of(tmp_path / "e" / "split.csv")} == {
        str(8860 + n) for n in range(8)
    }
    table = histo.load(run / "export").predict(idc)
    assert table["id"].tolist() == list(predicted)


def test_a_folder_a_class_of_other_names_is_refused_by_evaluate(run, dataset, tmp_path):
    place = tmp_path / "set" / "benign"
    place.mkdir(parents=True)
    shutil.copy(next((dataset / "train").iterdir()), place)
    shutil.copytree(place, tmp_path / "set" / "malignant")
    result = run_histo("evaluate", run / "export", tmp_path / "set", "--out", tmp_path / "e")
    assert_one_line_error(
        result, "set/benign/", "label 'benign' is not a class of the bundle (0, 1)"
    )


def test_several_inputs_make_one_table(idc, run, tmp_path):
    words = (idc / "8860", idc / "8861" / "1", "--device", "cpu", "--out", tmp_path / "p.csv")
    assert run_histo("predict", run / "export", *words).exit_code == 0
    assert len(rows_of(tmp_path / "p.csv")) == 20 + len(list((idc / "8861" / "1").iterdir()))
