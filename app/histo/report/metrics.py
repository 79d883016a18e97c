"""What a predictions table says, in numbers: scikit-learn's metrics, no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]
Figure = float | None
"""A figure; None where the patches do not define it: an AUC of patches of one class."""


def log_loss(labels: Labels, probabilities: Probabilities) -> float:
    """Mean negative log-likelihood in nats; labels int64 [N], probabilities [N, C]."""
    right = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(right, 1e-15, 1)).mean())


def brier(labels: Labels, probabilities: Probabilities) -> float:
    """Mean squared error of the probabilities, 0 to 1 for two classes, 0 to 2 for more.

    As scikit-learn's `brier_score_loss`: for two classes of class 1's probability alone.
    """
    truth = np.eye(probabilities.shape[1])[labels]
    square = float(((probabilities - truth) ** 2).sum(1).mean())
    return square / 2 if probabilities.shape[1] == 2 else square


def macro_auc(labels: Labels, probabilities: Probabilities) -> float:
    """Area under the ROC curve: of class 1 for two classes, else the mean of one-vs-rest.

    Classes without a patch are left out of the mean; nan where one class has all the patches.
    """
    if not np.isfinite(probabilities).all():
        return float("nan")
    classes = scorable_classes(labels, probabilities.shape[1])
    areas = [areas_of(labels == c, probabilities[:, c])[0] for c in classes]
    return float(np.mean(np.array(areas, float))) if areas else float("nan")


def scorable_classes(labels: Labels, classes: int) -> list[int]:
    """The classes with a patch of their own and one of another: 1 alone, where there are two."""
    counts = np.bincount(labels, minlength=classes)
    own = [c for c in range(classes) if 0 < counts[c] < len(labels)]
    return own[1:] if classes == 2 else own


def areas_of(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[Figure, Figure]:
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


def at_threshold(labels: Labels, scores: NDArray[np.float64], threshold: float) -> dict[str, Any]:
    """Accuracy, balanced accuracy, sensitivity, specificity, F1 and counts at one threshold.

    A rate of no patches is None; balanced accuracy is the mean of those that there are.
    """
    called = (scores >= threshold).astype(np.int64)
    (tn, fp), (fn, tp) = sk.confusion_matrix(labels, called, labels=[0, 1]).tolist()
    sensitivity, specificity = share(tp, tp + fn), share(tn, tn + fp)
    rates = [rate for rate in (sensitivity, specificity) if rate is not None]
    return {
        "threshold": threshold,
        "accuracy": (tp + tn) / len(labels),
        "balanced_accuracy": sum(rates) / len(rates),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1": share(2 * tp, 2 * tp + fp + fn),
        "confusion_matrix": [[tn, fp], [fn, tp]],
    }


def share(part: float, whole: float) -> Figure:
    """Part of a whole, None of nothing."""
    return part / whole if whole else None


def by_group(
    labels: Labels, probabilities: Probabilities, groups: list[str], threshold: float
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
            row["positives"] = int(truth.sum())
            row["roc_auc"], _ = areas_of(truth == 1, probabilities[rows, 1])
            row["sensitivity"] = float(right[truth == 1].mean()) if truth.any() else None
            row["specificity"] = float(right[truth == 0].mean()) if not truth.all() else None
        found.append(row)
    return sorted(found, key=lambda row: (-row["error_rate"], -row["patches"], row["group"]))


def selective(
    labels: Labels, probabilities: Probabilities, points: int = 50
) -> list[tuple[float, float]]:
    """Accuracy of the share of patches with the most certain answers, as (share, accuracy)."""
    order = np.argsort(-probabilities.max(1), kind="stable")
    right = (probabilities.argmax(1) == labels)[order]
    counts = np.unique(np.linspace(max(1, len(labels) // points), len(labels), points).astype(int))
    sums = np.cumsum(right)
    return [(float(n / len(labels)), float(sums[n - 1] / n)) for n in counts]


def compute_metrics(
    labels: Labels, probabilities: Probabilities, vocab: list[str]
) -> dict[str, Any]:
    """All of metrics.json; a figure is None where a class that it needs has no patch.

    For two classes class 1 (the second of `vocab`) is the positive one. For more, means over
    classes are over those with patches, as scikit-learn's.
    """
    result: dict[str, Any] = {
        "patches": len(labels),
        "vocab": vocab,
        "absent": [name for c, name in enumerate(vocab) if not (labels == c).any()],
    }
    if len(vocab) == 2:
        result |= {"positive": vocab[1], **_binary(labels, probabilities[:, 1])}
    else:
        result |= _many(labels, probabilities, vocab)
    return result | {
        "log_loss": log_loss(labels, probabilities),
        "brier": brier(labels, probabilities),
    }


def _binary(labels: Labels, scores: NDArray[np.float64]) -> dict[str, Any]:
    """The figures of two classes: areas, and counts at 0.5 and at Youden's threshold."""
    auc, precision = areas_of(labels == 1, scores)
    found = {"roc_auc": auc, "average_precision": precision}
    points = {"at_0.5": 0.5} | (
        {} if auc is None else {"at_youden": youden_threshold(labels, scores)}
    )
    return found | {name: at_threshold(labels, scores, at) for name, at in points.items()}


def _many(labels: Labels, probabilities: Probabilities, vocab: list[str]) -> dict[str, Any]:
    """The figures of many classes: of each against the rest, and their means."""
    called = probabilities.argmax(1)
    classes = {}
    for c, name in enumerate(vocab):
        truth = labels == c
        auc, precision = areas_of(truth, probabilities[:, c])
        at = at_threshold(truth.astype(np.int64), (called == c).astype(float), 0.5)
        rates = {key: at[key] for key in ("sensitivity", "specificity", "f1")}
        classes[name] = {"roc_auc": auc, "average_precision": precision, **rates}

    def mean(key: str) -> Figure:
        known = [part[key] for part in classes.values() if part[key] is not None]
        return float(np.mean(known)) if known else None

    matrix = sk.confusion_matrix(labels, called, labels=range(len(vocab)))
    return {
        "roc_auc": mean("roc_auc"),
        "average_precision": mean("average_precision"),
        "accuracy": float((called == labels).mean()),
        "balanced_accuracy": mean("sensitivity"),
        "f1": mean("f1"),
        "confusion_matrix": matrix.tolist(),
        "classes": classes,
    }
