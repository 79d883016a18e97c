"""Figures over slides: AUC of their scores with intervals over slides or patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.report.intervals import Interval, intervals
from histo.report.weighted import Floats, Ranked, Values

Curve = Callable[[Floats], Sequence[float] | None]
"""From the weights of the slides [N] to sensitivities; None where they have no lesion."""


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval; None where it is not defined."""

    value: float | None
    interval: Interval

    def __str__(self) -> str:
        if self.value is None:
            return "not defined"
        ends = f" ({self.interval[0]:.3f} to {self.interval[1]:.3f})" if self.interval else ""
        return f"{self.value:.3f}{ends}"

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def slide_figures(
    positive: NDArray[np.bool_],
    scores: Floats,
    groups: Sequence[str] | None,
    threshold: float | None = None,
) -> dict[str, Figure]:
    """AUC and average precision of slides, and at a `threshold` sensitivity and specificity.

    Whole groups (patients) are drawn where they are known.
    """
    ranked = Ranked(positive, scores)

    def metrics(weights: Floats) -> Values:
        auc, precision = ranked.areas(weights)
        found = {"roc_auc": auc, "average_precision": precision}
        if threshold is not None:
            called = scores >= threshold
            with np.errstate(invalid="ignore"):  # 0 / 0 where a class has no weight
                for name, side in (("sensitivity", positive), ("specificity", ~positive)):
                    right = weights[..., side & (called == positive)].sum(-1)
                    found[name] = right / weights[..., side].sum(-1)
        return found

    return _figures(metrics, len(scores), groups)


def froc_figures(
    curve: Curve, rates: Sequence[float], count: int, groups: Sequence[str] | None
) -> dict[str, Figure]:
    """The sensitivity at each rate of false positives, and their mean, with intervals over slides."""
    names = [*(f"{rate:g}" for rate in rates), "score"]

    def metrics(weights: Floats) -> Values:
        flat = weights.reshape(-1, count)
        rows = []
        for row in flat:
            found = curve(row)
            rows.append([np.nan] * len(names) if found is None else [*found, np.mean(found)])
        table = np.array(rows).reshape(*weights.shape[:-1], len(names))
        return {name: table[..., n] for n, name in enumerate(names)}

    return _figures(metrics, count, groups)


def _figures(
    metrics: Callable[[Floats], Values], count: int, groups: Sequence[str] | None
) -> dict[str, Figure]:
    seen = metrics(np.ones(count))
    ends = intervals(metrics, count, groups)
    return {
        name: Figure(None if np.isnan(value) else float(value), ends.get(name))
        for name, value in ((name, float(value)) for name, value in seen.items())
    }
