"""The positive class, from `--positive` or the names, in every command that depends on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from histo.config import ModelCard
from histo.data.decode import read_patch
from histo.model.bundle import write_bundle
from histo.model.network import make_one
from histo.run.predictions import read_predictions, write_predictions
from tests.conftest import TINY, assert_one_line_error, rows_of, run_histo
from tests.report.tables import page_of, write_run

IDC = ["IDC", "benign"]


def a_sixth_of_the_cancers(vocab: list[str]) -> tuple[list[str], list[str], np.ndarray]:
    """60 patches of each class; 10 of the first are called as such, and 59 of the second."""
    labels = np.repeat([0, 1], 60)
    score = np.where(labels == 0, np.arange(120) < 10, np.arange(120) == 60)  # of the first class
    first = np.where(score, 0.8, 0.2) + np.arange(120) / 1e4
    table = np.stack([first, 1 - first], 1)
    return [f"p{n}" for n in range(120)], [vocab[c] for c in labels], table


def write_idc(folder: Path, vocab: list[str] = IDC) -> Path:
    """Their predictions table."""
    write_predictions(folder / "p.csv", *a_sixth_of_the_cancers(vocab), vocab)
    return folder / "p.csv"


@pytest.mark.slow
def test_a_model_that_finds_a_sixth_of_the_cancers_has_that_sensitivity(tmp_path):
    """Though the alphabet puts `IDC` first: in the terminal, the page and metrics.json."""
    table = write_idc(tmp_path)
    result = run_histo("interpret", table)
    assert "Positive class: 'IDC' (found: IDC, benign)" in result.stdout
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert (found["positive"], found["vocab"]) == ("IDC", IDC)
    point = found["at_0.5"]
    assert point["sensitivity"] == pytest.approx(10 / 60)
    assert point["specificity"] == pytest.approx(59 / 60)
    assert point["confusion_matrix"] == [[10, 50], [1, 59]]
    assert "sensitivity of 'IDC'" in result.stdout
    assert "finds 17 of 100 patches of class &#x27;IDC&#x27;" in page_of(tmp_path / "report")
    for name in ("roc", "scores", "confusion_matrix", "reliability", "precision_recall"):
        assert "'IDC'" in (tmp_path / "report" / f"{name}.svg").read_text(), name
    other = run_histo("interpret", table, "--positive", "benign")
    assert "Positive class: 'benign' (given)" in other.stdout
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert found["at_0.5"]["sensitivity"] == pytest.approx(59 / 60)


@pytest.mark.slow
def test_where_the_names_say_nothing_only_what_depends_on_it_asks(tmp_path):
    table = write_idc(tmp_path, ["A", "B"])
    result = run_histo("interpret", table)
    assert result.exit_code == 0, result.output
    assert "'B' (the second class: which is positive is not known)" in result.stdout
    assert "give --positive: 'A' or 'B'" in result.stdout
    asked = run_histo("interpret", table, "--sensitivity", 0.9)
    assert_one_line_error(asked, "which is not known", "give --positive: 'A' or 'B'")
    assert run_histo("interpret", table, "--sensitivity", 0.9, "--positive", "A").exit_code == 0
    wrong = run_histo("interpret", table, "--positive", "C")
    assert_one_line_error(wrong, "'C' is no class", "--positive")


def test_two_tables_are_compared_by_the_same_class(tmp_path):
    table = write_idc(tmp_path)
    out = tmp_path / "c.json"
    result = run_histo("compare", table, table, "--out", out)
    assert "positive class: 'IDC'" in result.stdout
    assert json.loads(out.read_text())["A"]["sensitivity"] == pytest.approx(10 / 60)


@pytest.mark.slow
def test_a_run_of_before_has_the_second_class_and_says_so(tmp_path):
    run = write_run(tmp_path / "run")
    write_predictions(run / "predictions.csv", *a_sixth_of_the_cancers(IDC), IDC)
    (run / "split.csv").write_text("id,label,split\n")
    result = run_histo("interpret", run)
    assert result.exit_code == 0, result.output
    assert "'benign' (the second class, as histo took it before it kept this)" in result.stdout
    assert "give --positive if it is 'IDC'" in result.stdout
    found = json.loads((run / "report" / "metrics.json").read_text())
    assert found["at_0.5"]["sensitivity"] == pytest.approx(59 / 60)


@pytest.fixture(scope="module")
def idc_data(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic patches with their labels as IDC's data set has them."""
    folder = tmp_path_factory.mktemp("idc")
    text = (dataset / "train_labels.csv").read_text()
    text = text.replace(",0\n", ",benign\n").replace(",1\n", ",IDC\n")
    (folder / "train_labels.csv").write_text(text)
    (folder / "train").symlink_to(dataset / "train")
    return folder


