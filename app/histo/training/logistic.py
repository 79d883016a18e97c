"""A linear head on features: regularised logistic regression, its penalty chosen by cross-validation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.data.split import fold_of

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Weights of half the squared norm, against the mean loss, from the strongest."""
FOLDS = 3
STEPS, TOLERANCE = 300, 1e-4
"""Of L-BFGS, at most; and the slope at which it has arrived."""
CHOOSING_ROWS = 50_000
"""Views of patches, at most, on which the penalty is chosen: more hardly change it, and cost minutes."""


@dataclass(frozen=True)
class LinearHead:
    """Logits of features f [F] are `weight @ f + bias`: float32 [C, F] and [C]."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    penalty: float


def fit_head(
    features: NDArray[np.float32],
    classes: NDArray[np.int64],
    groups: list[str] | None,
    seed: int,
) -> LinearHead:
    """Fit a head to features [N, V, F] of V views of N patches, and their classes [N].

    Features are standardised for the fit; the head takes them as they are. The views of a patch have
    the weight of one patch together. Patches of a group are never on both sides when the penalty
    is chosen.
    """
    from threadpoolctl import threadpool_limits

    mean, std = moments(features)
    features -= mean
    features /= std
    with threadpool_limits(1, "blas"):  # NumPy's and SciPy's threads take each other's processors
        penalty = choose_penalty(features, classes, groups, seed)
        weight, bias = solve(features, classes, penalty)
    scaled = weight / std
    return LinearHead(scaled.astype(np.float32), (bias - scaled @ mean).astype(np.float32), penalty)


def moments(features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation [F] over all views of all patches; 1 for a feature that is constant."""
    mean, std = features.mean((0, 1), np.float64), features.std((0, 1), np.float64)
    return mean.astype(np.float32), np.where(std > 1e-6, std, 1).astype(np.float32)


def choose_penalty(
    features: NDArray[np.float32],
    classes: NDArray[np.int64],
    groups: list[str] | None,
    seed: int,
) -> float:
    """The penalty with the least log loss on patches, seen as they are, that the fit did not see.

    From the strongest on, each fit begins at the last; once the loss rises, weaker ones are not tried.
    """
    count = max(1, CHOOSING_ROWS // features.shape[1])
    drawn = np.sort(np.random.default_rng(seed).permutation(len(classes))[:count])
    features, classes = features[drawn], classes[drawn]
    units = None if groups is None else [groups[place] for place in drawn]
    parts = [Part(features, classes, fold) for fold in folds_of(classes, units, seed)]
    best, least = 1.0, np.inf  # where there is nothing to choose by
    for penalty in PENALTIES if parts else ():
        loss = sum(part.loss(penalty) for part in parts)
        if loss > least:
            break
        best, least = penalty, loss
    return best


def folds_of(
    classes: NDArray[np.int64], groups: list[str] | None, seed: int
) -> list[NDArray[np.bool_]]:
    """Who validates [N], fold by fold; folds whose other patches lack a class are left out."""
    fewest = int(np.bincount(classes)[np.unique(classes)].min())
    count = min(FOLDS, fewest, len(set(groups)) if groups else FOLDS)
    if count < 2:
        return []
    fold = fold_of([str(code) for code in classes], groups, count, seed)
    sides = [fold == number for number in range(count)]
    kinds = len(np.unique(classes))
    return [valid for valid in sides if len(np.unique(classes[~valid])) == kinds and valid.any()]


class Part:
    """A fold: the fit to the other patches, and the patches that judge it."""

    def __init__(
        self,
        features: NDArray[np.float32],
        classes: NDArray[np.int64],
        valid: NDArray[np.bool_],
    ) -> None:
        self.fit = regression(warm=True)
        self.features, self.classes = features[~valid], classes[~valid]
        self.rows = features[valid, 0]
        self.there = np.searchsorted(np.unique(classes), classes[valid])

    def loss(self, penalty: float) -> float:
        """The summed log loss with this penalty."""
        run(self.fit, self.features, self.classes, penalty)
        weight, bias = of_all_classes(self.fit)
        logits = (self.rows @ weight.T + bias).astype(np.float64)
        right = logits[np.arange(len(logits)), self.there]
        return float((np.logaddexp.reduce(logits, 1) - right).sum())


def solve(
    features: NDArray[np.float32], classes: NDArray[np.int64], penalty: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights [C, F] and biases [C] whose softmax has the least penalised loss."""
    fit = regression()
    run(fit, features, classes, penalty)
    return of_all_classes(fit)


def of_all_classes(fit: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights [C, F] and biases [C]; of two classes scikit-learn has the difference of the logits."""
    weight, bias = fit.coef_.astype(np.float32), fit.intercept_.astype(np.float32)
    if len(weight) > 1:
        return weight, bias
    both = np.array([-0.5, 0.5], np.float32)
    return both[:, None] * weight, both * bias


def regression(warm: bool = False) -> Any:
    """scikit-learn's, by L-BFGS."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(solver="lbfgs", max_iter=STEPS, tol=TOLERANCE, warm_start=warm)


def run(
    fit: Any, features: NDArray[np.float32], classes: NDArray[np.int64], penalty: float
) -> None:
    """Fit to features [N, V, F]: scikit-learn's C is against the sum of the losses, not their mean."""
    count, views, _ = features.shape
    fit.C = 1 / (penalty * count)
    weights = np.full(count * views, 1 / views, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what has not quite converged predicts as well
        fit.fit(features.reshape(count * views, -1), classes.repeat(views), weights)
