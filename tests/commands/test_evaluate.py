"""evaluate: a bundle on labelled patches; compare: two tables of the same patches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from histo.data.synth import write_dataset
from histo.run.calls import apply_temperature
from histo.run.predictions import read_predictions, write_predictions
from histo.screen import Screen
from tests.conftest import assert_one_line_error, rows_of, run_histo
from tests.report.tables import two_classes, write_table


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 labelled patches that no model of these tests was trained on."""
    return write_dataset(tmp_path_factory.mktemp("elsewhere"), 60, 9, Screen(quiet=True), side=48)


def evaluated(run: Path) -> dict:
    return json.loads((run / "report" / "metrics.json").read_text())


@pytest.mark.slow
def test_a_bundle_is_judged_on_a_set_it_never_saw(tiny_run, elsewhere, tmp_path):
    out = tmp_path / "there"
    result = run_histo("evaluate", tiny_run / "export", elsewhere, "--out", out)
    assert result.exit_code == 0, result.output
    assert (
        "none of these patches is among those the model was trained or chosen on" in result.stdout
    )
    assert evaluated(out)["patches"] == 60
    table = read_predictions(out / "predictions.csv")
    run_histo("predict", tiny_run / "export", elsewhere / "train", "--out", tmp_path / "p.csv")
    theirs = {row["id"]: float(row["p_1"]) for row in rows_of(tmp_path / "p.csv")}
    ours = dict(zip(table.ids, table.probabilities[:, 1], strict=True))
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert run_histo("interpret", out).exit_code == 0
    assert (out / "report" / "report.html").is_file()


def test_a_set_of_one_class_is_judged(tiny_run, elsewhere, tmp_path):
    """As PatchCamelyon's normal slides: no positive patch, and still a specificity to know."""
    rows = (elsewhere / "train_labels.csv").read_text().splitlines()
    normal = [rows[0], *(row for row in rows if row.endswith(",0"))]
    (tmp_path / "l.csv").write_text("\n".join(normal) + "\n")
    out = tmp_path / "run"
    words = ("--labels", tmp_path / "l.csv", "--out", out)
    result = run_histo("evaluate", tiny_run / "export", elsewhere, *words)
    assert result.exit_code == 0, result.output
    found = evaluated(out)
    assert found["patches"] == len(normal) - 1
    assert found["roc_auc"] is None
    table = read_predictions(out / "predictions.csv")
    assert found["at_0.5"]["specificity"] == pytest.approx((table.probabilities[:, 1] < 0.5).mean())


def test_two_tables_of_one_class_are_compared_as_far_as_they_go(tmp_path):
    _, table = two_classes(40)
    for name in "ab":
        write_table(tmp_path, np.zeros(40, int), table, f"{name}.csv")
    out = tmp_path / "c.json"
    result = run_histo("compare", tmp_path / "a.csv", tmp_path / "b.csv", "--out", out)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert found["A"]["roc_auc"] is None
    assert found["difference"]["roc_auc"] == {"value": None, "interval": None}
    assert found["difference"]["specificity"] == {"value": 0, "interval": [0, 0]}


@pytest.mark.slow
def test_patches_it_was_trained_on_are_found_by_their_pixels(tiny_run, dataset, tmp_path):
    """Renamed or not: what counts is the pixels."""
    shutil.copytree(dataset / "train", tmp_path / "train")
    rows = (dataset / "train_labels.csv").read_text().splitlines()
    for n, row in enumerate(rows[1:]):
        name = row.split(",")[0]
        (tmp_path / "train" / f"{name}.tif").rename(tmp_path / "train" / f"new{n}.tif")
        rows[n + 1] = f"new{n},{row.split(',')[1]}"
    (tmp_path / "train_labels.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "run"
    result = run_histo("evaluate", tiny_run / "export", tmp_path, "--out", out)
    assert result.exit_code == 0, result.output
    said = "160 of 160 patches are among those the model was trained or chosen on"
    assert said in result.stdout
    assert said in (out / "report" / "report.html").read_text()


def test_a_label_the_bundle_does_not_know_is_one_line(tiny_run, elsewhere, tmp_path):
    text = (elsewhere / "train_labels.csv").read_text().replace(",1\n", ",tumour\n")
    (tmp_path / "l.csv").write_text(text)
    words = ("--labels", tmp_path / "l.csv", "--out", tmp_path / "run")
    result = run_histo("evaluate", tiny_run / "export", elsewhere, *words)
    assert_one_line_error(result, "l.csv, line", "'tumour' is not a class of the bundle (0, 1)")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_temperature_and_threshold_go_with_the_bundle(tiny_run, elsewhere, tmp_path):
    bundle = tmp_path / "bundle"
    words = ("--out", bundle, "--sensitivity", 0.9)
    result = run_histo("export", tiny_run, *words)
    assert "sensitivity 0.9" in result.stdout
    card = json.loads((bundle / "model.json").read_text())
    assert (card["positive"], card["wanted"]) == ("1", {"sensitivity": 0.9})
    table = read_predictions(tiny_run / "predictions.csv")
    scaled = apply_temperature(table.probabilities, card["temperature"])
    called = scaled[:, 1] >= card["threshold"]
    assert called[table.labels == 1].mean() >= 0.9
    found = {}
    for name, more in (("scaled", ()), ("raw", ("--raw",))):
        out = tmp_path / f"{name}.csv"
        run_histo("predict", bundle, elsewhere / "train", "--out", out, *more)
        found[name] = rows_of(out)
    for scaled, raw in zip(found["scaled"], found["raw"], strict=True):
        logit = np.log(float(raw["p_1"]) / float(raw["p_0"])) / card["temperature"]
        assert float(scaled["p_1"]) == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)
        expected = "1" if float(scaled["p_1"]) >= card["threshold"] else "0"
        assert scaled["predicted"] == raw["predicted"] == expected
    out = tmp_path / "there"
    result = run_histo("evaluate", bundle, elsewhere, "--out", out)
    assert result.exit_code == 0, result.output
    point = evaluated(out)["at_bundle"]
    counts = point["confusion_matrix"]
    assert counts[0][1] + counts[1][1] == sum(row["predicted"] == "1" for row in found["raw"])
    asked = f"asked for sensitivity of '1' 0.90, here {point['sensitivity']:.2f} ("
    assert asked in result.stdout
    assert asked.replace("'", "&#x27;") in (out / "report" / "report.html").read_text()
    assert "refit" in evaluated(out)["calibration"]
    assert "temperature" not in evaluated(out)["calibration"]


