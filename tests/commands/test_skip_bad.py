"""Odd files do not stop a job: what cannot be used is left out, listed, and told by the exit status."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import histo
from tests.conftest import TINY, assert_one_line_error, rows_of, run_histo, write_image


@pytest.fixture
def odd(dataset: Path, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The labelled patches, two of them cut at a slide's edge and one no image; and the reasons."""
    data = tmp_path / "data"
    shutil.copytree(dataset / "train", data / "train")
    shutil.copy(dataset / "train_labels.csv", data)
    files = sorted((data / "train").iterdir())
    for path in (files[0], files[90]):
        write_image(path, np.full((48, 8, 3), 200, np.uint8))
    files[50].write_text("no image")
    said = {files[0].stem: "8x48 px", files[90].stem: "8x48 px", files[50].stem: "is not a TIF"}
    return data, said


def listed(path: Path, said: dict[str, str]) -> None:
    """The list names these ids, with these reasons, and no others."""
    rows = {row["id"]: row["reason"] for row in rows_of(path)}
    assert rows.keys() == said.keys()
    assert all(said[name] in why for name, why in rows.items())


def test_predict_leaves_them_out_and_the_others_are_as_without_them(odd, tiny_run, tmp_path):
    data, said = odd
    words = ("predict", tiny_run / "export", data / "train", "--device", "cpu")
    out = tmp_path / "p.csv"
    assert_one_line_error(run_histo(*words, "--out", out), "not square (--skip-bad leaves")
    result = run_histo(*words, "--out", out, "--skip-bad")
    assert result.exit_code == 3
    assert "error: done, but without the patches in" in result.stderr
    listed(tmp_path / "p.skipped.csv", said)
    rows = rows_of(out)
    assert len(rows) == 157
    assert not said.keys() & {row["id"] for row in rows}
    for name in said:
        (data / "train" / f"{name}.tif").unlink()
    again = tmp_path / "again.csv"
    assert run_histo(*words, "--out", again, "--skip-bad").exit_code == 0
    assert not (tmp_path / "again.skipped.csv").exists()
    for one, other in zip(rows, rows_of(again), strict=True):
        assert one["id"] == other["id"]
        assert float(one["p_1"]) == pytest.approx(float(other["p_1"]), abs=1e-5)


def test_shares_of_a_prediction_leave_them_out_when_they_are_joined(odd, tiny_run, tmp_path):
    data, said = odd
    words = ("predict", tiny_run / "export", data / "train", "--device", "cpu", "--skip-bad")
    for share in ("1/2", "2/2"):
        assert run_histo(*words, "--out", tmp_path / "p.csv", "--shard", share).exit_code == 0
    assert run_histo("merge", tmp_path).exit_code == 3
    listed(tmp_path / "p.skipped.csv", said)
    assert len(rows_of(tmp_path / "p.csv")) == 157


@pytest.mark.slow
def test_evaluate_leaves_them_out(odd, tiny_run, tmp_path):
    data, said = odd
    words = ("evaluate", tiny_run / "export", data, "--device", "cpu", "--out", tmp_path / "e")
    result = run_histo(*words, "--skip-bad")
    assert result.exit_code == 3, result.output
    listed(tmp_path / "e" / "skipped.csv", said)
    assert len(rows_of(tmp_path / "e" / "predictions.csv")) == 157


@pytest.mark.slow
@pytest.mark.parametrize("store", [True, False])
def test_train_leaves_them_out_with_a_store_and_without(odd, weights, tmp_path, store):
    """With a store a second training does so too, and one that is not told to stops."""
    data, said = odd
    words = ["train", data, *TINY, "--weights", weights, "--epochs", 1]
    words = [word for word in words if not (store and word == "--no-store")]
    for name in ("one", "two"):
        result = run_histo(*words, "--skip-bad", "--out", tmp_path / name)
        assert result.exit_code == 3, result.output
        assert "3 patches left out that cannot be used" in result.stdout
        listed(tmp_path / name / "skipped.csv", said)
        assert len(rows_of(tmp_path / name / "split.csv")) == 157
    assert run_histo(*words, "--out", tmp_path / "three").exit_code == 1


def test_check_lists_them_as_exclusions_and_then_training_begins(odd, weights, tmp_path):
    data, said = odd
    out = tmp_path / "x.csv"
    result = run_histo("check", data, "--out", tmp_path / "c", "--write-exclusions", out)
    assert result.exit_code == 1
    assert "2 patches not of 48x48 px" in result.stdout
    assert "size of" not in result.stdout
    reasons = {row["id"]: row["reason"] for row in rows_of(out)}
    assert said.keys() <= reasons.keys()
    words = (*TINY, "--weights", weights, "--epochs", 1, "--exclude", out, "--out", tmp_path / "r")
    assert run_histo("train", data, *words).exit_code == 0


def test_the_way_out_of_another_size_exists_in_that_command(tiny_run, tmp_path):
    write_image(tmp_path / "a.png", np.full((96, 96, 3), 180, np.uint8))
    words = ("predict", tiny_run / "export", tmp_path / "a.png", "--out", tmp_path / "p.csv")
    result = run_histo(*words)
    assert_one_line_error(
        result, "--skip-bad leaves such patches out", "resize them to 48x48 px first"
    )
    assert "--size" not in result.stderr
    with pytest.raises(histo.HistoError, match="skip_bad= leaves such patches out"):
        histo.predict(tiny_run / "export", tmp_path / "a.png", out=tmp_path / "p.csv")
