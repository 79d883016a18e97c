"""Metrics of labels and probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from histo.report.metrics import accuracy_by_coverage, log_loss, macro_auc, scorable_classes

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
SCORES = np.array([0.1, 0.2, 0.6, 0.3, 0.4, 0.7, 0.8, 0.9])
TABLE = np.stack([1 - SCORES, SCORES], 1)


def test_auc_is_the_share_of_pairs_in_order():
    pairs = [a < b for a in SCORES[LABELS == 0] for b in SCORES[LABELS == 1]]
    assert macro_auc(LABELS, TABLE) == pytest.approx(np.mean(pairs))


def test_log_loss_is_minus_the_mean_log_of_the_true_class():
    expected = -np.log([0.9, 0.8, 0.4, 0.7, 0.4, 0.7, 0.8, 0.9]).mean()
    assert log_loss(LABELS, TABLE) == pytest.approx(expected)
    assert str(log_loss(np.array([1]), np.array([[0.0, 1.0]]))) == "0.0"  # not -0.0


def test_a_sure_and_wrong_answer_costs_much_but_not_all():
    """As much as a chance of 1e-15, and one of 1e-6 what it is."""
    table = np.array([[1.0, 0.0], [1 - 1e-6, 1e-6]])
    expected = (15 + 6) * np.log(10) / 2
    assert log_loss(np.array([1, 1]), table) == pytest.approx(expected)


def test_accuracy_by_coverage_takes_the_most_confident_patches_first():
    """By confidence: 0.99 right, 0.9 right, 0.6 right, 0.55 wrong."""
    scores = np.array([0.01, 0.9, 0.45, 0.4])
    found = accuracy_by_coverage(np.array([0, 1, 1, 0]), np.stack([1 - scores, scores], 1))
    assert found == [(0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (1.0, 0.75)]


def test_a_class_with_all_patches_or_none_has_no_roc_curve():
    assert scorable_classes(np.array([2, 2, 2]), 3) == []
    assert scorable_classes(np.array([0, 2, 2]), 3) == [0, 2]
    assert scorable_classes(np.array([0, 1]), 2) == [1]
