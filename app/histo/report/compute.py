"""From a predictions table to `Metrics`, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from histo.config import Wanted
from histo.report.calibration import calibrate
from histo.report.gradcam import CentreShare, share_in_centre
from histo.report.groups import GroupRow, by_group
from histo.report.intervals import ROUNDS, Intervals, resample
from histo.report.metrics import (
    Labels,
    Probabilities,
    Value,
    areas_of,
    brier,
    confusion_matrix,
    log_loss,
    mean_of_known,
    ratio,
)
from histo.report.results import ClassMetrics, Metrics, OperatingPoint
from histo.report.subject import Subject
from histo.report.thresholds import Threshold, choose_thresholds
from histo.report.weighted import (
    Counts,
    Floats,
    Ranked,
    Scores,
    Values,
    Weighted,
    together,
)
from histo.run.calls import call
from histo.run.gradcam import GradCam
from histo.run.positive import choose_positive
from histo.run.predictions import Predictions

WHOLE = ("all", "")
"""The key of the metrics of the whole table among the parts that are resampled."""


def compute_metrics(
    table: Predictions,
    subject: Subject | None = None,
    *,
    wanted: Wanted | None = None,
    gradcam: GradCam | None = None,
    centre: int = 0,
    rounds: int = ROUNDS,
    advance: Callable[[int], object] = lambda _: None,
) -> Metrics:
    """All metrics of a table, with intervals of so many rounds (0: none).

    The positive class of two is the subject's, else found by its name. `wanted` asks for the
    threshold that reaches a sensitivity or specificity; HistoError where the positive class is not
    known. `centre` is the side in px of the part of a patch that decides its label, 0 where none is
    known. `advance` is called with rounds done.
    """
    about = subject or Subject()
    labels, probabilities = table.labels, table.probabilities
    positive = about.positive or choose_positive(table.vocab)
    if wanted and positive:
        positive.needed_for(f"a threshold for a {wanted.rate}")
    index = positive.index if positive else 1
    thresholds = choose_thresholds(table, about, wanted, index)
    parts = _weighted_parts(table, thresholds, index)
    ends = resample(parts, len(labels), about.groups, rounds, advance=advance)
    first = next(iter(thresholds.values()), None)
    called = first.called if first else call(probabilities)
    points = _points(table, thresholds, index, ends)
    classes = {} if points else _classes(table, called, ends)
    areas, means = _areas(table, classes, index), _means(points, classes)
    return Metrics(
        patches=len(labels),
        vocab=table.vocab,
        absent=[name for c, name in enumerate(table.vocab) if not (labels == c).any()],
        roc_auc=areas[0],
        average_precision=areas[1],
        accuracy=float((called == labels).mean()),
        balanced_accuracy=means[0],
        f1=means[1],
        confusion_matrix=confusion_matrix(labels, called, len(table.vocab)),
        log_loss=log_loss(labels, probabilities),
        brier=brier(labels, probabilities),
        points=points,
        classes=classes,
        calibration=calibrate(labels, probabilities, about.groups, index),
        split=about.split,
        unit=about.unit if about.groups else "patch",
        units=len(set(about.groups or table.ids)),
        groups=_groups(table, about.groups, called, index),
        gradcam=_centre_share(table, about.groups, gradcam, centre),
        intervals=ends[WHOLE],
        positive_class=positive,
        scores=about.scores,
        temperature=about.temperature,
    )


def _groups(
    table: Predictions, groups: Sequence[str] | None, called: Labels, positive: int
) -> tuple[GroupRow, ...]:
    """The metrics by group, where groups are known."""
    if not groups:
        return ()
    return by_group(table.labels, table.probabilities, groups, called, positive)


def at_threshold(
    labels: Labels, probabilities: Probabilities, threshold: float, positive: int = 1
) -> OperatingPoint:
    """The metrics of two classes at a threshold; a rate of no patches is None."""
    called = call(probabilities, threshold, positive)
    return _point(labels, Threshold(threshold, called), positive, {})


def _point(
    labels: Labels, threshold: Threshold, positive: int, intervals: Intervals
) -> OperatingPoint:
    """The metrics of two classes by the calls at a threshold."""
    matrix = confusion_matrix(labels, threshold.called, 2)
    fn, tp = matrix[positive][1 - positive], matrix[positive][positive]
    fp, tn = matrix[1 - positive][positive], matrix[1 - positive][1 - positive]
    sensitivity, specificity = ratio(tp, tp + fn), ratio(tn, tn + fp)
    rates = [rate for rate in (sensitivity, specificity) if rate is not None]
    return OperatingPoint(
        threshold=threshold.value,
        accuracy=(tp + tn) / len(labels),
        balanced_accuracy=sum(rates) / len(rates),
        sensitivity=sensitivity,
        specificity=specificity,
        f1=ratio(2 * tp, 2 * tp + fp + fn),
        confusion_matrix=matrix,
        intervals=intervals,
        wanted=threshold.wanted,
        chosen_on=threshold.chosen_on,
    )


Key = tuple[str, str]
Ends = dict[Key, dict[str, Any]]


def _weighted_parts(
    table: Predictions, thresholds: dict[str, Threshold], positive: int
) -> dict[Key, Weighted]:
    """What is resampled, by the part of the metrics that it belongs to."""
    labels, probabilities = table.labels, table.probabilities
    parts: dict[Key, Weighted] = {WHOLE: Scores(labels, probabilities, positive)}
    for name, threshold in thresholds.items():
        parts["at", name] = Counts(labels, threshold.called, 2, positive)
    if "wanted" in thresholds and (wanted := thresholds["wanted"].wanted):
        ranked = Ranked(labels == positive, probabilities[:, positive])
        parts["at", "wanted"] = together(_wanted_again(ranked, wanted), parts["at", "wanted"])
    if thresholds:
        return parts
    called = call(probabilities)
    parts[WHOLE] = together(parts[WHOLE], Counts(labels, called, len(table.vocab)))
    for c, name in enumerate(table.vocab):
        truth, scores = (labels == c).astype(np.int64), probabilities[:, c]
        one_against_rest = Scores(truth, np.stack([1 - scores, scores], 1))
        counts = Counts(truth, (called == c).astype(np.int64), 2)
        parts["class", name] = together(one_against_rest, counts)
    return parts


def _wanted_again(ranked: Ranked, wanted: Wanted) -> Weighted:
    """The threshold that each resample would have chosen."""

    def find(weights: Floats) -> Values:
        return {"threshold": ranked.threshold(weights, wanted.rate, wanted.value)}

    return find


def _points(
    table: Predictions, thresholds: dict[str, Threshold], positive: int, ends: Ends
) -> dict[str, OperatingPoint]:
    """The operating points of two classes, by the name of the threshold."""
    return {
        name: _point(table.labels, threshold, positive, ends["at", name])
        for name, threshold in thresholds.items()
    }


def _classes(table: Predictions, called: Labels, ends: Ends) -> dict[str, ClassMetrics]:
    """Each of more than two classes against the rest."""
    return {
        name: _class_metrics(
            table.labels == c, table.probabilities[:, c], called == c, ends["class", name]
        )
        for c, name in enumerate(table.vocab)
    }


def _areas(
    table: Predictions, classes: dict[str, ClassMetrics], positive: int
) -> tuple[Value, Value]:
    """AUC and average precision: of the positive class of two, or the means over more."""
    if not classes:
        return areas_of(table.labels == positive, table.probabilities[:, positive])
    each = classes.values()
    return mean_of_known([part.roc_auc for part in each]), mean_of_known(
        [part.average_precision for part in each]
    )


def _means(
    points: dict[str, OperatingPoint], classes: dict[str, ClassMetrics]
) -> tuple[Value, Value]:
    """Balanced accuracy and F1: at the first point of two classes, or the means over more."""
    for first in points.values():
        return first.balanced_accuracy, first.f1
    each = classes.values()
    return mean_of_known([part.sensitivity for part in each]), mean_of_known(
        [part.f1 for part in each]
    )


def _class_metrics(truth: Any, scores: Floats, called: Any, ends: Intervals) -> ClassMetrics:
    """One class against the rest; `truth` and `called` are bool [N]."""
    auc, precision = areas_of(truth, scores)
    (tn, fp), (fn, tp) = confusion_matrix(truth.astype(int), called.astype(int), 2)
    found = {
        "roc_auc": auc,
        "average_precision": precision,
        "sensitivity": ratio(tp, tp + fn),
        "specificity": ratio(tn, tn + fp),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
    }
    return ClassMetrics(**found, intervals={n: ends[n] for n in found if n in ends})


def _centre_share(
    table: Predictions, groups: Sequence[str] | None, found: GradCam | None, centre: int
) -> CentreShare | None:
    """The share of Grad-CAM inside the centre, where maps and centre are known."""
    if found is None or not centre:
        return None
    if not groups:
        return share_in_centre(found, centre, None)
    group_of = dict(zip(table.ids, groups, strict=True))
    return share_in_centre(found, centre, [group_of.get(name, name) for name in found.ids])
