"""The numbers of the report."""

from __future__ import annotations

import numpy as np
import pytest

from histo.errors import HistoError
from histo.report.metrics import at_threshold, judge, log_loss, macro_auc, youden_threshold

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
SCORES = np.array([0.1, 0.2, 0.6, 0.3, 0.4, 0.7, 0.8, 0.9])
TABLE = np.stack([1 - SCORES, SCORES], 1)


def test_auc_is_the_share_of_pairs_in_order():
    pairs = [a < b for a in SCORES[LABELS == 0] for b in SCORES[LABELS == 1]]
    assert macro_auc(LABELS, TABLE) == pytest.approx(np.mean(pairs))


def test_log_loss_is_minus_the_mean_log_of_the_true_class():
    expected = -np.log([0.9, 0.8, 0.4, 0.7, 0.4, 0.7, 0.8, 0.9]).mean()
    assert log_loss(LABELS, TABLE) == pytest.approx(expected)


def test_counts_and_rates_at_a_threshold():
    at = at_threshold(LABELS, SCORES, 0.5)
    assert at["confusion_matrix"] == [[3, 1], [1, 3]]
    assert at["sensitivity"] == at["specificity"] == at["accuracy"] == at["f1"] == 0.75


def test_a_score_at_the_threshold_is_positive():
    assert at_threshold(LABELS, SCORES, 0.4)["sensitivity"] == 1


def test_youden_is_the_best_sum_of_sensitivity_and_specificity():
    best = youden_threshold(LABELS, SCORES)
    at = [at_threshold(LABELS, SCORES, t) for t in [best, *SCORES]]
    sums = [a["sensitivity"] + a["specificity"] for a in at]
    assert sums[0] == max(sums)


def test_many_classes_are_judged_one_against_the_rest():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    table = rng.dirichlet([1, 1, 1], 60) + np.eye(3)[labels]
    table /= table.sum(1, keepdims=True)
    found = judge(labels, table, ["a", "b", "c"])
    assert set(found["classes"]) == {"a", "b", "c"}
    aucs = [c["roc_auc"] for c in found["classes"].values()]
    assert found["roc_auc"] == pytest.approx(np.mean(aucs))
    matrix = np.array(found["confusion_matrix"])
    assert matrix.sum() == 60
    assert found["balanced_accuracy"] == pytest.approx(
        np.mean([c["sensitivity"] for c in found["classes"].values()])
    )


def test_a_class_without_a_patch_is_refused():
    with pytest.raises(HistoError, match="no patch of class 'tumour'"):
        judge(np.zeros(4, np.int64), TABLE[:4], ["normal", "tumour"])
