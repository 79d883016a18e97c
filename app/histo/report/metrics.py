"""Metrics of labels and probabilities, as scikit-learn defines them; no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from histo.run.calls import call

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]
Value = float | None
"""The value of a metric; None where it is not defined, as the AUC of patches of one class."""


def log_loss(labels: Labels, probabilities: Probabilities) -> float:
    """Mean negative log-likelihood in nats; labels int64 [N], probabilities [N, C]."""
    right = probabilities[np.arange(len(labels)), labels]
    return 0.0 - float(np.log(np.clip(right, 1e-15, 1)).mean())  # a minus sign alone would give -0


def brier(labels: Labels, probabilities: Probabilities) -> float:
    """Mean squared error of the probabilities, 0 to 1 for two classes, 0 to 2 for more.

    As scikit-learn's `brier_score_loss`: for two classes, of the probability of one alone.
    """
    truth = np.eye(probabilities.shape[1])[labels]
    square = float(((probabilities - truth) ** 2).sum(1).mean())
    return square / 2 if probabilities.shape[1] == 2 else square


def macro_auc(labels: Labels, probabilities: Probabilities) -> float:
    """Area under the ROC curve: of two classes the same for both, else the mean of one-vs-rest.

    Classes without a patch are left out of the mean. nan where all patches are of one class, or
    a probability is not finite.
    """
    if not np.isfinite(probabilities).all():
        return float("nan")
    classes = scorable_classes(labels, probabilities.shape[1])
    areas = [areas_of(labels == c, probabilities[:, c])[0] for c in classes]
    return float(np.mean(np.array(areas, float))) if areas else float("nan")


def scorable_classes(labels: Labels, classes: int, positive: int = 1) -> list[int]:
    """The classes that have a ROC curve: some patches are of the class, and some are not.

    For two classes that is the positive one, or none.
    """
    counts = np.bincount(labels, minlength=classes)
    own = [c for c in range(classes) if 0 < counts[c] < len(labels)]
    return [positive] if classes == 2 and own else own


def areas_of(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[Value, Value]:
    """Area under the ROC curve, average precision; None where all are positive or all negative."""
    if positive.all() or not positive.any():
        return None, None
    auc = sk.roc_auc_score(positive, scores)
    return float(auc), float(sk.average_precision_score(positive, scores))


def youden_threshold(labels: Labels, scores: NDArray[np.float64]) -> float:
    """The threshold with the largest sensitivity + specificity - 1 (Youden, 1950).

    `labels` are 0 or 1; a score at or above the threshold is called positive.
    """
    fpr, tpr, thresholds = sk.roc_curve(labels, scores)
    return float(thresholds[1:][np.argmax((tpr - fpr)[1:])])


def confusion_matrix(labels: Labels, called: Labels, classes: int) -> list[list[int]]:
    """Patches by true class (rows) and called class (columns)."""
    matrix: list[list[int]] = sk.confusion_matrix(labels, called, labels=range(classes)).tolist()
    return matrix


def ratio(part: float, whole: float) -> Value:
    """Part of a whole; None where the whole is 0."""
    return part / whole if whole else None


def mean_of_known(values: list[Value]) -> Value:
    """The mean of the values that are defined; None where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def accuracy_by_coverage(
    labels: Labels, probabilities: Probabilities, points: int = 50
) -> list[tuple[float, float]]:
    """Accuracy on the most confident patches, as (share of patches, accuracy among them)."""
    order = np.argsort(-probabilities.max(1), kind="stable")
    right = (call(probabilities) == labels)[order]
    counts = np.unique(np.linspace(max(1, len(labels) // points), len(labels), points).astype(int))
    sums = np.cumsum(right)
    return [(float(n / len(labels)), float(sums[n - 1] / n)) for n in counts]
