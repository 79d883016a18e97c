"""The numbers of the report."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from histo.report.intervals import all_figures
from histo.report.metrics import (
    at_threshold,
    by_group,
    compute_metrics,
    log_loss,
    macro_auc,
    scorable_classes,
    selective,
    youden_threshold,
)

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
SCORES = np.array([0.1, 0.2, 0.6, 0.3, 0.4, 0.7, 0.8, 0.9])
TABLE = np.stack([1 - SCORES, SCORES], 1)


def test_auc_is_the_share_of_pairs_in_order():
    pairs = [a < b for a in SCORES[LABELS == 0] for b in SCORES[LABELS == 1]]
    assert macro_auc(LABELS, TABLE) == pytest.approx(np.mean(pairs))


def test_log_loss_is_minus_the_mean_log_of_the_true_class():
    expected = -np.log([0.9, 0.8, 0.4, 0.7, 0.4, 0.7, 0.8, 0.9]).mean()
    assert log_loss(LABELS, TABLE) == pytest.approx(expected)


def test_a_sure_and_wrong_answer_costs_much_but_not_all():
    """As much as a chance of 1e-15, and one of 1e-6 what it is."""
    table = np.array([[1.0, 0.0], [1 - 1e-6, 1e-6]])
    expected = (15 + 6) * np.log(10) / 2
    assert log_loss(np.array([1, 1]), table) == pytest.approx(expected)


def test_counts_and_rates_at_a_threshold():
    at = at_threshold(LABELS, SCORES, 0.5)
    assert at["confusion_matrix"] == [[3, 1], [1, 3]]
    assert at["sensitivity"] == at["specificity"] == at["accuracy"] == at["f1"] == 0.75


def test_a_score_at_the_threshold_is_positive():
    assert at_threshold(LABELS, SCORES, 0.4)["sensitivity"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_youden_is_the_best_sum_of_sensitivity_and_specificity(seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random(40) < 0.3).astype(np.int64)
    scores = np.round(rng.normal(labels), 1)
    best = youden_threshold(labels, scores)
    at = [at_threshold(labels, scores, t) for t in [best, *scores]]
    sums = [a["sensitivity"] + a["specificity"] for a in at]
    assert sums[0] == max(sums)


def test_the_most_certain_answers_come_first():
    """Sure and right, surer than not and right, a guess and wrong, a better guess and right."""
    scores = np.array([0.01, 0.9, 0.45, 0.4])
    found = selective(np.array([0, 1, 1, 0]), np.stack([1 - scores, scores], 1))
    assert found == [(0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (1.0, 0.75)]


def test_a_group_is_judged_at_the_threshold_and_each_class_by_its_own():
    """Three normal patches, of which one is called; one of tumour, at the threshold itself."""
    scores = np.array([0.1, 0.2, 0.9, 0.6])
    table, labels = np.stack([1 - scores, scores], 1), np.array([0, 0, 0, 1])
    (row,) = by_group(labels, table, ["s"] * 4, 0.6)
    assert (row["patches"], row["positives"], row["errors"]) == (4, 1, 1)
    assert (row["sensitivity"], row["specificity"]) == (1, pytest.approx(2 / 3))
    assert row["roc_auc"] == pytest.approx(2 / 3)


def test_many_classes_are_judged_one_against_the_rest():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    table = rng.dirichlet([1, 1, 1], 60) + np.eye(3)[labels]
    table /= table.sum(1, keepdims=True)
    found = compute_metrics(labels, table, ["a", "b", "c"])
    assert set(found["classes"]) == {"a", "b", "c"}
    aucs = [c["roc_auc"] for c in found["classes"].values()]
    assert found["roc_auc"] == pytest.approx(np.mean(aucs))
    matrix = np.array(found["confusion_matrix"])
    assert matrix.sum() == 60
    assert found["balanced_accuracy"] == pytest.approx(
        np.mean([c["sensitivity"] for c in found["classes"].values()])
    )


def simulate(classes: int, present: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the first `present` of some classes, and probabilities that know them a little."""
    rng = np.random.default_rng(classes + 10 * present)
    labels = rng.integers(present, size=120)
    table = rng.dirichlet(np.ones(classes), 120) + 0.5 * np.eye(classes)[labels]
    table /= table.sum(1, keepdims=True)
    return labels, np.round(table * 4) / 4 if ties and classes == 2 else table


CASES = [(2, 2, False), (2, 2, True), (2, 1, False), (5, 5, False), (5, 4, False), (5, 1, False)]


@pytest.mark.parametrize(("classes", "present", "ties"), CASES)
@pytest.mark.filterwarnings("ignore")
def test_the_figures_are_scikit_learns_to_rounding(classes, present, ties):
    """On ties, on tables of one class, of many, and of many where some have no patch."""
    labels, table = simulate(classes, present, ties)
    found = compute_metrics(labels, table, [f"c{c}" for c in range(classes)])
    called = (table[:, 1] >= 0.5).astype(int) if classes == 2 else table.argmax(1)
    every, truth = range(classes), np.eye(classes)[labels]
    square = ((table - truth) ** 2).sum(1).mean() / (2 if classes == 2 else 1)
    average = "binary" if classes == 2 else "macro"
    expected = {
        "log_loss": sk.log_loss(labels, np.clip(table, 1e-15, 1), labels=every),
        "brier": square,
        "accuracy": sk.accuracy_score(labels, called),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, called),
        "f1": sk.f1_score(labels, called, average=average),
    }
    if classes == 2:
        assert found["brier"] == pytest.approx(sk.brier_score_loss(labels, table[:, 1]))
    told = [1] if classes == 2 else range(present)
    for name, area in (
        ("roc_auc", sk.roc_auc_score),
        ("average_precision", sk.average_precision_score),
    ):
        areas = [area(labels == c, table[:, c]) for c in told]
        expected[name] = np.mean(areas) if present > 1 else np.nan
    at = found | (found["at_0.5"] if classes == 2 else {})
    assert at["confusion_matrix"] == sk.confusion_matrix(labels, called, labels=every).tolist()
    known = {name: np.nan if value is None else value for name, value in at.items()}
    ours = {name: known[name] for name in expected}
    assert ours == pytest.approx(expected, rel=1e-12, nan_ok=True)
    found = all_figures(labels, table)(np.ones(len(labels)))
    resampled = {name: float(value) for name, value in found.items()}
    assert {name: known[name] for name in resampled} == pytest.approx(resampled, nan_ok=True)


def test_a_class_that_has_all_patches_or_none_is_told_apart_from_nothing():
    assert scorable_classes(np.array([2, 2, 2]), 3) == []
    assert scorable_classes(np.array([0, 2, 2]), 3) == [0, 2]
    assert scorable_classes(np.array([0, 1]), 2) == [1]


def test_what_one_class_does_not_define_is_none_and_the_rest_is_there():
    found = compute_metrics(np.zeros(4, np.int64), TABLE[:4], ["normal", "tumour"])
    assert (found["positive"], found["absent"]) == ("tumour", ["tumour"])
    assert found["roc_auc"] is found["average_precision"] is None
    assert "at_youden" not in found
    assert found["at_0.5"]["sensitivity"] is None
    assert found["at_0.5"]["specificity"] == 0.75
    assert found["brier"] == pytest.approx(np.mean(SCORES[:4] ** 2))
    none_called = at_threshold(np.zeros(4, np.int64), SCORES[:4], 0.9)
    assert none_called["f1"] is None
