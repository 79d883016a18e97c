"""The thresholds of two classes, and the calls at each: cross-fitted where there are folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histo.config import Wanted
from histo.report.metrics import Labels, Probabilities, youden_threshold
from histo.report.results import ChosenOn
from histo.report.subject import Subject
from histo.report.weighted import wanted_threshold
from histo.run.calls import call
from histo.run.predictions import Predictions


@dataclass(frozen=True)
class Threshold:
    """A threshold, the class it calls for each patch, int64 [N], and where it was chosen.

    Chosen on the other folds, a patch is called at the threshold of the folds it is not in, so
    that the rates are those of patches the threshold was not chosen on; `value` is that of all.
    """

    value: float
    called: Labels
    chosen_on: ChosenOn | None = None
    wanted: Wanted | None = None


def choose_thresholds(
    table: Predictions, about: Subject, wanted: Wanted | None, positive: int
) -> dict[str, Threshold]:
    """The thresholds of two classes by name, the one that matters most first; none for more.

    HistoError where what is wanted has no threshold.
    """
    found = {}
    if wanted:
        found["wanted"] = _chosen(table, about.folds, wanted, positive)
    if len(table.vocab) == 2:
        if about.threshold != 0.5 or about.wanted:
            called = call(table.probabilities, about.threshold, positive)
            found["bundle"] = Threshold(about.threshold, called, wanted=about.wanted)
        found["0.5"] = Threshold(0.5, call(table.probabilities, 0.5, positive))
        if len(np.unique(table.labels)) == 2:
            found["youden"] = _chosen(table, about.folds, None, positive)
    return found


def _chosen(
    table: Predictions, folds: Sequence[str] | None, wanted: Wanted | None, positive: int
) -> Threshold:
    """The threshold for a wanted rate, or Youden's, chosen on the patches of the table."""
    labels, probabilities = table.labels, table.probabilities
    value = _find(labels, probabilities, table.vocab, wanted, positive)
    across = _across(table, np.array(folds), wanted, positive) if folds else None
    if across is None:
        called = call(probabilities, value, positive)
        return Threshold(value, called, "these patches", wanted)
    return Threshold(value, across, "the other folds", wanted)


def _across(
    table: Predictions, folds: np.ndarray, wanted: Wanted | None, positive: int
) -> Labels | None:
    """Each fold called at the threshold of the others; None where others lack a class."""
    called = np.empty(len(folds), np.int64)
    for name in np.unique(folds):
        here = folds == name
        labels, probabilities = table.labels[~here], table.probabilities[~here]
        if len(np.unique(labels)) < 2:
            return None
        value = _find(labels, probabilities, table.vocab, wanted, positive)
        called[here] = call(table.probabilities[here], value, positive)
    return called


def _find(
    labels: Labels,
    probabilities: Probabilities,
    vocab: Sequence[str],
    wanted: Wanted | None,
    positive: int,
) -> float:
    if wanted:
        return wanted_threshold(labels, probabilities, vocab, wanted, positive)
    return youden_threshold((labels == positive).astype(np.int64), probabilities[:, positive])


def between_scores(threshold: float, scores: np.ndarray) -> float:
    """A threshold that calls these scores as the given one does, halfway to the next lower score.

    So the last digits of a score, which differ from engine to engine, do not decide.
    """
    if not (scores >= threshold).any():  # no score is called: between the highest and 1
        return max(float(np.nextafter(scores.max(), 2)), (float(scores.max()) + 1) / 2)
    below = scores[scores < threshold]
    lower = float(below.max()) if len(below) else 0.0
    middle = (lower + threshold) / 2
    return middle if lower < middle <= threshold else threshold
