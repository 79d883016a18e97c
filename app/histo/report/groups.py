"""Metrics by group: slide, patient or hospital."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histo.files.tables import csv_writer
from histo.files.writing import written
from histo.report.metrics import Labels, Probabilities, Value, areas_of

BINARY = ("positives", "roc_auc", "sensitivity", "specificity")
"""Columns for two classes alone."""


@dataclass(frozen=True)
class GroupRow:
    """The metrics of one group; the last four are for two classes alone."""

    group: str
    patches: int
    errors: int
    error_rate: float
    positives: int | None = None
    roc_auc: Value = None
    """None where the group has patches of one class"""
    sensitivity: Value = None
    specificity: Value = None

    def as_dict(self) -> dict[str, Any]:
        """A row of by_group.csv."""
        left_out = BINARY if self.positives is None else ()
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def by_group(
    labels: Labels,
    probabilities: Probabilities,
    groups: Sequence[str],
    called: Labels,
    positive: int = 1,
) -> tuple[GroupRow, ...]:
    """A row for each group, the highest error rate first; `called` is the class of each patch."""
    names, codes = np.unique(groups, return_inverse=True)
    rows = [
        _row(str(name), labels[here], probabilities[here], called[here], positive)
        for code, name in enumerate(names)
        if len(here := np.flatnonzero(codes == code))
    ]
    return tuple(sorted(rows, key=lambda row: (-row.error_rate, -row.patches, row.group)))


def _row(
    name: str, truth: Labels, probabilities: Probabilities, called: Labels, positive: int
) -> GroupRow:
    right = called == truth
    counts = (name, len(truth), int((~right).sum()), float((~right).mean()))
    if probabilities.shape[1] != 2:
        return GroupRow(*counts)
    auc, _ = areas_of(truth == positive, probabilities[:, positive])
    sensitivity, specificity = (
        float(right[truth == c].mean()) if (truth == c).any() else None
        for c in (positive, 1 - positive)
    )
    return GroupRow(*counts, int((truth == positive).sum()), auc, sensitivity, specificity)


def write_groups(path: Path, rows: Sequence[GroupRow], unit: str) -> None:
    """Write by_group.csv, the group column named after the unit; remove it where there are no rows."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    with written(path, "w") as file:
        table = csv_writer(file)
        table.writerow([unit, *list(rows[0].as_dict())[1:]])
        for row in rows:
            values = row.as_dict().values()
            table.writerow(f"{v:.6g}" if isinstance(v, float) else v for v in values)
