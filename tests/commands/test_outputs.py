"""No command writes over an input, another output, a pipe, or a file that histo did not write."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from tests.conftest import assert_one_line_error, run_histo


@pytest.fixture(scope="module")
def bundle(tiny_run, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("bundle") / "b"
    assert run_histo("export", tiny_run, "--out", place).exit_code == 0
    return place


@pytest.fixture
def data(dataset, tmp_path) -> Path:
    """A copy of the data set with a CSV of names."""
    shutil.copytree(dataset, tmp_path / "data", ignore=shutil.ignore_patterns(".histo"))
    names = sorted(path.name for path in (tmp_path / "data" / "train").iterdir())
    (tmp_path / "data" / "names.csv").write_text("\n".join(["id", *names[:8]]) + "\n")
    return tmp_path / "data"


def test_the_labels_never_become_the_exclusions(data):
    """By any spelling of their path, and through a link."""
    labels = data / "train_labels.csv"
    before = labels.read_bytes()
    (data / "link.csv").symlink_to(labels)
    (data / "hard.csv").hardlink_to(labels)
    for name in (labels, data / "train" / ".." / labels.name, data / "link.csv", data / "hard.csv"):
        for force in ((), ("--force",)):
            words = ("check", data, "--out", data.with_name("out"), "--write-exclusions", name)
            assert_one_line_error(run_histo(*words, *force), "is an input", "--write-exclusions")
    assert labels.read_bytes() == before


def test_a_table_of_names_is_not_written_over(bundle, data):
    names = data / "names.csv"
    before = names.read_bytes()
    words = ("predict", bundle, names, "--images", data / "train")
    assert_one_line_error(run_histo(*words, "--out", names), "is an input", "--out")
    result = run_histo(*words, "--out", data / "p.csv", "--submission", names)
    assert_one_line_error(result, "is an input", "--submission")
    assert names.read_bytes() == before


def test_two_outputs_are_never_one_file(bundle, data, tmp_path):
    (tmp_path / "here").symlink_to(tmp_path)
    for other in (tmp_path / "p.csv", tmp_path / "here" / "p.csv"):
        words = ("predict", bundle, data / "train", "--out", tmp_path / "p.csv")
        assert_one_line_error(run_histo(*words, "--submission", other), "two outputs")
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("output", ["--out", "--submission"])
def test_a_pipe_stays_a_pipe(bundle, data, tmp_path, output):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    others = () if output == "--out" else ("--out", tmp_path / "p.csv")
    for name in ("pipe", "link"):
        words = ("predict", bundle, data / "train", output, tmp_path / name, *others, "--force")
        assert_one_line_error(run_histo(*words), "is a pipe or a device")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_file_of_somebody_elses_is_written_over_on_force_alone(bundle, data, tmp_path):
    """A table that histo wrote is renewed without it."""
    mine = tmp_path / "notes.csv"
    mine.write_text("id,remark\np0,fine\n")
    words = ("predict", bundle, data / "train", "--out", mine)
    assert_one_line_error(run_histo(*words), "is not what histo writes there", "--force")
    assert mine.read_text() == "id,remark\np0,fine\n"
    assert run_histo(*words, "--force").exit_code == 0
    assert mine.read_text().startswith("id,predicted,")
    assert run_histo(*words).exit_code == 0
    table = tmp_path / "c.json"
    table.write_text("{}")
    assert_one_line_error(run_histo("compare", mine, mine, "--out", mine), "is an input")