@pytest.fixture(scope="module")
def idc_run(idc_data: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose positive class was given, and its bundle for a sensitivity of 0.9."""
    run = tmp_path_factory.mktemp("runs") / "idc"
    words = ("--weights", weights, "--epochs", 2, "--positive", "IDC", "--out", run)
    result = run_histo("train", idc_data, *TINY, *words)
    assert result.exit_code == 0, result.output
    assert "positive class: 'IDC' (given)" in result.stdout
    result = run_histo("export", run, "--sensitivity", 0.9)
    assert result.exit_code == 0, result.output
    assert "'IDC' is called at or above" in result.stdout
    return run


@pytest.mark.slow
def test_the_positive_class_goes_from_training_into_the_bundle(idc_run):
    config = json.loads((idc_run / "config.json").read_text())
    assert config["positive"] == {"value": "IDC", "source": "given"}
    assert json.loads((idc_run / "model.json").read_text())["positive"] == "IDC"
    card = json.loads((idc_run / "export" / "model.json").read_text())
    assert (card["positive"], card["vocab"]) == ("IDC", IDC)
    result = run_histo("interpret", idc_run, "--sensitivity", 0.9)
    assert "For a sensitivity of 'IDC' of 0.9" in result.stdout
    assert "Chosen on these patches" in result.stdout
    point = json.loads((idc_run / "report" / "metrics.json").read_text())["at_wanted"]
    table = read_predictions(idc_run / "predictions.csv")
    called = table.probabilities[:, 0] >= point["threshold"]
    assert called[table.labels == 0].mean() >= 0.9
    assert point["chosen_on"] == "these patches"


def test_table_card_and_onnx_are_on_one_scale(idc_run, idc_data, tmp_path):
    """In every row `predicted` follows from the threshold of the card, and model.onnx says the same."""
    bundle, out, kaggle = idc_run / "export", tmp_path / "p.csv", tmp_path / "s.csv"
    result = run_histo("predict", bundle, idc_data / "train", "--out", out, "--submission", kaggle)
    assert result.exit_code == 0, result.output
    card, rows = json.loads((bundle / "model.json").read_text()), rows_of(out)
    assert card["temperature"] != 1
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    facts = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert facts["threshold"] == card["threshold"]
    assert (facts["classes"], facts["positive"]) == (IDC, "IDC")
    assert facts["weights"] == {"source": "body.safetensors"}
    patches = np.stack([read_patch(idc_data / "train" / f"{row['id']}.tif") for row in rows])
    (theirs,) = session.run(None, {"patches": patches})
    assert {row["predicted"] for row in rows} == {"IDC", "benign"}
    for row, given in zip(rows, theirs, strict=True):
        assert float(row["p_IDC"]) == pytest.approx(given[0], abs=1e-6)
        for probability in (float(row["p_IDC"]), given[0]):
            assert (probability >= card["threshold"]) == (row["predicted"] == "IDC")
    assert [row["label"] for row in rows_of(kaggle)] == [row["p_IDC"] for row in rows]


@pytest.mark.slow
def test_an_evaluation_says_what_was_asked_for(idc_run, idc_data, tmp_path):
    out = tmp_path / "there"
    result = run_histo("evaluate", idc_run / "export", idc_data, "--out", out)
    assert result.exit_code == 0, result.output
    assert "Positive class: 'IDC' (as the bundle says)" in result.stdout
    assert "asked for sensitivity of 'IDC' 0.90, here 0." in result.stdout
    assert "as the bundle gives them" in (out / "report" / "reliability.svg").read_text()
    assert "as trained" not in (out / "report" / "reliability.svg").read_text()
    other = run_histo("evaluate", idc_run / "export", idc_data, "--positive", "benign")
    assert_one_line_error(other, "is 'IDC', not 'benign'", "leave --positive out")


@pytest.mark.slow
def test_a_submission_of_a_bundle_that_does_not_say_asks(dataset, tmp_path):
    card = ModelCard("squeezenet1_1", ["A", "B"], 48, None, None, [0.5] * 3, [0.5] * 3)
    write_bundle(tmp_path / "b", make_one(card).eval(), card, {}, pickled=False)
    words = ["predict", tmp_path / "b", dataset / "test", "--out", tmp_path / "p.csv"]
    words += ["--submission", tmp_path / "s.csv"]
    assert_one_line_error(run_histo(*words), "a submission depends on the positive class", "'A' or")
    assert run_histo(*words, "--positive", "A").exit_code == 0
    expected = [row["p_A"] for row in rows_of(tmp_path / "p.csv")]
    assert [row["label"] for row in rows_of(tmp_path / "s.csv")] == expected


def test_with_folds_the_rates_at_a_chosen_threshold_are_cross_fitted(tmp_path):
    """Each patch is called at the threshold of the other folds."""
    run = write_run(tmp_path / "run", folds=4)
    rows = ["id,label,split", *(f"{n},x,fold-{n % 4 + 1}" for n in range(200))]
    (run / "split.csv").write_text("\n".join(rows) + "\n")
    result = run_histo("interpret", run, "--sensitivity", 0.9)
    assert result.exit_code == 0, result.output
    assert "are cross-fitted: chosen on the other folds" in result.stdout
    point = json.loads((run / "report" / "metrics.json").read_text())["at_wanted"]
    table, fold = read_predictions(run / "predictions.csv"), np.arange(200) % 4
    scores, found = table.probabilities[:, 1], 0
    for k in range(4):
        sick = np.sort(scores[(fold != k) & (table.labels == 1)])
        threshold = sick[len(sick) - int(np.ceil(0.9 * len(sick) - 1e-9))]
        found += int((scores[(fold == k) & (table.labels == 1)] >= threshold).sum())
    assert point["sensitivity"] == pytest.approx(found / (table.labels == 1).sum())
    assert point["chosen_on"] == "the other folds"
