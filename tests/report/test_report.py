"""The report of a table: metrics.json, the page, the terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from histo.report.report import write_report
from histo.report.subject import Subject
from histo.report.terminal import say_report
from histo.run.predictions import write_predictions
from histo.screen import Screen
from tests.conftest import TINY, assert_one_line_error, run_histo, write_image
from tests.report.tables import (
    many_classes,
    one_class,
    page_of,
    predictions,
    report_of,
    two_classes,
    write_run,
    write_table,
)


def test_every_metric_has_an_interval_around_it(tmp_path):
    write_table(tmp_path, *two_classes())
    metrics = report_of(tmp_path, "--sensitivity", 0.9)
    assert (metrics["unit"], metrics["units"]) == ("patch", 200)
    for part in (metrics, *(metrics[at] for at in ("at_0.5", "at_youden", "at_wanted"))):
        assert len(part["intervals"]) >= 4
        for name, (low, high) in part["intervals"].items():
            assert low <= part[name] <= high, name


def test_many_classes_have_intervals_too_each_class_its_own(tmp_path):
    write_table(tmp_path, *many_classes())
    metrics = report_of(tmp_path)
    for part in (metrics, *metrics["classes"].values()):
        assert {"roc_auc", "f1"} <= part["intervals"].keys()
        low, high = part["intervals"]["roc_auc"]
        assert low < part["roc_auc"] < high
    result = run_histo("interpret", tmp_path / "p.csv", "--sensitivity", 0.9)
    assert_one_line_error(result, "two classes")


@pytest.mark.slow
def test_the_operating_point_reaches_what_was_wanted(tmp_path):
    labels, table = two_classes()
    write_table(tmp_path, labels, table)
    for rate, positive in (("sensitivity", 1), ("specificity", 0)):
        point = report_of(tmp_path, f"--{rate}", 0.95)["at_wanted"]
        called = table[:, 1] >= point["threshold"]
        assert point[rate] == np.mean(called[labels == positive] == positive) >= 0.95
        low, high = point["intervals"]["threshold"]
        assert low <= point["threshold"] <= high
    both = run_histo("interpret", tmp_path / "p.csv", "--sensitivity", 0.9, "--specificity", 0.9)
    assert both.exit_code == 2


@pytest.mark.slow
def test_patches_of_one_class_get_only_the_metrics_that_apply(tmp_path):
    """null and a dash for the others, no curve that needs both classes."""
    write_table(tmp_path, *two_classes())
    report_of(tmp_path)
    assert (tmp_path / "report" / "roc.svg").is_file()
    table = write_table(tmp_path, *one_class())
    result = run_histo("interpret", table)
    assert result.exit_code == 0, result.output
    assert "note: No patch is of class 1: metrics that compare classes (AUC" in result.stdout
    assert re.search(r"^AUC of '1' +–$", result.stdout, re.MULTILINE)
    metrics = json.loads(
        (tmp_path / "report" / "metrics.json").read_text(), parse_constant=pytest.fail
    )
    assert metrics["roc_auc"] is metrics["average_precision"] is None
    assert metrics["calibration"]["temperature"] == 1
    assert metrics["calibration"]["after"] is None
    low, high = metrics["at_0.5"]["intervals"]["specificity"]
    assert low < metrics["at_0.5"]["specificity"] < high
    assert metrics["at_0.5"]["intervals"]["sensitivity"] is None
    assert metrics["intervals"]["brier"]
    assert not (tmp_path / "report" / "roc.svg").exists()  # the older report's
    page = page_of(tmp_path / "report")
    assert "No patch is of class 1" in page
    assert "Sensitivity against false positive rate" not in page
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page)


def test_a_threshold_cannot_be_found_for_a_class_without_patches(tmp_path):
    table = write_table(tmp_path, *one_class())
    result = run_histo("interpret", table, "--sensitivity", 0.9)
    assert_one_line_error(result, "sensitivity needs patches of class 1")
    assert run_histo("interpret", table, "--specificity", 0.9).exit_code == 0


@pytest.mark.slow
def test_many_classes_of_which_one_has_no_patch_are_judged_over_the_others(tmp_path):
    rng = np.random.default_rng(2)
    labels = rng.integers(3, size=150)
    write_table(tmp_path, labels, rng.dirichlet(np.ones(4), 150))
    metrics = report_of(tmp_path)
    assert metrics["absent"] == ["3"]
    assert metrics["classes"]["3"]["roc_auc"] is None
    known = [metrics["classes"][name]["roc_auc"] for name in "012"]
    assert metrics["roc_auc"] == pytest.approx(np.mean(known))
    assert "means over classes leave it out" in page_of(tmp_path / "report")


def test_the_report_of_a_python_caller_is_quiet_until_it_is_said(tmp_path, capsys):
    """`write_report` prints no results; `say_report` prints them all."""
    table = predictions(*two_classes())
    metrics = write_report(tmp_path, table, Subject("two"), Screen(quiet=True))
    assert not capsys.readouterr().out
    say_report(metrics, Screen())
    said = capsys.readouterr().out
    for word in ("AUC", "sensitivity", "(Youden)", "log loss", "bootstrap over 200 patches"):
        assert word in said


def test_a_run_folder_says_what_was_trained_on_what(tmp_path):
    """Its settings, its versions and its groups are in the page."""
    groups = [f"s{n // 20}" for n in range(200)]
    run = write_run(tmp_path / "run", groups=groups, group_column="slide", seed=7)
    assert run_histo("interpret", run).exit_code == 0
    page = page_of(run / "report")
    for word in ("tiny, starting weights: none", "By slide", "histo version", "<td>7</td>"):
        assert word in page


def test_the_first_sentence_counts_as_a_person_would(tmp_path):
    labels = np.repeat([0, 1], [80, 20])
    scores = np.where(np.arange(100) % 20 < np.where(labels, 15, 2), 0.9, 0.1)
    write_table(tmp_path, labels, np.stack([1 - scores, scores], 1))
    report_of(tmp_path)
    page = page_of(tmp_path / "report")
    said = (
        "the model finds 75 of 100 patches of class &#x27;1&#x27; and wrongly calls 10 of 100 other"
    )
    assert said in page


def test_the_page_needs_nothing_but_itself(tiny_run):
    page = page_of(tiny_run / "report")
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "https://" not in page
    assert page.count("<figure>") >= 7
    assert "not a medical device" in page
    for word in ("AUC", "random over patches", "squeezenet1_1", "learning rate", "seed"):
        assert word.replace("learning rate", "lr") in page


def test_the_page_says_that_the_patches_judged_also_chose_the_epoch(tiny_run):
    """The best of many epochs on these patches looks a little better than it is."""
    page = page_of(tiny_run / "report")
    assert "which also selected the best epoch" in page


@pytest.mark.slow
def test_names_in_the_page_are_text_not_markup(tmp_path):
    labels, table = two_classes(60)
    names = ["<b>no</b>", "<script>yes"]
    ids = [f"{n}" for n in range(60)]
    write_predictions(tmp_path / "p.csv", ids, [names[c] for c in labels], table, names)
    report_of(tmp_path)
    page = page_of(tmp_path / "report")
    assert "<script>yes" not in page
    assert "<b>no" not in page


def write_slides(folder: Path, slides: int, per: int, seed: int) -> Path:
    """Patches with their slide's colours, 16 fields of them, and their slide's label: no more.

    A colour alone would have neighbours among the other slides', and take long to tell apart.
    """
    rng = np.random.default_rng(seed)
    (folder / "train").mkdir(parents=True)
    labels, groups = ["id,label"], ["id,slide"]
    colours = rng.choice([20, 235], (slides, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    for slide, colour in enumerate(colours):
        for n in range(per):
            pixels = (colour + rng.normal(0, 6, colour.shape)).clip(0, 255).astype("u1")
            name = f"s{slide}-{n}"
            write_image(folder / "train" / f"{name}.png", pixels)
            labels.append(f"{name},{slide % 2}")
            groups.append(f"{name},s{slide}")
    (folder / "train_labels.csv").write_text("\n".join(labels) + "\n")
    (folder / "groups.csv").write_text("\n".join(groups) + "\n")
    return folder


def train_on_slides(folder: Path, weights: Path, seed: int) -> dict[str, tuple[float, str]]:
    """Validation AUC, and the first line about the split, of a random split and of one by slide."""
    data, found = write_slides(folder / "data", 48, 64, seed), {}
    recipe = ("--weights", weights, "--freeze-epochs", 0, "--epochs", 1, "--lr", 1e-3)
    recipe += ("--augment", "none", "--valid-pct", 60, "--seed", seed)
    for name, words in (("random", ()), ("grouped", ("--groups", data / "groups.csv"))):
        run = folder / name
        result = run_histo("train", data, *TINY, "--batch-size", 8, *recipe, *words, "--out", run)
        assert result.exit_code == 0, result.output
        lines = run_histo("interpret", run).stdout.splitlines()
        steps = ("no sheet", "interpreting", "drawing")  # the last is said on a busy machine only
        said = next(line for line in lines if not line.startswith(steps))
        found[name] = json.loads((run / "report" / "metrics.json").read_text())["roc_auc"], said
    return found


@pytest.mark.slow
def test_a_slide_effect_looks_like_skill_until_the_split_is_by_slide(tmp_path, weights):
    """Colours say the slide, the slide says the label: nothing that helps on a new slide.

    29 slides validate: by chance alone AUC is 0.5 with a standard error of 0.11.
    """
    found = train_on_slides(tmp_path, weights, seed=0)
    auc, said = found["random"]
    assert auc > 0.95
    assert "optimistic for new slides" in said
    assert "Only a split by slide or patient" in said
    page = page_of(tmp_path / "random" / "report")
    assert said.removeprefix("note: ") in page
    auc, said = found["grouped"]
    assert abs(auc - 0.5) < 0.33
    assert "none of 48 is on both sides" in said
    assert said in page_of(tmp_path / "grouped" / "report")
