"""Metrics of weighted patches are those of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from histo.report.weighted import Counts, Ranked, all_metrics


def simulate(rng: np.random.Generator, n: int, shift: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores whose true AUC is norm.cdf(shift / sqrt(2))."""
    labels = rng.integers(2, size=n)
    scores = 1 / (1 + np.exp(-(rng.normal(size=n) + shift * labels - shift / 2)))
    return labels, np.stack([1 - scores, scores], 1)


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_of_two_classes_are_scikit_learns_with_weights_and_ties(ties):
    rng = np.random.default_rng(0)
    labels, table = simulate(rng, 300)
    if ties:
        table = table.round(1)
    w = rng.integers(0, 4, 300).astype(float)
    scores, called = table[:, 1], table[:, 1] >= 0.5
    expected = {
        "roc_auc": sk.roc_auc_score(labels, scores, sample_weight=w),
        "average_precision": sk.average_precision_score(labels, scores, sample_weight=w),
        "accuracy": sk.accuracy_score(labels, called, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, called, sample_weight=w),
        "f1": sk.f1_score(labels, called, sample_weight=w),
        "log_loss": sk.log_loss(labels, np.clip(table, 1e-15, 1), sample_weight=w),
        "brier": sk.brier_score_loss(labels, scores, sample_weight=w),
        "sensitivity": sk.recall_score(labels, called, sample_weight=w),
        "specificity": sk.recall_score(labels, called, pos_label=0, sample_weight=w),
    }
    assert all_metrics(labels, table)(w) == pytest.approx(expected, rel=1e-9)


def test_metrics_of_many_classes_are_scikit_learns_with_weights():
    rng = np.random.default_rng(1)
    labels, table = rng.integers(4, size=400), rng.dirichlet(np.ones(4), 400)
    w = rng.integers(0, 3, 400).astype(float)
    called = table.argmax(1)
    one_hot = np.eye(4)[labels]
    expected = {
        "roc_auc": np.mean(
            [sk.roc_auc_score(one_hot[:, c], table[:, c], sample_weight=w) for c in range(4)]
        ),
        "average_precision": np.mean(
            [
                sk.average_precision_score(one_hot[:, c], table[:, c], sample_weight=w)
                for c in range(4)
            ]
        ),
        "accuracy": sk.accuracy_score(labels, called, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, called, sample_weight=w),
        "f1": sk.f1_score(labels, called, average="macro", sample_weight=w),
        "log_loss": sk.log_loss(labels, table, sample_weight=w),
        "brier": float((w @ ((table - one_hot) ** 2).sum(1)) / w.sum()),
    }
    assert all_metrics(labels, table)(w) == pytest.approx(expected, rel=1e-9)


def test_a_resample_of_one_class_has_no_auc_but_an_accuracy():
    labels, table = simulate(np.random.default_rng(2), 20)
    found = all_metrics(labels, table)((labels == 1).astype(float))
    assert np.isnan(found["roc_auc"])
    assert np.isnan(found["average_precision"])
    assert 0 <= found["accuracy"] <= 1


def test_where_nothing_is_right_accuracy_is_0():
    labels = np.array([0, 1, 1])
    found = Counts(labels, 1 - labels, 2)(np.ones((5, 3)))
    assert all((values == np.zeros(5)).all() for values in found.values())


def test_a_threshold_reaches_the_rate_that_was_wanted_and_no_better_one_does():
    rng = np.random.default_rng(7)
    labels, table = simulate(rng, 300)
    scores = table[:, 1].round(2)
    ranked, weights = Ranked(labels == 1, scores), np.ones(300)
    for wanted in (0.5, 0.9, 0.95, 1):
        high = ranked.threshold(weights, "sensitivity", wanted)
        assert (scores[labels == 1] >= high).mean() >= wanted
        above = scores[scores > high].min()
        assert (scores[labels == 1] >= above).mean() < wanted
        low = ranked.threshold(weights, "specificity", wanted)
        assert (scores[labels == 0] < low).mean() >= wanted
        below = scores[scores < low].max()
        assert (scores[labels == 0] < below).mean() < wanted
