"""Small trainings by `histo.train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import histo

TINY: dict[str, Any] = {
    "arch": "squeezenet1_1",
    "weights": "none",
    "freeze_epochs": 1,
    "epochs": 2,
    "no_store": True,
    "batch_size": 16,
    "device": "cpu",
}
"""A training of three short epochs."""


@pytest.fixture(scope="session")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> histo.Run:
    """A run of three epochs, with its learner."""
    return histo.train(dataset, out=tmp_path_factory.mktemp("python") / "run", **TINY)


@pytest.fixture(scope="session")
def bundle(trained: histo.Run) -> Path:
    """The bundle of that run."""
    return trained.export()
