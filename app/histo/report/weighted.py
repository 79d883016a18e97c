"""Metrics of weighted patches: what the bootstrap computes for each of its resamples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from histo.config import Wanted
from histo.errors import HistoError
from histo.report.metrics import Labels, Probabilities, scorable_classes
from histo.run.calls import call

Floats = NDArray[np.float64]
Values = dict[str, Floats]
"""Metrics by name: for weights [..., N] each is [...], one value for each row of weights."""
Weighted = Callable[[Floats], Values]
"""Computes metrics from the weights of the patches, [..., N]."""


class Ranked:
    """Scores of one class sorted once, so that each resample costs a few sums.

    `positive` is bool [N], `scores` float [N]. Ties count half, as in scikit-learn.
    """

    def __init__(self, positive: NDArray[np.bool_], scores: Floats) -> None:
        self.order = np.argsort(scores, kind="stable")
        self.positive = positive[self.order]
        ranked = scores[self.order]
        self.ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        self.values = ranked[self.ends]

    def areas(self, weights: Floats) -> tuple[Floats, Floats]:
        """Area under the ROC curve and average precision under weights [..., N].

        Both are nan where only patches of one class have weight.
        """
        below_pos, below_neg = self._below(weights)
        pos, neg = below_pos[..., -1:], below_neg[..., -1:]
        at_pos, at_neg = np.diff(below_pos, prepend=0), np.diff(below_neg, prepend=0)
        called_pos, called_neg = pos - below_pos + at_pos, neg - below_neg + at_neg
        called = np.maximum(called_pos + called_neg, 1e-300)
        pos, neg = pos[..., 0], neg[..., 0]
        with np.errstate(invalid="ignore"):  # 0 / 0 where a class has no weight
            auc = (at_pos * (below_neg - at_neg / 2)).sum(-1) / (pos * neg)
            precision = (at_pos * called_pos / called).sum(-1) / pos
        return auc, np.where(neg > 0, precision, np.nan)

    def threshold(self, weights: Floats, rate: str, wanted: float) -> Floats:
        """The threshold that reaches a sensitivity or specificity (0 to 1) at the least cost.

        The highest with a sensitivity of at least `wanted`, or the lowest with such a specificity;
        a score at or above it is called positive. nan without patches of the class in question.
        """
        sensitivity = rate == "sensitivity"
        below = self._below(weights)[0 if sensitivity else 1]
        total = below[..., -1:]
        with np.errstate(invalid="ignore"):
            share = np.insert(below, 0, 0, -1) / total  # of the class, below each score
        if sensitivity:  # the last score with enough of the class at or above it
            at = (1 - share[..., :-1] >= wanted - 1e-12).sum(-1) - 1
        else:  # the first with enough below it
            at = (share < wanted - 1e-12).sum(-1)
        values = np.append(self.values, np.nextafter(self.values[-1], np.inf))
        return np.where(total[..., 0] > 0, values[at], np.nan)

    def _below(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weight of positives and of negatives at or below each distinct score."""
        w = weights[..., self.order]
        pos, neg = (np.cumsum(w * side, -1) for side in (self.positive, ~self.positive))
        return pos[..., self.ends], neg[..., self.ends]


def wanted_threshold(
    labels: Labels,
    probabilities: Probabilities,
    vocab: Sequence[str],
    wanted: Wanted,
    positive: int = 1,
) -> float:
    """The threshold on the positive class for the wanted rate; HistoError where none can be found."""
    if probabilities.shape[1] != 2:
        raise HistoError("a threshold for a sensitivity or specificity needs two classes")
    needed = positive if wanted.rate == "sensitivity" else 1 - positive
    if not (labels == needed).any():
        raise HistoError(f"a {wanted.rate} needs patches of class {vocab[needed]}: there are none")
    ranked = Ranked(labels == positive, probabilities[:, positive])
    return float(ranked.threshold(np.ones(len(labels)), wanted.rate, wanted.value))


class Scores:
    """The metrics that need no threshold: AUC, average precision, log loss, Brier score."""

    def __init__(self, labels: Labels, probabilities: Probabilities, positive: int = 1) -> None:
        n, classes = probabilities.shape
        shown = scorable_classes(labels, classes, positive)
        self.ranked = [Ranked(labels == c, probabilities[:, c]) for c in shown]
        self.surprise = -np.log(np.clip(probabilities[np.arange(n), labels], 1e-15, 1))
        truth = np.eye(classes)[labels]
        self.square = ((probabilities - truth) ** 2).sum(1) / (2 if classes == 2 else 1)

    def __call__(self, weights: Floats) -> Values:
        """The metrics under weights [..., N]; nan where not defined."""
        total = weights.sum(-1)
        each = [ranked.areas(weights) for ranked in self.ranked]
        areas = np.mean(each, axis=0) if each else np.full((2, *total.shape), np.nan)
        return {
            "roc_auc": areas[0],
            "average_precision": areas[1],
            "log_loss": weights @ self.surprise / total,
            "brier": weights @ self.square / total,
        }


class Counts:
    """The metrics of called classes against true ones, int64 [N] each; of two, one is positive."""

    def __init__(self, labels: Labels, called: Labels, classes: int, positive: int = 1) -> None:
        self.labels, self.called, self.classes = labels, called, classes
        self.positive = positive
        self.right = labels == called
        self.there = np.bincount(labels, minlength=classes) > 0
        self.named = self.there | (np.bincount(called, minlength=classes) > 0)

    def __call__(self, weights: Floats) -> Values:
        """The metrics under weights [..., N]; nan where not defined."""
        true, called = (tally(of, weights, self.classes) for of in (self.labels, self.called))
        right = tally(self.labels, weights * self.right, self.classes)
        with np.errstate(invalid="ignore", divide="ignore"):
            recalls, f1 = right / true, 2 * right / (true + called)
        found = {
            "accuracy": right.sum(-1) / weights.sum(-1),
            "balanced_accuracy": recalls[..., self.there].mean(-1),
            "f1": f1[..., self.positive] if self.classes == 2 else f1[..., self.named].mean(-1),
        }
        if self.classes == 2:
            found["sensitivity"] = recalls[..., self.positive]
            found["specificity"] = recalls[..., 1 - self.positive]
        return found


def tally(of: Labels, weights: Floats, classes: int) -> Floats:
    """The summed weight [..., classes] of each class, from weights [..., N] and classes [N]."""
    rows = weights.reshape(-1, len(of))
    places = np.arange(len(rows))[:, None] * classes + of
    sums = np.bincount(places.ravel(), rows.ravel(), minlength=len(rows) * classes)
    return np.asarray(sums.reshape(*weights.shape[:-1], classes), np.float64)


def together(*parts: Weighted) -> Weighted:
    """Several computations as one; their metrics have different names."""
    return lambda weights: {
        name: values for part in parts for name, values in part(weights).items()
    }


def all_metrics(labels: Labels, probabilities: Probabilities, positive: int = 1) -> Weighted:
    """Every metric of a table for any weights; for two classes at the threshold 0.5."""
    called = call(probabilities, positive=positive)
    counts = Counts(labels, called, probabilities.shape[1], positive)
    return together(Scores(labels, probabilities, positive), counts)
