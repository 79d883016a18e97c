"""A linear head on features: regularised logistic regression, its penalty chosen by cross-validation."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.data.split import fold_of
from histo.errors import HistoError

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Weights of half the squared norm, against the mean loss, from the strongest."""
FOLDS = 3
STEPS, TOLERANCE = 300, 1e-4
"""Of L-BFGS, at most; and the slope at which it has arrived."""
CHOOSING_ROWS, CHOOSING_VIEWS = 20_000, 2
"""Patches and views, at most, on which the penalty is chosen: more hardly change it, and cost minutes."""


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
    mean, std = moments(features)
    features -= mean
    features /= std
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
    """The penalty with the least log loss on patches, seen as they are, that the fit did not see."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(classes))[:CHOOSING_ROWS])
    features, classes = features[drawn, :CHOOSING_VIEWS], classes[drawn]
    units = None if groups is None else [groups[place] for place in drawn]
    fewest = int(np.bincount(classes)[np.unique(classes)].min())
    folds = min(FOLDS, fewest, len(set(units)) if units else FOLDS)
    if folds < 2:
        return 1.0  # nothing to choose by
    try:
        fold = fold_of([str(code) for code in classes], units, folds, seed)
    except HistoError:
        return 1.0
    losses = np.zeros(len(PENALTIES))
    for number in range(folds):
        train, valid = fold != number, fold == number
        if len(np.unique(classes[train])) < len(np.unique(classes)):
            continue  # a class that one group alone has
        losses += path_losses(features, classes, train, valid)
    return PENALTIES[int(losses.argmin())] if losses.any() else 1.0


def path_losses(
    features: NDArray[np.float32],
    classes: NDArray[np.int64],
    train: NDArray[np.bool_],
    valid: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """The summed log loss of one fold's patches for each penalty, each fit beginning at the last."""
    fit = regression(warm=True)
    rows, losses = features[valid, 0], []
    there = np.searchsorted(np.unique(classes), classes[valid])
    for penalty in PENALTIES:
        run(fit, features[train], classes[train], penalty)
        weight, bias = of_all_classes(fit)
        logits = (rows @ weight.T + bias).astype(np.float64)
        each = np.logaddexp.reduce(logits, 1) - logits[np.arange(len(rows)), there]
        losses.append(float(each.sum()))
    return np.array(losses)


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
