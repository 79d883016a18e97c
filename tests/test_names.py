"""Class names of every kind, and terminals of every encoding."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from histo.data.synth import synthetic_patches
from histo.text import width_of
from tests.conftest import TINY, assert_one_line_error, histo_process, run_histo, write_image

NAMES = (
    "$\\frac{1}{2$",
    "<script>alert(1)</script>",
    "abc\u200bcba",
    "a_b^c & d" + "x" * 190,
    "Größe … 癌",
)


@pytest.fixture(scope="module")
def oddly_named(tmp_path_factory) -> Path:
    """A data set with a class for each of the names."""
    data = tmp_path_factory.mktemp("named")
    (data / "train").mkdir()
    with (data / "train_labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "label"])
        for n, (patch, _) in enumerate(synthetic_patches(48, seed=1, side=32)):
            write_image(data / "train" / f"p{n:02}.png", patch)
            table.writerow([f"p{n:02}", NAMES[n % len(NAMES)]])
    return data


@pytest.fixture(scope="module")
def odd_run(oddly_named, weights, tmp_path_factory) -> Path:
    """A run on them."""
    run = tmp_path_factory.mktemp("odd") / "run"
    words = ("--weights", weights, "--epochs", 1, "--freeze-epochs", 0, "--out", run, *TINY)
    result = run_histo("train", oddly_named, *words)
    assert result.exit_code == 0, result.output
    return run


def assert_harmless(text: str) -> None:
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.slow
def test_any_class_name_trains_is_drawn_exported_predicted_and_evaluated(
    oddly_named, odd_run, tmp_path
):
    """No terminal obeys a name, no page runs it, and every table has it as it was given."""
    bundle, table = odd_run / "export", tmp_path / "p.csv"
    for words in (
        ("interpret", odd_run),
        ("export", odd_run),
        ("predict", bundle, oddly_named / "train", "--out", table),
        ("evaluate", bundle, oddly_named, "--out", tmp_path / "evaluated"),
        ("check", oddly_named, "--out", tmp_path / "check"),
    ):
        result = run_histo(*words)
        assert result.exit_code == 0, result.output
        assert_harmless(result.output)
    for page in (odd_run / "report" / "report.html", tmp_path / "evaluated/report/report.html"):
        text = page.read_text("utf-8")
        assert "<script>alert" not in text
        assert_harmless(text)
    assert set(json.loads((bundle / "model.json").read_text("utf-8"))["vocab"]) == set(NAMES)
    with table.open(newline="", encoding="utf-8") as file:
        assert {row["predicted"] for row in csv.DictReader(file)} <= set(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_an_encoding_lacks_is_replaced_on_both_streams(oddly_named, encoding, tmp_path):
    env = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
    fine = histo_process(
        "check", oddly_named, "--out", tmp_path / "Größe癌", env=env, encoding=encoding
    )
    assert fine.returncode == 0, fine.stderr
    assert "\\u764c" in fine.stdout
    wrong = histo_process("predict", tmp_path / "癌…", tmp_path, env=env, encoding=encoding)
    assert wrong.returncode == 1
    assert "Traceback" not in wrong.stderr
    assert len(wrong.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["\x1b[31mred\x1b[0m", "two\nlines", "x" * 201, "abc\u202ecba"])
def test_a_name_that_no_class_can_have_is_refused_by_its_line(name, tmp_path):
    (tmp_path / "train").mkdir()
    for n in range(2):
        write_image(tmp_path / "train" / f"p{n}.png", np.zeros((32, 32, 3), np.uint8))
    with (tmp_path / "train_labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "label"], ["p0", "a"], ["p1", name]])
    result = run_histo("train", tmp_path, "--weights", "none", "--epochs", 1, *TINY)
    assert_one_line_error(result, "train_labels.csv, line ")
    assert_harmless(result.output)


@pytest.mark.slow
def test_many_classes_are_listed_and_said_to_be_macro_in_60_columns(odd_run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    result = run_histo("interpret", odd_run)
    lines = result.output.splitlines()
    (said,) = [line for line in lines if line.startswith("5 classes: ")]
    assert "macro, one-vs-rest" in said
    (at,) = [n for n, line in enumerate(lines) if line.startswith("class, one-vs-rest ")]
    rows = lines[at : at + 1 + len(NAMES)]
    assert all(width_of(row) <= 60 for row in rows)
    assert any(row.startswith("abc\\u200bcba ") for row in rows)
