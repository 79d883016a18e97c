"""Bootstrap bands of the ROC and the precision-recall curve, over groups where they are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histo.report.weighted import Floats

BAND_ROUNDS = 200
"""Resamples of a band: a picture needs fewer than a figure."""
GRID = np.linspace(0, 1, 101)
"""Places on the x axis at which a band is known."""


@dataclass(frozen=True)
class Band:
    """The middle 95 % of the resampled curves at each place of GRID, float [101] each."""

    low: Floats
    high: Floats


def bands(
    truth: NDArray[np.bool_], scores: Floats, groups: Sequence[str] | None
) -> tuple[Band, Band] | None:
    """The bands of sensitivity by 1 - specificity and of precision by recall; None if undefined.

    `truth` is bool [N]. Whole groups are drawn with replacement; fewer than two give no band.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    truth = truth[order]
    roc, pr = [], []
    for weights in _weights(len(order), groups):
        tp = np.cumsum(weights[order] * truth)[ends]
        fp = np.cumsum(weights[order] * ~truth)[ends]
        if tp[-1] and fp[-1]:
            recall, called = tp / tp[-1], np.maximum(tp + fp, 1)
            roc.append(np.interp(GRID, np.append(0, fp / fp[-1]), np.append(0, recall)))
            first = np.minimum(np.searchsorted(recall, np.maximum(GRID, 1e-9)), len(recall) - 1)
            pr.append((tp / called)[first])
    return (_middle(roc), _middle(pr)) if len(roc) >= BAND_ROUNDS // 2 else None


def _weights(count: int, groups: Sequence[str] | None) -> Iterator[Floats]:
    """How often each patch is drawn, float [N], for each resample."""
    names, codes = np.unique(groups if groups else np.arange(count), return_inverse=True)
    draw = np.random.default_rng(0)
    for _ in range(BAND_ROUNDS if len(names) > 1 else 0):
        drawn = draw.integers(0, len(names), len(names))
        yield np.bincount(drawn, minlength=len(names))[codes].astype(float)


def _middle(curves: Sequence[Floats]) -> Band:
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    return Band(low, high)
