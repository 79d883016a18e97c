"""histo review, and the corrections that train and check take from it."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import histo
from histo.run.split import Split
from tests.conftest import TINY, assert_one_line_error, rows_of, run_histo, write_image
from tests.report.tables import write_run

FOLDS = Split("grouped", "slide", 10, folds=3)


@pytest.fixture
def folds(tmp_path: Path) -> Path:
    """A run of three folds by slide, as training leaves it, whose 200 patches are still there."""
    images = tmp_path / "train"
    images.mkdir()
    for number in range(200):
        write_image(images / f"{number}.png", np.full((8, 8, 3), number, np.uint8))
    groups = [f"s{number % 10}" for number in range(200)]
    settings = {"folds": 3, "group_column": "slide", "images": str(images)}
    return write_run(tmp_path / "run", FOLDS, groups, **settings)


def test_a_review_writes_the_suspects_and_a_page_of_them(folds):
    """The table to correct, the most suspicious first; patches with id, slide, label and suggestion."""
    result = run_histo("review", folds)
    assert result.exit_code == 0, result.output
    rows = rows_of(folds / "review" / "suspects.csv")
    columns = ["id", "label", "suggested", "why", "corrected", "group", "p_0", "p_1"]
    assert list(rows[0]) == columns
    margins = [float(r[f"p_{r['suggested']}"]) - float(r[f"p_{r['label']}"]) for r in rows]
    assert margins == sorted(margins, reverse=True)
    assert margins[-1] > 0
    pair = sum(row["label"] == "1" for row in rows)
    assert f"{len(rows)} of 200 labels suspected" in result.stdout
    assert f"{pair} labelled 1 seem 0" in result.stdout
    page = (folds / "review" / "review.html").read_text()
    first = rows[0]
    assert page.count("data:image/jpeg") == len(rows)
    assert f"{first['id']}: slide {first['group']}: labelled {first['label']}" in page
    assert "Suspects by slide" in page
    assert "not trained on it" in page


def test_most_keeps_the_most_suspicious(folds, tmp_path):
    """And says how many there were."""
    every = histo.review(folds).suspects
    few = histo.review(folds, most=4, out=tmp_path / "few").suspects
    assert few.to_dict() == every.head(4).to_dict()
    page = (tmp_path / "few" / "review.html").read_text()
    assert f"{len(every)} of 200 labels suspected; the 4 most suspicious are listed" in page


def test_without_the_patches_the_page_has_a_table(folds):
    """And says what to give."""
    shutil.rmtree(folds.parent / "train")
    result = run_histo("review", folds)
    assert "(give --images)" in result.stdout
    assert "labelled 1" in (folds / "review" / "review.html").read_text()


def test_a_run_without_folds_is_reviewed_where_it_validated(tmp_path):
    """The terminal and the page say so, and what reviews every patch."""
    run = write_run(tmp_path / "run", Split("random"))
    with (run / "split.csv").open("a") as file:
        file.writelines(f"t{n},0,train\n" for n in range(800))
    result = run_histo("review", run)
    said = "nly the 200 patches that validated, of 1,000, can be reviewed"
    assert f"note: o{said} (to review all: train with --folds 5)" in result.stdout
    assert f"O{said}" in (run / "review" / "review.html").read_text()


def test_folds_that_are_not_done_cannot_be_reviewed(folds):
    (folds / "predictions.csv").unlink()
    result = run_histo("review", folds)
    assert_one_line_error(result, "folds that are not trained yet", f"histo train --resume {folds}")


def test_a_review_never_replaces_corrections_or_other_files(folds):
    """One that nobody has touched is written anew."""
    table = histo.review(folds).path / "suspects.csv"
    assert run_histo("review", folds).exit_code == 0
    fill(table, 1)
    before = table.read_bytes()
    assert_one_line_error(run_histo("review", folds), "holds corrections", "give another --out")
    assert table.read_bytes() == before
    result = run_histo("review", folds, "--out", folds)
    assert_one_line_error(result, "holds files that are not of a review")


def fill(table: Path, count: int) -> list[dict[str, str]]:
    """Accept the first suggestions, as a user does in a spreadsheet; returns those rows."""
    rows = rows_of(table)
    for row in rows[:count]:
        row["corrected"] = row["suggested"]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows[:count]


# ---------------------------------------------------------------- corrections


def labels_of(data: Path) -> dict[str, str]:
    return {row["id"]: row["label"] for row in rows_of(data / "train_labels.csv")}


@pytest.mark.slow
def test_train_takes_the_corrections_of_a_review(dataset, tmp_path):
    """It says what it changed, and the run keeps settings, split and fingerprint of the new labels."""
    labels = labels_of(dataset)
    zeros = [name for name, label in labels.items() if label == "0"][:2]
    one = next(name for name, label in labels.items() if label == "1")
    table = tmp_path / "suspects.csv"
    lines = [f"{zeros[0]},0,1,why,1.0", f"{zeros[1]},0,1,why,1", f"{one},1,0,why,"]
    table.write_text("\n".join(["id,label,suggested,why,corrected", *lines]) + "\n")
    run = tmp_path / "run"
    words = ("--weights", "none", "--epochs", 1, "--corrections", table, "--out", run)
    result = run_histo("train", dataset, *TINY, *words)
    assert result.exit_code == 0, result.output
    assert "2 labels changed, as suspects.csv says: 2 0 -> 1" in result.stdout
    config = json.loads((run / "config.json").read_text())
    assert config["corrections"] == {"value": str(table), "source": "given"}
    assert config["corrected"]["value"] == {"0 -> 1": 2}
    labels |= dict.fromkeys(zeros, "1")
    assert {row["id"]: row["label"] for row in rows_of(run / "split.csv")} == labels
    every = "".join(sorted(f"{name},{label}\n" for name, label in labels.items()))
    environment = json.loads((run / "environment.json").read_text())
    assert environment["fingerprint"]["labels"] == hashlib.sha256(every.encode()).hexdigest()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four patches of noise in Kaggle's layout."""
    folder = tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in "abcd":
        write_image(folder / "train" / f"{name}.png", rng.integers(0, 255, (16, 16, 3), "u1"))
    (folder / "train_labels.csv").write_text("id,label\na,0\nb,0\nc,1\nd,1\n")
    return folder


