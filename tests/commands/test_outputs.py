"""No command writes over an input, another output, a pipe, or a file that histo did not write."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from histo.errors import HistoError
from histo.files.outputs import Output, check_outputs, starts_with
from tests.conftest import assert_one_line_error, run_histo, write_image


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


GOLDEN = Path(__file__).parents[1] / "golden" / "bundle-2"
NAMES = ("p.csv.part", "p.csv.json", "p.csv.lock", "p.skipped.csv", "p.1-of-2.csv")


@pytest.mark.parametrize("name", NAMES)
def test_the_files_that_a_prediction_works_with_are_no_inputs(tmp_path, name):
    """Such as the list of patches that an earlier prediction left out."""
    write_image(tmp_path / "a.png", np.zeros((48, 48, 3), np.uint8))
    (tmp_path / name).write_text("id,reason\na,truncated\n")
    words = ("predict", GOLDEN, tmp_path / name, "--images", tmp_path, "--out", tmp_path / "p.csv")
    share = ("--shard", "1/2") if "-of-" in name else ()
    assert_one_line_error(run_histo(*words, *share, "--device", "cpu"), "is an input", "--out")
    assert (tmp_path / name).read_text() == "id,reason\na,truncated\n"


def test_a_link_in_place_of_the_rows_so_far_is_not_followed(tmp_path):
    """It may have come with a stranger's folder."""
    write_image(tmp_path / "a.png", np.zeros((48, 48, 3), np.uint8))
    (tmp_path / "mine.csv").write_text("mine")
    (tmp_path / "p.csv.part").symlink_to(tmp_path / "mine.csv")
    words = ("predict", GOLDEN, tmp_path / "a.png", "--out", tmp_path / "p.csv", "--device", "cpu")
    assert run_histo(*words).exit_code == 0
    assert (tmp_path / "mine.csv").read_text() == "mine"
    assert not (tmp_path / "p.csv").is_symlink()
    assert (tmp_path / "p.csv").read_text().startswith("id,predicted,")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux has it")
@pytest.mark.parametrize("name", ["/proc/self/fd/{}", "/dev/fd/{}", "/dev/stdout", "/dev/new.csv"])
def test_no_name_beside_devices_is_written(tmp_path, name):
    """Not even where it leads to a regular file: that of the device would be replaced."""
    with (tmp_path / "p.csv").open("w") as file:
        output = Output(Path(name.format(file.fileno())), "out", starts_with("id", "predicted"))
        with pytest.raises(HistoError, match=r"a folder of devices|is a pipe or a device"):
            check_outputs([output], force=True)
