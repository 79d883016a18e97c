"""What a report found, as data: `Metrics` and its parts, and metrics.json made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from histo.config import Wanted
from histo.report.calibration import Calibration
from histo.report.gradcam import CentreShare
from histo.report.groups import GroupRow
from histo.report.intervals import Intervals
from histo.report.metrics import Value
from histo.report.subject import Scores
from histo.run.positive import Positive
from histo.run.split import Split

ChosenOn = Literal["these patches", "the other folds"]


@dataclass(frozen=True)
class OperatingPoint:
    """The metrics of two classes at one threshold on the probability of the positive class."""

    threshold: float
    accuracy: float
    balanced_accuracy: float
    """the mean of sensitivity and specificity, or the one that is defined"""
    sensitivity: Value
    specificity: Value
    f1: Value
    confusion_matrix: Sequence[Sequence[int]]
    """true class by row, called class by column"""
    intervals: Intervals = field(default_factory=dict)
    wanted: Wanted | None = None
    """the rate that the threshold was chosen for"""
    chosen_on: ChosenOn | None = None
    """where it was chosen; None where it was not chosen on any patches judged here"""

    def as_dict(self) -> dict[str, Any]:
        """As in metrics.json."""
        wanted: dict[str, Any] = {"wanted": self.wanted.as_dict()} if self.wanted else {}
        if self.chosen_on:
            wanted["chosen_on"] = self.chosen_on
        names = ("threshold", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1")
        return {
            **wanted,
            **{name: getattr(self, name) for name in names},
            "confusion_matrix": _lists(self.confusion_matrix),
            **_intervals(self.intervals),
        }


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of one class against the rest, where there are more than two."""

    roc_auc: Value
    average_precision: Value
    sensitivity: Value
    specificity: Value
    f1: Value
    intervals: Intervals = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As in metrics.json."""
        names = ("roc_auc", "average_precision", "sensitivity", "specificity", "f1")
        return {name: getattr(self, name) for name in names} | _intervals(self.intervals)


@dataclass(frozen=True)
class Metrics:
    """All that a report found. A metric is None where a class that it needs has no patch.

    For two classes accuracy, balanced accuracy, F1 and the confusion matrix are those of `point`;
    for more they are of the most probable class, and means are over the classes that have patches.
    """

    patches: int
    vocab: Sequence[str]
    absent: Sequence[str]
    """classes without a patch"""
    roc_auc: Value
    average_precision: Value
    accuracy: float
    balanced_accuracy: Value
    f1: Value
    confusion_matrix: Sequence[Sequence[int]]
    log_loss: float
    brier: float
    points: Mapping[str, OperatingPoint]
    """two classes: by the name of the threshold (wanted, bundle, 0.5, youden), `point` first"""
    classes: Mapping[str, ClassMetrics]
    """more than two classes"""
    calibration: Calibration
    split: Split
    unit: str
    """what the bootstrap draws"""
    units: int
    groups: Sequence[GroupRow] = ()
    """the highest error rate first; in by_group.csv, not in metrics.json"""
    gradcam: CentreShare | None = None
    intervals: Intervals = field(default_factory=dict)
    positive_class: Positive | None = None
    """of two classes"""
    scores: Scores = "table"
    """what the probabilities are: of a training run, of a bundle, or of a table alone"""
    temperature: float = 1.0
    """the bundle's, which its probabilities have"""

    @property
    def positive(self) -> str | None:
        """The name of the positive class of two; None of more."""
        return self.positive_class.name if self.positive_class else None

    @property
    def positive_index(self) -> int:
        """The place of the positive class in the vocab."""
        return self.positive_class.index if self.positive_class else 1

    @property
    def point(self) -> OperatingPoint | None:
        """Two classes: the operating point that matters most (wanted, else the bundle's, else 0.5)."""
        return next(iter(self.points.values()), None)

    def as_dict(self) -> dict[str, Any]:
        """The content of metrics.json."""
        called = self._binary() if self.points else self._many()
        return {
            "patches": self.patches,
            "vocab": list(self.vocab),
            "absent": list(self.absent),
            **called,
            "log_loss": self.log_loss,
            "brier": self.brier,
            "split": self.split.as_dict(),
            "unit": self.unit,
            "units": self.units,
            **_intervals(self.intervals),
            "calibration": self.calibration.as_dict(
                self.temperature if self.scores == "bundle" else None
            ),
            **({"gradcam": self.gradcam.as_dict()} if self.gradcam else {}),
        }

    def _binary(self) -> dict[str, Any]:
        areas = {"roc_auc": self.roc_auc, "average_precision": self.average_precision}
        points = {f"at_{name}": point.as_dict() for name, point in self.points.items()}
        source = self.positive_class.source if self.positive_class else None
        return {"positive": self.positive, "positive_source": source, **areas, **points}

    def _many(self) -> dict[str, Any]:
        names = ("roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1")
        return {
            **{name: getattr(self, name) for name in names},
            "confusion_matrix": _lists(self.confusion_matrix),
            "classes": {name: part.as_dict() for name, part in self.classes.items()},
        }


def _lists(matrix: Sequence[Sequence[int]]) -> list[list[int]]:
    return [list(row) for row in matrix]


def _intervals(found: Intervals) -> dict[str, Any]:
    """The intervals as JSON has them; nothing where none were drawn."""
    ends = {name: list(each) if each else None for name, each in found.items()}
    return {"intervals": ends} if ends else {}
