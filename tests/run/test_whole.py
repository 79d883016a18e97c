"""A run that was cut says so, in the terminal and in what is made from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from histo.run.whole import KEPT
from tests.conftest import TINY, assert_one_line_error, run_histo, unfinish


@pytest.fixture
def cut(tiny_run: Path, tmp_path: Path) -> Path:
    """The run as it is when it is killed after its first epoch."""
    run = tmp_path / "cut"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("report", "export"))
    unfinish(run)
    lines = (run / "history.csv").read_text().splitlines(keepends=True)
    (run / "history.csv").write_text("".join(lines[:2]))
    (run / "checkpoint" / KEPT).write_text('{"epoch": 1}')
    return run


@pytest.mark.slow
def test_report_and_bundle_of_a_run_that_was_cut_say_so_first_and_inside(cut):
    said = "1 of 3 epochs are trained; the weights are those of epoch 1"
    for verb in ("interpret", "export", "review"):
        result = run_histo(verb, cut)
        assert result.exit_code == 0, result.output
        first = next(line for line in result.stdout.splitlines() if "note" in line)
        assert said in first
        assert f"histo train --resume {cut}" in result.stdout
    assert said in (cut / "report" / "report.html").read_text()
    assert said in json.loads((cut / "report" / "metrics.json").read_text())["unfinished"]
    assert said in json.loads((cut / "export" / "model.json").read_text())["unfinished"]


def test_weights_of_one_epoch_are_never_joined_with_figures_of_another(cut):
    (cut / "checkpoint" / KEPT).unlink()
    (cut / "checkpoint" / "last.safetensors").write_bytes(b"")
    for words in (["interpret", cut], ["export", cut], ["review", cut], ["compare", cut, cut]):
        result = run_histo(*words)
        assert_one_line_error(result, "may be of different epochs", f"train --resume {cut}")
    assert not (cut / "export").exists()


@pytest.mark.slow
def test_a_finished_run_says_nothing_of_it(tiny_run, tmp_path):
    result = run_histo("interpret", tiny_run, "--out", tmp_path / "report")
    assert "not finished" not in result.stdout
    assert "unfinished" not in json.loads((tmp_path / "report" / "metrics.json").read_text())


@pytest.mark.slow
def test_what_was_made_before_a_resumed_run_had_ended_is_named(dataset, tmp_path, monkeypatch):
    from histo.training.recording import Recording

    words = ["train", dataset, *TINY, "--weights", "none", "--epochs", 1, "--out", tmp_path / "run"]

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Recording, "finish", fail)
    assert_one_line_error(run_histo(*words), "make room, then resume")
    monkeypatch.undo()
    assert "has not finished" in run_histo("interpret", tmp_path / "run").stdout
    assert_one_line_error(run_histo(*words), "never overwritten", "histo train --resume")
    result = run_histo("train", "--resume", tmp_path / "run")
    assert f"note: {tmp_path / 'run' / 'report'} was made before the training had ended" in (
        result.stdout
    )


def test_a_report_is_never_written_over_files_of_others(tiny_run, tmp_path):
    (tmp_path / "roc.png").write_text("mine")
    result = run_histo("interpret", tiny_run, "--out", tmp_path)
    assert_one_line_error(result, "holds files that are not of a report", "--out")
    assert (tmp_path / "roc.png").read_text() == "mine"