@pytest.mark.slow
def test_a_bundle_without_these_facts_still_loads(tiny_run, elsewhere, tmp_path):
    """A card made before temperature, threshold, sizes and its own SHA-256 were kept."""
    bundle = shutil.copytree(tiny_run / "export", tmp_path / "old")
    card = json.loads((bundle / "model.json").read_text())
    for name in ("temperature", "threshold", "bytes", "sha256"):
        del card[name]
    del card["files"]["trained.npy"]
    (bundle / "trained.npy").unlink()
    (bundle / "model.json").write_text(json.dumps(card))
    result = run_histo("evaluate", bundle, elsewhere, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "no check for overlap" in result.stdout
    assert "is not known" in result.stdout


def test_tables_are_compared_over_the_groups_given(tmp_path):
    for name in "ab":
        write_table(tmp_path, *two_classes(40), f"{name}.csv")
    slides = "id,slide\n" + "".join(f"{n},s{n // 5}\n" for n in range(40))
    (tmp_path / "g.csv").write_text(slides)
    words = ("compare", tmp_path / "a.csv", tmp_path / "b.csv", "--groups", tmp_path / "g.csv")
    result = run_histo(*words)
    assert result.exit_code == 0, result.output
    assert "8 slides" in result.stdout


def test_the_same_table_twice_differs_in_nothing(tmp_path):
    write_table(tmp_path, *two_classes(), "a.csv")
    words = (tmp_path / "a.csv", tmp_path / "a.csv", "--out", tmp_path / "c.json")
    result = run_histo("compare", *words)
    assert result.exit_code == 0, result.output
    assert "no difference in AUC is shown" in result.stdout
    found = json.loads((tmp_path / "c.json").read_text())
    assert all(d == {"value": 0, "interval": [0, 0]} for d in found["difference"].values())


def test_a_better_table_is_seen_to_be_better_though_rows_and_classes_are_in_another_order(tmp_path):
    labels, table = two_classes(500)
    write_table(tmp_path, labels, table, "a.csv")
    better = table * 0.5 + 0.5 * np.eye(2)[labels] * 0.6 + 0.1
    better /= better.sum(1, keepdims=True)
    order = np.random.default_rng(0).permutation(500)[:480]
    names = ["1", "0"]
    words = (
        [str(n) for n in order],
        [str(labels[n]) for n in order],
        better[order][:, ::-1],
        names,
    )
    write_predictions(tmp_path / "b.csv", *words)
    out = tmp_path / "c.json"
    result = run_histo("compare", tmp_path / "a.csv", tmp_path / "b.csv", "--out", out)
    assert "480 patches in both; 20 in only one of them are left out" in result.stdout
    assert "the AUCs differ" in result.stdout
    difference = json.loads(out.read_text())["difference"]["roc_auc"]
    assert 0 < difference["interval"][0] < difference["value"] < difference["interval"][1]


def test_tables_that_do_not_fit_are_refused(tmp_path):
    labels, table = two_classes(40)
    a = write_table(tmp_path, labels, table, "a.csv")
    b = write_table(tmp_path, 1 - labels, table, "b.csv")
    assert_one_line_error(run_histo("compare", a, b), "patch 0 is", "but")
    text = a.read_text().splitlines()
    moved = [text[0], *(f"x{line}" for line in text[1:])]
    (tmp_path / "c.csv").write_text("\n".join(moved) + "\n")
    assert_one_line_error(run_histo("compare", a, tmp_path / "c.csv"), "no patch in common")
    (tmp_path / "d.csv").write_text("id,label,p_x,p_y\n0,x,1,0\n")
    assert_one_line_error(run_histo("compare", a, tmp_path / "d.csv"), "cannot be compared")
