"""How sure a figure is: 95 % intervals by the bootstrap, over groups where patches have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.config import Wanted
from histo.errors import HistoError
from histo.report.metrics import Labels, Probabilities, scorable_classes

Floats = NDArray[np.float64]
Figures = dict[str, Floats]
"""Figures by name: for weights [..., N] each is [...], one of each row of weights."""
ROUNDS = 1000
"""Resamples of an interval: its ends move by less than a tenth of its width from seed to seed."""
AT_ONCE = 1 << 16
"""Weights that are summed in one go, some rows of them where patches are few."""


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

        Both are nan where the weights leave one class only.
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
    labels: Labels, probabilities: Probabilities, vocab: Sequence[str], wanted: Wanted
) -> float:
    """The threshold on class 1 that reaches what is wanted; HistoError where nothing can tell."""
    if probabilities.shape[1] != 2:
        raise HistoError("a threshold for a sensitivity or specificity needs two classes")
    needed = int(wanted.rate == "sensitivity")
    if not (labels == needed).any():
        raise HistoError(f"a {wanted.rate} needs patches of class {vocab[needed]}: there are none")
    ranked = Ranked(labels == 1, probabilities[:, 1])
    return float(ranked.threshold(np.ones(len(labels)), wanted.rate, wanted.value))


class Scores:
    """The figures of a predictions table that need no threshold, for any weights of its patches."""

    def __init__(self, labels: Labels, probabilities: Probabilities) -> None:
        n, classes = probabilities.shape
        shown = scorable_classes(labels, classes)
        self.ranked = [Ranked(labels == c, probabilities[:, c]) for c in shown]
        self.surprise = -np.log(np.clip(probabilities[np.arange(n), labels], 1e-15, 1))
        truth = np.eye(classes)[labels]
        self.square = ((probabilities - truth) ** 2).sum(1) / (2 if classes == 2 else 1)

    def __call__(self, weights: Floats) -> Figures:
        """The figures under weights [..., N], nan where a class has none."""
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
    """The figures of called classes against true ones, int64 [N] each, for any weights."""

    def __init__(self, labels: Labels, called: Labels, classes: int) -> None:
        self.labels, self.called, self.classes = labels, called, classes
        self.right = labels == called
        self.there = np.bincount(labels, minlength=classes) > 0
        self.named = self.there | (np.bincount(called, minlength=classes) > 0)

    def __call__(self, weights: Floats) -> Figures:
        """The figures under weights [..., N], nan where a class has none."""
        true, called = (tally(of, weights, self.classes) for of in (self.labels, self.called))
        right = tally(self.labels, weights * self.right, self.classes)
        with np.errstate(invalid="ignore", divide="ignore"):
            recalls, f1 = right / true, 2 * right / (true + called)
        found = {
            "accuracy": right.sum(-1) / weights.sum(-1),
            "balanced_accuracy": recalls[..., self.there].mean(-1),
            "f1": f1[..., 1] if self.classes == 2 else f1[..., self.named].mean(-1),
        }
        if self.classes == 2:
            found |= {"sensitivity": recalls[..., 1], "specificity": recalls[..., 0]}
        return found


def tally(of: Labels, weights: Floats, classes: int) -> Floats:
    """The weight [..., classes] of each class that weights [..., N] give to classes [N]."""
    rows = weights.reshape(-1, len(of))
    places = np.arange(len(rows))[:, None] * classes + of
    sums = np.bincount(places.ravel(), rows.ravel(), minlength=len(rows) * classes)
    return np.asarray(sums.reshape(*weights.shape[:-1], classes), np.float64)


def all_figures(labels: Labels, probabilities: Probabilities) -> Callable[[Floats], Figures]:
    """Every figure of a table for any weights, two classes called at 0.5."""
    classes = probabilities.shape[1]
    at_half = (probabilities[:, 1] >= 0.5).astype(np.int64)
    called = at_half if classes == 2 else probabilities.argmax(1)
    scores, counts = Scores(labels, probabilities), Counts(labels, called, classes)
    return lambda weights: scores(weights) | counts(weights)


def intervals(
    figures: Callable[[Floats], Figures],
    n: int,
    groups: Sequence[str] | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
    advance: Callable[[int], object] = lambda _: None,
    difference: bool = False,
) -> dict[str, tuple[float, float]]:
    """The 95 % bootstrap interval of each figure (Efron and Tibshirani, 1993, chapters 12, 13).

    With `groups` [N] whole groups are drawn: patches of a slide are alike, and count as one draw
    (the cluster bootstrap: Field and Welsh, 2007, J. R. Stat. Soc. B 69:369). `advance` is told of
    rounds done; `difference` says that the figures are differences of two.
    """
    rng = np.random.default_rng(seed)
    codes = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(codes.max()) + 1

    def draw(rows: int) -> Figures:
        drawn = rng.integers(units, size=(rows, units)) + units * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * units).reshape(rows, units)
        advance(rows)
        return figures(times[:, codes].astype(np.float64))

    step = max(1, AT_ONCE // n)
    found = [draw(min(step, rounds - done)) for done in range(0, rounds, step)]
    seen = figures(np.ones(n))
    return {
        name: interval(
            float(seen[name]), np.concatenate([f[name] for f in found]), units, difference
        )
        for name in seen
    }


def interval(
    seen: float, values: Floats, units: int, difference: bool = False
) -> tuple[float, float]:
    """A 95 % interval from a figure and its resamples; nan ones are left out.

    Figures between 0 and 1 get Student's t on the logit scale, where their resamples are nearest
    to normal: in simulation it holds the truth 93 to 96 times of 100, plain percentiles 92 to 94.
    Differences get it on their own scale, and percentiles serve where a logit would be infinite.
    A figure of 0 or 1 in every resample gets Clopper and Pearson's bound (1934) for its units.
    """
    known = values[~np.isnan(values)]
    if not len(known) or units < 2 or np.isnan(seen):
        return float("nan"), float("nan")
    if not difference and np.ptp(known) == 0 and seen in (0, 1):
        bound = 0.025 ** (1 / units)
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
    return float(low), float(high)


def add_intervals(
    metrics: dict[str, Any],
    labels: Labels,
    probabilities: Probabilities,
    groups: Sequence[str] | None,
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Put `intervals` beside the figures of `judge`, in each part of them: [low, high] or None."""
    for part, figures in _parts(metrics, labels, probabilities):
        found = intervals(figures, len(labels), groups, advance=advance)
        mine = {name: as_json(ends) for name, ends in found.items() if name in part}
        part.setdefault("intervals", {}).update(mine)


