"""The figures of a report: one list, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from histo.report import plots
from histo.report.bands import Band, bands
from histo.report.calibration import Reliability
from histo.report.metrics import accuracy_by_coverage
from histo.report.results import Metrics
from histo.report.sheets import GradCamSheet, Sheet, draw_gradcam
from histo.report.subject import Scores
from histo.run.predictions import Predictions
from histo.screen import Screen, short

Section = Literal["curves", "mistakes", "gradcam"]
SUFFIXES = (".png", ".svg")
RELIABILITY: Mapping[Scores, tuple[str, str]] = {
    "trained": ("as trained", "scaled by a temperature"),
    "probe": ("as trained", "scaled by a temperature"),
    "bundle": ("as the bundle gives them", "if scaled anew, on these patches"),
    "table": ("as in the table", "scaled by a temperature"),
}
"""What the two lines of the reliability diagram show, by what the probabilities are."""
FORMER = ("attention",)
"""Names of figures in reports of earlier versions."""


@dataclass(frozen=True)
class Inputs:
    """All that figures are drawn from; a sheet is None where its patches are not there."""

    table: Predictions
    metrics: Metrics
    mistakes: Sheet | None = None
    gradcam: GradCamSheet | None = None
    groups: Sequence[str] | None = None
    """the group of each row of the table"""

    @property
    def threshold(self) -> float:
        """The threshold of two classes at which patches are called."""
        return self.metrics.point.threshold if self.metrics.point else 0.5

    @cached_property
    def bands(self) -> tuple[Band | None, Band | None]:
        """The bands of ROC and precision-recall curve, of two classes."""
        if len(self.table.vocab) != 2:
            return None, None
        positive = self.metrics.positive_index
        truth, scores = self.table.labels == positive, self.table.probabilities[:, positive]
        return bands(truth, scores, self.groups) or (None, None)

    @property
    def places(self) -> tuple[plots.Place | None, plots.Place | None]:
        """Where the chosen threshold lies on the ROC and on the precision-recall curve."""
        point, positive = self.metrics.point, self.metrics.positive_index
        if point is None or point.sensitivity is None or point.specificity is None:
            return None, None
        called = sum(row[positive] for row in point.confusion_matrix)
        hits = point.confusion_matrix[positive][positive]
        roc = (1 - point.specificity, point.sensitivity)
        return roc, (point.sensitivity, hits / called) if called else None


@dataclass(frozen=True)
class Figure:
    """A figure of the report: its file name, its caption, when there is one, how it is drawn."""

    name: str
    caption: str
    when: Callable[[Inputs], bool]
    draw: Callable[[Path, Inputs], None]
    """writes PATH.png and PATH.svg"""
    section: Section = "curves"


def always(_: Inputs) -> bool:
    """For a figure that every table has."""
    return True


def has_both_classes(inputs: Inputs) -> bool:
    """Whether a ROC curve is defined: patches of a class, and others."""
    return inputs.metrics.roc_auc is not None


def draw_roc(path: Path, inputs: Inputs) -> None:
    """The ROC curve, of each class against the rest where there are more than two."""
    table = inputs.table
    positive = inputs.metrics.positive_index
    more = (inputs.bands[0], inputs.places[0])
    plots.draw_roc(path, table.labels, table.probabilities, table.vocab, positive, *more)


def draw_precision_recall(path: Path, inputs: Inputs) -> None:
    """Precision and recall, of each class against the rest where there are more than two."""
    table, positive = inputs.table, inputs.metrics.positive_index
    more = (inputs.bands[1], inputs.places[1])
    both = (table.labels, table.probabilities)
    plots.draw_precision_recall(path, *both, table.vocab, positive, *more)


def draw_confusion_matrix(path: Path, inputs: Inputs) -> None:
    """The confusion matrix, for two classes at the threshold that matters most."""
    at, positive = "", inputs.metrics.positive
    if positive:
        at = f"\n'{short(positive)}' at or above {inputs.threshold:.3g}"
    plots.draw_confusion_matrix(path, inputs.metrics.confusion_matrix, inputs.table.vocab, at)


def draw_scores(path: Path, inputs: Inputs) -> None:
    """Histograms of the probabilities."""
    table, at = inputs.table, (inputs.threshold, inputs.metrics.positive_index)
    plots.draw_scores(path, table.labels, table.probabilities, table.vocab, *at)


def draw_reliability(path: Path, inputs: Inputs) -> None:
    """The reliability diagram of the probabilities and, where one can be fitted, of scaled ones."""
    found, (before, after) = inputs.metrics.calibration, RELIABILITY[inputs.metrics.scores]
    bins: list[tuple[str, Reliability]] = [(before, found.before.bins)]
    if found.after:
        bins.append((after, found.after.bins))
    plots.draw_reliability(path, bins, inputs.metrics.positive or "")


def draw_selective(path: Path, inputs: Inputs) -> None:
    """Accuracy by coverage."""
    table = inputs.table
    plots.draw_selective(path, accuracy_by_coverage(table.labels, table.probabilities))


def draw_mistakes(path: Path, inputs: Inputs) -> None:
    """The sheet of the most confident mistakes."""
    if sheet := inputs.mistakes:
        plots.draw_sheet(
            path, sheet.patches, sheet.captions, "The most confident mistakes", sheet.first
        )


def draw_gradcam_sheet(path: Path, inputs: Inputs) -> None:
    """The sheet of Grad-CAM maps."""
    if inputs.gradcam:
        draw_gradcam(path, inputs.gradcam)


FIGURES: tuple[Figure, ...] = (
    Figure(
        "roc",
        "Sensitivity against false positive rate. Shaded, of two classes: 95 % of bootstrap resamples; "
        "the dot: the threshold of the confusion matrix.",
        has_both_classes,
        draw_roc,
    ),
    Figure(
        "precision_recall",
        "Precision against recall. Dotted: the share of positives.",
        has_both_classes,
        draw_precision_recall,
    ),
    Figure(
        "confusion_matrix",
        "Patches, and per cent of the true class.",
        always,
        draw_confusion_matrix,
    ),
    Figure(
        "scores",
        "The predicted probabilities: histograms of two classes; of more, for each class median (dot), "
        "quartiles (bar) and 5 to 95 % (line).",
        always,
        draw_scores,
    ),
    Figure(
        "reliability",
        "Is a probability of 0.8 right in 80 of 100 cases? In the legend the expected calibration "
        "error. Scaled: each part of the patches by the temperature that fits the others.",
        always,
        draw_reliability,
    ),
    Figure(
        "selective",
        "Accuracy if only the most confident patches are answered.",
        always,
        draw_selective,
    ),
    Figure(
        "mistakes",
        "The patches called wrongly with the highest probability.",
        lambda inputs: inputs.mistakes is not None,
        draw_mistakes,
        "mistakes",
    ),
    Figure(
        "gradcam",
        "The most confident mistakes, then typical hits. Left the patch; right, in yellow, the regions "
        "that raised the score of the class called (Grad-CAM); inside the white line the map is at "
        "least half its maximum. Such maps are coarse, in some networks biased to the borders, and "
        "show where, not why.",
        lambda inputs: inputs.gradcam is not None,
        draw_gradcam_sheet,
        "gradcam",
    ),
)


def draw_figures(folder: Path, inputs: Inputs, screen: Screen) -> list[Figure]:
    """Draw the figures that the inputs define; returns those drawn."""
    drawn = [figure for figure in FIGURES if figure.when(inputs)]
    for figure in screen.track(drawn, "drawing", len(drawn)):
        figure.draw(folder / figure.name, inputs)
    return drawn
