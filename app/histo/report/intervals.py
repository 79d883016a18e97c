"""95 % intervals by the bootstrap, over groups (slides, patients) where patches have them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from histo.report.weighted import Floats, Values, Weighted

Interval = tuple[float, float] | None
"""Low and high end; None where the metric is not defined."""
Intervals = Mapping[str, Interval]
"""By the name of the metric."""
Part = TypeVar("Part", bound=Hashable)
ROUNDS = 1000
"""Resamples of an interval: its ends move by less than a tenth of its width from seed to seed."""
AT_ONCE = 1 << 16
"""Weights summed at once: several resamples together where there are few patches."""


def intervals(
    metrics: Weighted,
    n: int,
    groups: Sequence[str] | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
    advance: Callable[[int], object] = lambda _: None,
    difference: bool = False,
) -> dict[str, Interval]:
    """The interval of each metric of `n` patches; as `resample`, for one part."""
    found = resample({"": metrics}, n, groups, rounds, seed, advance, difference)
    return dict(found[""])


def resample(
    parts: Mapping[Part, Weighted],
    n: int,
    groups: Sequence[str] | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
    advance: Callable[[int], object] = lambda _: None,
    difference: bool = False,
) -> dict[Part, dict[str, Interval]]:
    """Bootstrap intervals (Efron and Tibshirani, 1993, chapters 12, 13), all from the same draws.

    With `groups` [N] whole groups are drawn, because patches of one slide are alike (the cluster
    bootstrap: Field and Welsh, 2007, J. R. Stat. Soc. B 69:369). `advance` is called with the
    number of rounds done; `difference` says that the metrics are differences of two. No rounds, no
    intervals.
    """
    rng = np.random.default_rng(seed)
    codes = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(codes.max()) + 1

    def draw(rows: int) -> dict[Part, Values]:
        drawn = rng.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
        weights = times[:, codes].astype(np.float64)
        found = {key: part(weights) for key, part in parts.items()}
        advance(rows)
        return found

    step = max(1, AT_ONCE // n)
    draws = [draw(min(step, rounds - done)) for done in range(0, rounds, step)]
    if not draws:
        return {key: {} for key in parts}

    def ends(key: Part, name: str, seen: Floats) -> Interval:
        values = np.concatenate([found[key][name] for found in draws])
        return interval(float(seen), values, units, difference)

    return {
        key: {name: ends(key, name, seen) for name, seen in part(np.ones(n)).items()}
        for key, part in parts.items()
    }


def interval(seen: float, values: Floats, units: int, difference: bool = False) -> Interval:
    """A 95 % interval from the value of a metric and its resamples; nan resamples are left out.

    Metrics between 0 and 1 get Student's t on the logit scale, where their resamples are nearest
    to normal: in simulation 93 to 96 % of such intervals hold the truth, of plain percentile
    intervals 92 to 94 %. Differences get Student's t on their own scale; percentiles are used where
    a logit would be infinite. A metric that is 0 or 1 in every resample gets the bound of Clopper
    and Pearson (1934) for its number of units.
    """
    known = values[~np.isnan(values)]
    if not len(known) or units < 2 or np.isnan(seen):
        return None
    if not difference and np.ptp(known) == 0 and seen in (0, 1):
        bound = float(0.025 ** (1 / units))
        return (bound, 1.0) if seen == 1 else (0.0, 1 - bound)

    from scipy.special import stdtrit

    wide = stdtrit(units - 1, 0.975) * (units / (units - 1)) ** 0.5
    if difference:
        spread = wide * known.std(ddof=1)
        low, high = seen - spread, seen + spread
    elif min(known.min(), seen) > 0 and max(known.max(), seen) < 1:
        spread = wide * (np.log(known) - np.log1p(-known)).std(ddof=1)
        middle = np.log(seen) - np.log1p(-seen)
        low, high = 1 / (1 + np.exp(-middle + spread)), 1 / (1 + np.exp(-middle - spread))
    else:
        low, high = np.quantile(known, (0.025, 0.975))
    ends = (float(low), float(high))
    return None if np.isnan(ends).any() else ends
