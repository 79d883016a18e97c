"""Predictions tables and run folders that the tests of the report are about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from histo.data.decode import pixel_sha1, read_patch
from histo.data.patch_files import PatchIndex
from histo.report.report import write_report
from histo.report.results import Metrics
from histo.report.subject import Subject
from histo.run.predictions import Predictions, read_predictions, write_predictions
from histo.run.split import Split
from histo.screen import Screen
from tests.conftest import run_histo

QUIET = Screen(quiet=True)


def write_table(folder: Path, labels: np.ndarray, table: np.ndarray, name: str = "p.csv") -> Path:
    """A predictions table whose ids and classes are numbers."""
    vocab = [str(c) for c in range(table.shape[1])]
    ids = [str(n) for n in range(len(labels))]
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / name, ids, [vocab[c] for c in labels], table, vocab)
    return folder / name


def predictions(labels: np.ndarray, table: np.ndarray) -> Predictions:
    """The same in memory."""
    vocab = [str(c) for c in range(table.shape[1])]
    return Predictions([str(n) for n in range(len(labels))], labels, table, vocab)


def two_classes(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that rank most of them correctly."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    scores = 1 / (1 + np.exp(-(rng.normal(size=n) + 2 * labels - 1)))
    return labels, np.stack([1 - scores, scores], 1)


def many_classes(n: int = 150, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Labels of several classes, and probabilities that know them a little."""
    rng = np.random.default_rng(1)
    labels = rng.integers(classes, size=n)
    return labels, rng.dirichlet(np.ones(classes), n) * 0.7 + 0.3 * np.eye(classes)[labels]


def one_class(n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Patches all of class 0, as those of PatchCamelyon's normal slides."""
    return np.zeros(n, np.int64), two_classes(n)[1]


def report_of(folder: Path, *words: object) -> dict:
    """metrics.json of the table `p.csv`, interpreted by the command."""
    result = run_histo("interpret", folder / "p.csv", "--out", folder / "report", *words)
    assert result.exit_code == 0, result.output
    return json.loads((folder / "report" / "metrics.json").read_text())


def report_from_python(folder: Path, subject: Subject | None = None, **options: object) -> Metrics:
    """The report of two classes, written by the library itself."""
    table = predictions(*two_classes())
    return write_report(folder, table, subject or Subject("two"), QUIET, **options)


def write_run(
    folder: Path, split: Split | str = "", groups: Sequence[str] | None = None, **settings: object
) -> Path:
    """A run folder of two classes as training leaves it, without the training."""
    table = read_predictions(write_table(folder, *two_classes(), name="predictions.csv"))
    index = PatchIndex(Path(str(settings["images"]))) if "images" in settings else None
    column = ["split", *(["group"] if groups else []), *(["sha1"] if index else [])]
    rows = [",".join(["id", "label", *column])]
    for n, (name, label) in enumerate(zip(table.ids, table.labels, strict=True)):
        found = index.find(name) if index else None
        sha1 = [pixel_sha1(read_patch(found)) if found else ""] if index else []
        rows.append(",".join([name, str(label), "valid", *([groups[n]] if groups else []), *sha1]))
    (folder / "split.csv").write_text("\n".join(rows) + "\n")
    how = split.as_dict() if isinstance(split, Split) else split
    config = {"data": "data", "arch": "tiny", "weights": "none", "split": how, **settings}
    (folder / "config.json").write_text(
        json.dumps({name: {"value": value, "source": "given"} for name, value in config.items()})
    )
    environment = {"versions": {"histo": "0.2"}, "started": "2025-01-01", "device": "CPU"}
    (folder / "environment.json").write_text(json.dumps(environment))
    return folder


def patches_of(ids: Sequence[str]) -> list[np.ndarray]:
    """Noise of 32 px for each id."""
    return [np.random.default_rng(int(name)).integers(0, 255, (32, 32, 3), "u1") for name in ids]


def page_of(folder: Path) -> str:
    """The text of a report's page."""
    return (folder / "report.html").read_text()
