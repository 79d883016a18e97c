"""Calibration: whether a probability of 0.8 is right in 80 of 100 cases, and the temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.report.metrics import Labels, Probabilities, brier, log_loss
from histo.run.calls import apply_temperature, call

BINS = 15
"""Bins of equal count in the reliability diagram and the calibration error."""

PARTS = 10
"""Parts of the patches in cross-fitting: each is scaled by the temperature of the others."""


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


@dataclass(frozen=True)
class CalibrationMetrics:
    """How well calibrated some probabilities are."""

    error: float
    """expected calibration error, 0 to 1"""
    brier: float
    log_loss: float
    bins: Reliability

    def as_dict(self) -> dict[str, float]:
        """The metrics, without the bins."""
        return {"error": self.error, "brier": self.brier, "log_loss": self.log_loss}


@dataclass(frozen=True)
class Calibration:
    """The temperature, and calibration without it (`before`) and with it (`after`)."""

    temperature: float
    before: CalibrationMetrics
    after: CalibrationMetrics | None
    """None where no temperature can be fitted: all patches are of one class"""

    def as_dict(self, bundle_temperature: float | None = None) -> dict[str, Any]:
        """As in metrics.json; probabilities that have a bundle's temperature get a `refit`, no other."""
        fitted = {"temperature": self.temperature}
        if bundle_temperature is not None:
            fitted = {"bundle_temperature": bundle_temperature, "refit": self.temperature}
        after = self.after.as_dict() if self.after else None
        return {
            **fitted,
            "before": self.before.as_dict(),
            "after": after,
        }


def reliability(
    labels: Labels, probabilities: Probabilities, bins: int = BINS, positive: int = 1
) -> Reliability:
    """Mean probability and observed frequency by bin: of the positive class, or of the class called.

    Bins of equal count (Nixon et al., 2019, arXiv:1904.01685), so that none is empty or noisy.
    """
    if probabilities.shape[1] == 2:
        scores, right = probabilities[:, positive], labels == positive
    else:
        scores, right = probabilities.max(1), call(probabilities) == labels
    parts = np.array_split(np.argsort(scores, kind="stable"), min(bins, len(scores)))
    return Reliability(
        np.array([scores[part].mean() for part in parts]),
        np.array([right[part].mean() for part in parts]),
        np.array([len(part) for part in parts]),
    )


def cross_fitted(
    labels: Labels, probabilities: Probabilities, groups: Sequence[str] | None = None
) -> Probabilities:
    """Probabilities [N, C], each scaled by a temperature fitted to other patches.

    Ten parts, by group where there are groups, so that the metrics after scaling are those of
    patches the temperature was not fitted to.
    """
    keys = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    part = np.random.default_rng(0).permutation(int(keys.max()) + 1)[keys] % PARTS
    scaled = np.array(probabilities)
    for number in range(PARTS):
        held_out, others = part == number, part != number
        if held_out.any() and others.any():
            fitted = fit_temperature(labels[others], probabilities[others])
            scaled[held_out] = apply_temperature(probabilities[held_out], fitted)
    return scaled


def fit_temperature(labels: Labels, probabilities: Probabilities) -> float:
    """The temperature with the least log loss (Guo et al., 2017, arXiv:1706.04599), 0.05 to 20.

    Log loss is convex in 1/temperature, so a bounded search finds the minimum.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return log_loss(labels, apply_temperature(probabilities, float(np.exp(log_temperature))))

    bounds = (np.log(0.05), np.log(20))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def calibrate(
    labels: Labels,
    probabilities: Probabilities,
    groups: Sequence[str] | None = None,
    positive: int = 1,
) -> Calibration:
    """Fit the temperature, and measure calibration as trained and with it.

    `after` is cross-fitted: each patch is scaled by a temperature fitted to other patches. Where
    that does not lower the log loss, the model is calibrated as trained and the temperature is 1.
    With patches of one class no temperature can be fitted (any that makes the model surer of that
    class would lower the log loss): `after` is None.
    """
    before = measure(labels, probabilities, positive)
    if len(np.unique(labels)) == 1:
        return Calibration(1.0, before, None)
    after = measure(labels, cross_fitted(labels, probabilities, groups), positive)
    helps = after.log_loss < before.log_loss
    return Calibration(fit_temperature(labels, probabilities) if helps else 1.0, before, after)


def measure(labels: Labels, probabilities: Probabilities, positive: int = 1) -> CalibrationMetrics:
    """Calibration error, Brier score, log loss and the bins of the reliability diagram."""
    bins = reliability(labels, probabilities, positive=positive)
    return CalibrationMetrics(
        bins.error, brier(labels, probabilities), log_loss(labels, probabilities), bins
    )
