"""What a report is about: what is known beside the predictions table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from histo.run.split import Split


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
    """two classes: the model's own threshold on the probability of class 1"""
    facts: Mapping[str, str] = field(default_factory=dict)
    """which model, trained on what, when"""
    settings: Mapping[str, str] = field(default_factory=dict)
    """settings and versions, to repeat the run"""
    figures: Sequence[tuple[Path, str]] = ()
    """more figures to show, with captions"""
