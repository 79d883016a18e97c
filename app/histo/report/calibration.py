"""Whether a probability of 0.8 comes true in 80 of 100 cases, and what to do where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.report.metrics import Labels, Probabilities, brier, log_loss
from histo.run.calls import apply_temperature

BINS = 15
"""Bins of equal count in the reliability diagram and the calibration error."""

PARTS = 10
"""Parts of the patches that are scaled by what fits the others."""


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy in bins of equal count, and the expected calibration error."""

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Mean distance between confidence and accuracy, weighted by count."""
        gap = np.abs(self.confidence - self.accuracy)
        return float((gap * self.counts).sum() / self.counts.sum())


def reliability(labels: Labels, probabilities: Probabilities, bins: int = BINS) -> Reliability:
    """Class 1's probability against its share for two classes; for more, the called class's.

    Bins of equal count (Nixon et al., 2019, arXiv:1904.01685): none is empty, none is noise.
    """
    if probabilities.shape[1] == 2:
        scores, right = probabilities[:, 1], labels == 1
    else:
        scores, right = probabilities.max(1), probabilities.argmax(1) == labels
    parts = np.array_split(np.argsort(scores, kind="stable"), min(bins, len(scores)))
    return Reliability(
        np.array([scores[part].mean() for part in parts]),
        np.array([right[part].mean() for part in parts]),
        np.array([len(part) for part in parts]),
    )


def cross_fitted(
    labels: Labels, probabilities: Probabilities, groups: Sequence[str] | None = None
) -> Probabilities:
    """Probabilities [N, C] each scaled by the temperature of patches it was not among.

    Ten parts, by group where there are groups: the figures after scaling are then those of new
    patches.
    """
    keys = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    part = np.random.default_rng(0).permutation(int(keys.max()) + 1)[keys] % PARTS
    scaled = np.array(probabilities)
    for here in range(PARTS):
        there, others = part == here, part != here
        if there.any() and others.any():
            fitted = fit_temperature(labels[others], probabilities[others])
            scaled[there] = apply_temperature(probabilities[there], fitted)
    return scaled


def fit_temperature(labels: Labels, probabilities: Probabilities) -> float:
    """The temperature with the least log loss (Guo et al., 2017, arXiv:1706.04599), 0.05 to 20.

    Log loss is convex in 1/temperature, so that a bounded search finds it.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return log_loss(labels, apply_temperature(probabilities, float(np.exp(log_temperature))))

    bounds = (np.log(0.05), np.log(20))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def judge_calibration(
    labels: Labels, probabilities: Probabilities, groups: Sequence[str] | None = None
) -> dict[str, Any]:
    """The temperature, and expected calibration error, Brier score and log loss without and with it.

    `after` is cross-fitted: each patch scaled by a temperature of other patches. Where that does
    not lower log loss the model is calibrated as it is, and the temperature is 1. Patches of one
    class would have any temperature that calls them so more loudly: for them `after` is None.
    """

    def figures(table: Probabilities) -> dict[str, float]:
        error = reliability(labels, table).error
        return {"error": error, "brier": brier(labels, table), "log_loss": log_loss(labels, table)}

    before = figures(probabilities)
    if len(np.unique(labels)) == 1:
        return {"temperature": 1.0, "before": before, "after": None}
    after = figures(cross_fitted(labels, probabilities, groups))
    helps = after["log_loss"] < before["log_loss"]
    temperature = fit_temperature(labels, probabilities) if helps else 1.0
    return {"temperature": temperature, "before": before, "after": after}
