"""What a predictions table says, in numbers: scikit-learn's metrics, no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from histo.errors import HistoError

Labels = NDArray[np.int64]
Table = NDArray[np.float64]


def log_loss(labels: Labels, probabilities: Table) -> float:
    """Mean negative log-likelihood in nats; labels int64 [N], probabilities [N, C]."""
    right = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(right, 1e-15, 1)).mean())


def brier(labels: Labels, probabilities: Table) -> float:
    """Mean squared error of the probabilities, 0 to 1 for two classes, 0 to 2 for more.

    As scikit-learn's `brier_score_loss`: for two classes of class 1's probability alone.
    """
    truth = np.eye(probabilities.shape[1])[labels]
    square = float(((probabilities - truth) ** 2).sum(1).mean())
    return square / 2 if probabilities.shape[1] == 2 else square


def macro_auc(labels: Labels, probabilities: Table) -> float:
    """Area under the ROC curve: of class 1 for two classes, else the mean of one-vs-rest."""
    if not np.isfinite(probabilities).all():
        return float("nan")
    if probabilities.shape[1] == 2:
        return float(sk.roc_auc_score(labels, probabilities[:, 1]))
    return float(np.mean([auc_of(labels, probabilities, c) for c in range(probabilities.shape[1])]))


def auc_of(labels: Labels, probabilities: Table, c: int) -> float:
    """Area under the ROC curve of class `c` against the rest."""
    return float(sk.roc_auc_score(labels == c, probabilities[:, c]))


def youden_threshold(labels: Labels, scores: NDArray[np.float64]) -> float:
    """The threshold with the largest sensitivity + specificity - 1 (Youden, 1950).

    `labels` are 0 or 1; a score at or above the threshold is called positive.
    """
    fpr, tpr, thresholds = sk.roc_curve(labels, scores)
    return float(thresholds[1:][np.argmax((tpr - fpr)[1:])])


def at_threshold(
    labels: Labels, scores: NDArray[np.float64], threshold: float
) -> dict[str, float | list[list[int]]]:
    """Accuracy, balanced accuracy, sensitivity, specificity, F1 and counts at one threshold."""
    called = (scores >= threshold).astype(np.int64)
    (tn, fp), (fn, tp) = sk.confusion_matrix(labels, called, labels=[0, 1])
    sensitivity, specificity = float(tp / (tp + fn)), float(tn / (tn + fp))
    return {
        "threshold": threshold,
        "accuracy": float((tp + tn) / len(labels)),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1": float(2 * tp / (2 * tp + fp + fn)),
        "confusion_matrix": [[int(tn), int(fp)], [int(fn), int(tp)]],
    }


def by_group(
    labels: Labels, probabilities: Table, groups: list[str], threshold: float
) -> list[dict[str, Any]]:
    """Patches, errors and AUC of each group, the one with the most errors by share first.

    For two classes with positives, AUC (None where a group has one class), sensitivity and
    specificity at the threshold.
    """
    names, codes = np.unique(groups, return_inverse=True)
    binary = probabilities.shape[1] == 2
    called = (
        (probabilities[:, 1] >= threshold).astype(np.int64) if binary else probabilities.argmax(1)
    )
    found = []
    for code, name in enumerate(names):
        rows = np.flatnonzero(codes == code)
        truth, right = labels[rows], called[rows] == labels[rows]
        row: dict[str, Any] = {"group": str(name), "patches": len(rows)}
        row |= {"errors": int((~right).sum()), "error_rate": float((~right).mean())}
        if binary:
            both = 0 < truth.sum() < len(truth)
            row["positives"] = int(truth.sum())
            row["roc_auc"] = macro_auc(truth, probabilities[rows]) if both else None
            row["sensitivity"] = float(right[truth == 1].mean()) if truth.any() else None
            row["specificity"] = float(right[truth == 0].mean()) if not truth.all() else None
        found.append(row)
    return sorted(found, key=lambda row: (-row["error_rate"], -row["patches"], row["group"]))


def selective(labels: Labels, probabilities: Table, points: int = 50) -> list[tuple[float, float]]:
    """Accuracy of the share of patches with the most certain answers, as (share, accuracy)."""
    order = np.argsort(-probabilities.max(1), kind="stable")
    right = (probabilities.argmax(1) == labels)[order]
    counts = np.unique(np.linspace(max(1, len(labels) // points), len(labels), points).astype(int))
    sums = np.cumsum(right)
    return [(float(n / len(labels)), float(sums[n - 1] / n)) for n in counts]


def judge(labels: Labels, probabilities: Table, vocab: list[str]) -> dict[str, Any]:
    """All of metrics.json. Every class must have a patch.

    For two classes class 1 (the second of `vocab`) is the positive one.
    """
    absent = [name for c, name in enumerate(vocab) if not (labels == c).any()]
    if absent:
        raise HistoError(f"no patch of class {absent[0]!r} in the predictions table")
    called = probabilities.argmax(1)
    result: dict[str, Any] = {
        "patches": len(labels),
        "vocab": vocab,
        "roc_auc": macro_auc(labels, probabilities),
        "log_loss": log_loss(labels, probabilities),
        "brier": brier(labels, probabilities),
    }
    if len(vocab) == 2:
        scores = probabilities[:, 1]
        result["average_precision"] = float(sk.average_precision_score(labels, scores))
        result["positive"] = vocab[1]
        result["at_0.5"] = at_threshold(labels, scores, 0.5)
        result["at_youden"] = at_threshold(labels, scores, youden_threshold(labels, scores))
        return result
    matrix = sk.confusion_matrix(labels, called, labels=range(len(vocab)))
    recalls = matrix.diagonal() / matrix.sum(1)
    classes = {}
    for c, name in enumerate(vocab):
        truth = labels == c
        binary = at_threshold(truth.astype(np.int64), (called == c).astype(float), 0.5)
        classes[name] = {
            "roc_auc": auc_of(labels, probabilities, c),
            "average_precision": float(sk.average_precision_score(truth, probabilities[:, c])),
            "sensitivity": binary["sensitivity"],
            "specificity": binary["specificity"],
            "f1": binary["f1"],
        }
    result["average_precision"] = float(np.mean([c["average_precision"] for c in classes.values()]))
    result["accuracy"] = float((called == labels).mean())
    result["balanced_accuracy"] = float(recalls.mean())
    result["f1"] = float(np.mean([c["f1"] for c in classes.values()]))
    result["confusion_matrix"] = matrix.tolist()
    result["classes"] = classes
    return result
