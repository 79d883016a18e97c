"""`histo export`: from a run to a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from histo.config import ModelCard, Wanted
from histo.errors import HistoError
from histo.files.writing import read_json
from histo.run.folder import RunFolder
from histo.run.predictions import Predictions, read_predictions
from histo.screen import Screen


def export(
    run_path: Path,
    out: Path | None,
    screen: Screen,
    wanted: Wanted | None = None,
    no_pickle: bool = False,
) -> Path:
    """Write the bundle of a run's best epoch; returns its folder, RUN/export by default.

    Its threshold is the one that reaches what is `wanted`, here or in the run's report; else 0.5.
    `no_pickle` leaves fastai's learner out.
    """
    run = RunFolder.open(run_path)
    if not run.predictions.is_file():
        raise HistoError(f"{run_path} has no model: no epoch of it ended")
    folder = out or run.export
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise HistoError(f"{out} exists and is not empty (give another --out)")
    table = read_predictions(run.predictions)
    screen.say(f"exporting {run_path}")

    from histo.model.bundle import write_bundle
    from histo.model.card import CARD, parse_card
    from histo.model.checkpoint import load_best
    from histo.model.network import make_model
    from histo.report.compute import compute_metrics

    wanted = wanted or wanted_in_report(run)
    card = parse_card(read_json(run.path / CARD), run.path / CARD)
    card = with_calibration(card, run, table, wanted, screen)
    folds = run.settings().get("folds") or 1
    card = replace(card, models=folds)
    model = make_model(card)
    parts = getattr(model, "models", [model])
    for number, part in enumerate(parts):
        load_best(run.checkpoint if folds == 1 else RunFolder(run.fold(number)).checkpoint, part)
    environment: dict[str, Any] = read_json(run.environment)
    # the confusion matrix of many classes would be most of the card
    left_out = ("confusion_matrix", "calibration", "split", "unit", "units")
    found = compute_metrics(table, rounds=0).as_dict()
    metrics = {name: value for name, value in found.items() if name not in left_out}
    has_onnx = write_bundle(
        folder,
        model,
        card,
        {
            "metrics": metrics,
            "trained": environment.get("started"),
            "fingerprint": environment.get("fingerprint"),
        },
        [row["sha1"] for row in run.read_split() if row.get("sha1")],
        pickled=not no_pickle,
    )
    if not has_onnx:
        screen.say(
            f"{card.arch} could not be converted to ONNX: predict will use torch on a CPU too"
        )
    return folder


def wanted_in_report(run: RunFolder) -> Wanted | None:
    """The operating point that `histo interpret` was asked for, if it was."""
    try:
        ((rate, value),) = read_json(run.report / "metrics.json")["at_wanted"]["wanted"].items()
        return Wanted(str(rate), float(value))
    except (HistoError, KeyError, TypeError, ValueError, AttributeError):
        return None


def with_calibration(
    card: ModelCard, run: RunFolder, table: Predictions, wanted: Wanted | None, screen: Screen
) -> ModelCard:
    """The card with the temperature, and the threshold, that the validation patches ask for."""
    from histo.report.calibration import calibrate
    from histo.report.weighted import wanted_threshold

    groups = run.groups_of(table.ids)
    found = calibrate(table.labels, table.probabilities, groups).temperature
    threshold = 0.5
    if wanted:
        threshold = wanted_threshold(table.labels, table.probabilities, table.vocab, wanted)
        screen.say(f"class {table.vocab[1]} at or above {threshold:.4f}: {wanted}")
    screen.say(f"temperature {found:.3f}")
    return replace(card, temperature=float(found), threshold=threshold)
