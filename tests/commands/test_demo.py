"""histo demo."""

from __future__ import annotations

import pytest

import histo
from histo.data.labels import read_labels
from tests.conftest import assert_one_line_error, rows_of, run_histo


@pytest.mark.slow
def test_the_demo_goes_the_whole_way(tmp_path, capsys):
    """Smaller than the command's, by its Python function."""
    small = {"patches": 64, "epochs": 1, "arch": "squeezenet1_1"}
    assert histo.demo(tmp_path / "demo", progress=True, **small) == tmp_path / "demo"
    said = capsys.readouterr().out
    for verb in ("check", "train", "interpret", "export", "predict"):
        assert f"$ histo {verb}" in said
    last = said.rstrip().splitlines()[-1]
    assert last.endswith(f"histo serve {tmp_path / 'demo'}")
    assert "on 17 patches it never saw: AUC" in said
    assert len(rows_of(tmp_path / "demo" / "predictions.csv")) == 17
    assert len(read_labels(tmp_path / "demo" / "data" / "train_labels.csv")) == 64
    assert_one_line_error(run_histo("demo", tmp_path / "demo"), "is not empty")
