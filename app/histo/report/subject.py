"""What a report is about: what is known beside the predictions table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from histo.config import Wanted
from histo.run.positive import Positive
from histo.run.split import Split

Scores = Literal["trained", "probe", "bundle", "table"]


@dataclass(frozen=True)
class Subject:
    """What is known about a predictions table beside its rows."""

    name: str = ""
    """the title of the report"""
    split: Split = field(default_factory=lambda: Split("unknown"))
    """how these patches were kept apart from those trained on"""
    unit: str = ""
    """what a group is: slide, patient, hospital"""
    groups: Sequence[str] | None = None
    """the group of each row of the table"""
    threshold: float = 0.5
    """two classes: the model's own threshold on the probability of the positive one"""
    wanted: Wanted | None = None
    """the rate that the model's own threshold was chosen for, on other patches"""
    positive: Positive | None = None
    """of two classes; by their names where it is not given"""
    scores: Scores = "table"
    """what the probabilities are: of a training run, of a probe, of a bundle, or of a table alone"""
    temperature: float = 1.0
    """the bundle's, which its probabilities have"""
    folds: Sequence[str] | None = None
    """the fold of each row of the table, where its model was trained on the others"""
    facts: Mapping[str, str] = field(default_factory=dict)
    """which model, trained on what, when"""
    settings: Mapping[str, str] = field(default_factory=dict)
    """settings and versions, to repeat the run"""
    sides: Sequence[Sequence[str]] = ()
    """a header, then a row for each side of the split: its patches, groups, and share of each class"""
    again: Mapping[str, str] = field(default_factory=dict)
    """command, commit and fingerprints of the run"""
    unfinished: str = ""
    """a sentence where the run had not finished training"""
    figures: Sequence[tuple[Path, str]] = ()
    """more figures to show, with captions"""
