"""The report of a table: its figures, its page, and what it says about the split."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from histo.report.calibration import judge_calibration
from histo.run.calls import apply_temperature
from histo.run.predictions import write_predictions
from tests.conftest import TINY, assert_one_line_error, rows_of, run_histo, write_image


def write_table(folder: Path, labels: np.ndarray, table: np.ndarray, name: str = "p.csv") -> Path:
    """A predictions table with ids a number each."""
    vocab = [str(c) for c in range(table.shape[1])]
    ids = [str(n) for n in range(len(labels))]
    write_predictions(folder / name, ids, [vocab[c] for c in labels], table, vocab)
    return folder / name


def two_classes(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that rank most of them right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    scores = 1 / (1 + np.exp(-(rng.normal(size=n) + 2 * labels - 1)))
    return labels, np.stack([1 - scores, scores], 1)


def report_of(folder: Path, *words: object) -> dict:
    """metrics.json of an interpreted table."""
    result = run_histo("interpret", folder / "p.csv", "--out", folder / "report", *words)
    assert result.exit_code == 0, result.output
    return json.loads((folder / "report" / "metrics.json").read_text())


def test_every_figure_has_an_interval_around_it(tmp_path):
    write_table(tmp_path, *two_classes())
    metrics = report_of(tmp_path, "--sensitivity", 0.9)
    assert (metrics["unit"], metrics["units"]) == ("patch", 200)
    for part in (metrics, *(metrics[at] for at in ("at_0.5", "at_youden", "at_wanted"))):
        assert len(part["intervals"]) >= 4
        for name, (low, high) in part["intervals"].items():
            assert low <= part[name] <= high, name


def test_many_classes_have_intervals_too_each_class_its_own(tmp_path):
    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=150)
    write_table(tmp_path, labels, rng.dirichlet(np.ones(3), 150) * 0.7 + 0.3 * np.eye(3)[labels])
    metrics = report_of(tmp_path)
    for part in (metrics, *metrics["classes"].values()):
        assert {"roc_auc", "f1"} <= part["intervals"].keys()
        low, high = part["intervals"]["roc_auc"]
        assert low < part["roc_auc"] < high
    result = run_histo("interpret", tmp_path / "p.csv", "--sensitivity", 0.9)
    assert_one_line_error(result, "two classes")


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


def test_groups_get_a_row_each_the_worst_first_and_widen_the_interval(tmp_path):
    labels, table = two_classes(400)
    bad = np.arange(400) // 20 == 7
    table[bad] = table[bad, ::-1]  # slide 7 is read the wrong way round
    write_table(tmp_path, labels, table)
    plain = report_of(tmp_path)["intervals"]["roc_auc"]
    slides = "id,slide\n" + "".join(f"{n},s{n // 20}\n" for n in range(400))
    (tmp_path / "groups.csv").write_text(slides)
    metrics = report_of(tmp_path, "--groups", tmp_path / "groups.csv")
    low, high = metrics["intervals"]["roc_auc"]
    assert (metrics["unit"], metrics["units"]) == ("slide", 20)
    assert high - low > plain[1] - plain[0]
    rows = rows_of(tmp_path / "report" / "by_group.csv")
    assert len(rows) == 20
    assert rows[0]["slide"] == "s7"
    here = np.arange(400) // 20 == 7
    assert float(rows[0]["roc_auc"]) == pytest.approx(
        sk.roc_auc_score(labels[here], table[here, 1]), rel=1e-5
    )
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Worst slides: s7" in page


def one_class(folder: Path) -> Path:
    """A table of 40 patches, all of class 0, as the normal slides of PatchCamelyon give it."""
    _, table = two_classes(40)
    return write_table(folder, np.zeros(40, int), table)


def test_patches_of_one_class_are_judged_as_far_as_they_go(tmp_path):
    """The figures that exist, null and a dash for the others, no curve that would need both."""
    write_table(tmp_path, *two_classes())
    report_of(tmp_path)
    assert (tmp_path / "report" / "roc.svg").is_file()
    table = one_class(tmp_path)
    result = run_histo("interpret", table)
    assert result.exit_code == 0, result.output
    assert "note: No patch is of class 1: figures that compare classes (AUC" in result.stdout
    assert re.search(r"^AUC +–$", result.stdout, re.MULTILINE)
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
    page = (tmp_path / "report" / "report.html").read_text()
    assert "No patch is of class 1" in page
    assert "Sensitivity against false positive rate" not in page
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page)


def test_a_threshold_cannot_be_found_for_a_class_without_patches(tmp_path):
    table = one_class(tmp_path)
    result = run_histo("interpret", table, "--sensitivity", 0.9)
    assert_one_line_error(result, "--sensitivity needs patches of class 1")
    assert run_histo("interpret", table, "--specificity", 0.9).exit_code == 0


def test_many_classes_of_which_one_has_no_patch_are_judged_over_the_others(tmp_path):
    rng = np.random.default_rng(2)
    labels = rng.integers(3, size=150)
    write_table(tmp_path, labels, rng.dirichlet(np.ones(4), 150))
    metrics = report_of(tmp_path)
    assert metrics["absent"] == ["3"]
    assert metrics["classes"]["3"]["roc_auc"] is None
    known = [metrics["classes"][name]["roc_auc"] for name in "012"]
    assert metrics["roc_auc"] == pytest.approx(np.mean(known))
    assert (
        "means over classes are of the others" in (tmp_path / "report" / "report.html").read_text()
    )


def test_the_first_sentence_counts_as_a_person_would(tmp_path):
    labels = np.repeat([0, 1], [80, 20])
    scores = np.where(np.arange(100) % 20 < np.where(labels, 15, 2), 0.9, 0.1)
    write_table(tmp_path, labels, np.stack([1 - scores, scores], 1))
    report_of(tmp_path)
    page = (tmp_path / "report" / "report.html").read_text()
    said = "it finds 75 of 100 patches of class &#x27;1&#x27;, and calls 10 of 100 others"
    assert said in page


def test_the_page_needs_nothing_but_itself(tiny_run):
    page = (tiny_run / "report" / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "https://" not in page
    assert page.count("<figure>") >= 7
    assert "not a medical device" in page
    for word in ("AUC", "random over patches", "squeezenet1_1", "learning rate", "seed"):
        assert word.replace("learning rate", "lr") in page


def test_the_page_says_that_the_patches_judged_also_chose_the_epoch(tiny_run):
    """The best of many epochs on these patches looks a little better than it is."""
    page = (tiny_run / "report" / "report.html").read_text()
    assert "kept apart, which also chose the epoch kept" in page


def test_names_in_the_page_are_text_not_markup(tmp_path):
    labels, table = two_classes(60)
    names = ["<b>no</b>", "<script>yes"]
    ids = [f"{n}" for n in range(60)]
    write_predictions(tmp_path / "p.csv", ids, [names[c] for c in labels], table, names)
    report_of(tmp_path)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script>yes" not in page
    assert "<b>no" not in page


def test_an_overconfident_table_gets_the_temperature_that_mends_it(tmp_path):
    labels, table = two_classes(2000)
    sure = apply_temperature(table, 1 / 3)
    write_table(tmp_path, labels, sure)
    found = report_of(tmp_path)["calibration"]
    honest = judge_calibration(labels, table)["temperature"]
    assert found["temperature"] == pytest.approx(3 * honest, rel=0.01)
    assert found["after"]["log_loss"] < found["before"]["log_loss"]
    assert found["after"]["error"] < found["before"]["error"]


def test_a_calibrated_table_is_left_alone(tmp_path):
    rng = np.random.default_rng(3)
    scores = rng.random(500)
    labels = (rng.random(500) < scores).astype(int)
    found = judge_calibration(labels, np.stack([1 - scores, scores], 1))
    assert 0.8 < found["temperature"] < 1.25


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
    """Validation AUC, and the first line said, of a random split and of one by slide."""
    data, found = write_slides(folder / "data", 48, 64, seed), {}
    recipe = ("--weights", weights, "--freeze-epochs", 0, "--epochs", 1, "--lr", 1e-3)
    recipe += ("--augment", "none", "--valid-pct", 60, "--seed", seed)
    for name, words in (("random", ()), ("grouped", ("--groups", data / "groups.csv"))):
        run = folder / name
        result = run_histo("train", data, *TINY, "--batch-size", 8, *recipe, *words, "--out", run)
        assert result.exit_code == 0, result.output
        lines = run_histo("interpret", run).stdout.splitlines()
        said = next(line for line in lines if not line.startswith("no mistakes"))
        found[name] = json.loads((run / "report" / "metrics.json").read_text())["roc_auc"], said
    return found


def test_a_slide_effect_looks_like_skill_until_the_split_is_by_slide(tmp_path, weights):
    """Colours say the slide, the slide says the label: nothing that helps on a new slide.

    29 slides validate: by chance alone AUC is 0.5 with a standard error of 0.11.
    """
    found = train_on_slides(tmp_path, weights, seed=0)
    auc, said = found["random"]
    assert auc > 0.95
    assert "optimistic for new slides" in said
    assert "Believe those of a split by slide" in said
    page = (tmp_path / "random" / "report" / "report.html").read_text()
    assert said.removeprefix("note: ") in page
    auc, said = found["grouped"]
    assert abs(auc - 0.5) < 0.33
    assert "none of 48 is on both sides" in said
    assert said in (tmp_path / "grouped" / "report" / "report.html").read_text()