def test_check_takes_corrections_too(data, tmp_path):
    (tmp_path / "fix.csv").write_text("id,label\na,1\nc,1\n")
    words = ("--corrections", tmp_path / "fix.csv", "--out", tmp_path / "check")
    result = run_histo("check", data, *words)
    assert "1 label changed, as fix.csv says: 1 0 -> 1" in result.stdout
    assert "3  75.0 %" in result.stdout


def test_patches_labelled_by_folders_are_corrected_by_path(tmp_path):
    """With or without suffix; another patch of the same name stays as it is."""
    for folder in ("benign", "tumour"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), "u1")
            write_image(tmp_path / "data" / folder / f"{number}.png", pixels)
    (tmp_path / "fix.csv").write_text("id,label\nbenign/0,tumour\nbenign/1.png,tumour\n")
    words = ("--corrections", tmp_path / "fix.csv", "--out", tmp_path / "check")
    result = run_histo("check", tmp_path / "data", *words)
    assert "2 labels changed, as fix.csv says: 2 benign -> tumour" in result.stdout
    assert "5  83.3 %" in result.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,label\na,1\nx,1\n", "fix.csv, line 3: no patch x in train_labels.csv"),
        ("id,label\na,7\n", "line 2: the label 7 is no class of train_labels.csv (0, 1)"),
        ("id,label\na,1\nb,1\na,0\n", "line 4: a is 0, but 1 in an earlier line"),
        ("id,label\na,\n", "line 2: the label of a is blank"),
        ("id,colour\na,1\n", "no column 'label'"),
        ("id,label,corrected\na,0,\n", "no row has its right label in the column corrected yet"),
        ("id,label,corrected\na,1,0\nc,0,0\n", "line 3: c was 0 there, but is 1 in train_labels"),
    ],
)
def test_a_correction_that_cannot_be_made_is_one_line(data, tmp_path, text, said):
    """It names the line, and nothing is trained."""
    (tmp_path / "fix.csv").write_text(text)
    for verb in ("train", "check"):
        words = ("--corrections", tmp_path / "fix.csv", "--out", tmp_path / verb)
        assert_one_line_error(run_histo(verb, data, *words), said)
    assert not (tmp_path / "train").exists()


def test_corrections_that_are_not_there_are_one_line(data, tmp_path):
    result = run_histo("train", data, "--corrections", tmp_path / "no.csv")
    assert_one_line_error(result, "no corrections CSV")
