"""Paths that no file can have are one line, whatever the command: loops of links, long names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import assert_one_line_error, run_histo


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("check", "{data}", "--out", "{loop}"), "loop"),
        (("interpret", "{run}", "--out", "{loop}"), "loop"),
        (("review", "{run}", "--out", "{loop}"), "loop"),
        (("predict", "{run}/export", "{looped}", "--out", "{new}.csv"), "symbolic links"),
        (("check", "{data}", "--out", "{long}"), "name too long"),
        (("export", "{run}", "--out", "{long}"), "name too long"),
        (("predict", "{run}/export", "{data}/test", "--out", "{long}.csv"), "name too long"),
        (("train", "--resume", "{long}"), "name too long"),
        (("interpret", "{run}", "--out", "{data}/train_labels.csv/x"), "train_labels.csv"),
    ],
)
def test_a_path_that_no_file_can_have_is_one_line(tiny_run, dataset, tmp_path, words, said):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "looped").mkdir()
    (tmp_path / "looped" / "loop").symlink_to("loop")
    places = {"loop": tmp_path / "loop", "looped": tmp_path / "looped", "new": tmp_path / "new"}
    places |= {"data": dataset, "run": tiny_run, "long": tmp_path / ("x" * 300)}
    assert_one_line_error(run_histo(*[word.format(**places) for word in words]), said)


@pytest.mark.slow
@pytest.mark.parametrize("made", ["link", "folder"])
def test_what_is_no_lock_file_is_not_locked(tiny_run, dataset, tmp_path, made):
    """A lock file that came with somebody's data: filelock would empty what it names."""
    store, labels = tmp_path / "store", tmp_path / "mine"
    labels.write_text("mine")
    words = ("train", dataset, "--store", store, "--arch", "squeezenet1_1", "--weights", "none")
    words += ("--epochs", 1, "--device", "cpu", "--out")
    assert run_histo(*words, tmp_path / "a").exit_code == 0
    (index,) = store.glob("*.npz")
    index.unlink()
    lock = index.with_suffix(".lock")
    lock.unlink(missing_ok=True)
    if made == "link":
        lock.symlink_to(labels)
    else:
        lock.mkdir()
    assert_one_line_error(run_histo(*words, tmp_path / "b"), str(lock))
    assert labels.read_text() == "mine"
    assert not (tmp_path / "b").exists()


def test_a_report_does_not_go_among_the_patches(tiny_run, dataset):
    """Its pictures would be patches at the next training."""
    before = sorted(Path(dataset / "train").iterdir())
    result = run_histo("interpret", tiny_run, "--out", dataset / "train")
    assert_one_line_error(result, "holds files that are not of a report", "--out")
    assert sorted(Path(dataset / "train").iterdir()) == before
