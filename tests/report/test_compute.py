"""`Metrics` of a predictions table: typed values in Python, scikit-learn's to rounding."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from histo.config import Wanted
from histo.report.compute import at_threshold, compute_metrics
from histo.report.metrics import youden_threshold
from histo.report.subject import Subject
from histo.report.weighted import all_metrics
from histo.run.predictions import Predictions
from tests.report.tables import predictions, two_classes

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
SCORES = np.array([0.1, 0.2, 0.6, 0.3, 0.4, 0.7, 0.8, 0.9])
TABLE = np.stack([1 - SCORES, SCORES], 1)


def metrics_of(labels, table):
    """Without intervals."""
    return compute_metrics(predictions(labels, table), rounds=0)


def test_counts_and_rates_at_a_threshold():
    at = at_threshold(LABELS, TABLE, 0.5)
    assert at.confusion_matrix == [[3, 1], [1, 3]]
    assert at.sensitivity == at.specificity == at.accuracy == at.f1 == 0.75


def test_a_score_at_the_threshold_is_positive():
    assert at_threshold(LABELS, TABLE, 0.4).sensitivity == 1


@pytest.mark.parametrize("seed", range(5))
def test_youden_is_the_best_sum_of_sensitivity_and_specificity(seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random(40) < 0.3).astype(np.int64)
    scores = np.round(rng.normal(labels), 1)
    best = youden_threshold(labels, scores)
    table = np.stack([-scores, scores], 1)  # only column 1 is compared
    at = [at_threshold(labels, table, t) for t in [best, *scores]]
    sums = [a.sensitivity + a.specificity for a in at]
    assert sums[0] == max(sums)


def test_many_classes_are_judged_one_against_the_rest():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    table = rng.dirichlet([1, 1, 1], 60) + np.eye(3)[labels]
    table /= table.sum(1, keepdims=True)
    found = metrics_of(labels, table)
    assert set(found.classes) == {"0", "1", "2"}
    aucs = [part.roc_auc for part in found.classes.values()]
    assert found.roc_auc == pytest.approx(np.mean(aucs))
    matrix = np.array(found.confusion_matrix)
    assert matrix.sum() == 60
    assert found.balanced_accuracy == pytest.approx(
        np.mean([part.sensitivity for part in found.classes.values()])
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
def test_the_metrics_are_scikit_learns_to_rounding(classes, present, ties):
    """On ties, on tables of one class, of many, and of many where some have no patch."""
    labels, table = simulate(classes, present, ties)
    found = metrics_of(labels, table).as_dict()
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
    found = all_metrics(labels, table)(np.ones(len(labels)))
    resampled = {name: float(value) for name, value in found.items()}
    assert {name: known[name] for name in resampled} == pytest.approx(resampled, nan_ok=True)


def test_what_one_class_does_not_define_is_none_and_the_rest_is_there():
    table = Predictions(list("abcd"), np.zeros(4, np.int64), TABLE[:4], ["normal", "tumour"])
    found = compute_metrics(table, rounds=0)
    assert (found.positive, found.absent) == ("tumour", ["tumour"])
    assert found.roc_auc is found.average_precision is None
    assert list(found.points) == ["0.5"]
    assert found.points["0.5"].sensitivity is None
    assert found.points["0.5"].specificity == 0.75
    assert found.brier == pytest.approx(np.mean(SCORES[:4] ** 2))
    none_called = at_threshold(np.zeros(4, np.int64), TABLE[:4], 0.9)
    assert none_called.f1 is None


def test_metrics_are_read_by_name_and_written_as_json():
    """`metrics.roc_auc`, `metrics.points`; the same values in metrics.json."""
    labels, table = two_classes()
    groups = [f"s{n // 20}" for n in range(200)]
    subject = Subject(unit="slide", groups=groups, threshold=0.4)
    found = compute_metrics(
        predictions(labels, table), subject, wanted=Wanted("sensitivity", 0.9), rounds=20
    )
    assert list(found.points) == ["wanted", "bundle", "0.5", "youden"]
    assert found.point is found.points["wanted"]
    assert found.accuracy == pytest.approx(found.point.accuracy)
    assert (found.positive, found.unit, found.units) == ("1", "slide", 10)
    as_json = json.loads(json.dumps(found.as_dict()))
    assert as_json["roc_auc"] == found.roc_auc
    assert as_json["at_wanted"]["wanted"] == {"sensitivity": 0.9}
    assert as_json["at_bundle"]["threshold"] == 0.4
    assert tuple(as_json["intervals"]["roc_auc"]) == found.intervals["roc_auc"]
    assert as_json["calibration"]["temperature"] == found.calibration.temperature


def test_without_rounds_there_are_no_intervals():
    found = compute_metrics(predictions(*two_classes()), rounds=0).as_dict()
    assert "intervals" not in found
    assert "intervals" not in found["at_0.5"]