def as_json(ends: tuple[float, float]) -> list[float] | None:
    """An interval as JSON has it: None where it is not a number."""
    return None if np.isnan(ends).any() else list(ends)


def count_rounds(metrics: dict[str, Any]) -> int:
    """Of how many rounds `add_intervals` will tell `advance`."""
    parts = 2 + 2 * len(metrics["classes"]) if "classes" in metrics else 1
    return ROUNDS * (parts + sum(name.startswith("at_") for name in metrics))


def _parts(
    metrics: dict[str, Any], labels: Labels, probabilities: Probabilities
) -> Iterator[tuple[dict[str, Any], Callable[[Floats], Figures]]]:
    """Each part of the metrics with the figures that belong in it."""
    yield metrics, Scores(labels, probabilities)
    for name in [name for name in metrics if name.startswith("at_")]:
        called = (probabilities[:, 1] >= metrics[name]["threshold"]).astype(np.int64)
        yield metrics[name], Counts(labels, called, 2)
    if "classes" not in metrics:
        return
    called = probabilities.argmax(1)
    yield metrics, Counts(labels, called, probabilities.shape[1])
    for c, part in enumerate(metrics["classes"].values()):
        truth, scores = (labels == c).astype(np.int64), probabilities[:, c]
        yield part, Scores(truth, np.stack([1 - scores, scores], 1))
        yield part, Counts(truth, (called == c).astype(np.int64), 2)
