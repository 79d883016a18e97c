"""`histo export`: from a run to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from histo.errors import HistoError
from histo.run import Run, read_json, read_predictions
from histo.screen import Screen


def export(run_path: Path, out: Path | None, screen: Screen) -> Path:
    """Write the bundle of a run's best epoch; returns its folder, RUN/export by default."""
    run = Run.open(run_path)
    if not run.predictions.is_file():
        raise HistoError(f"{run_path} has no model: no epoch of it ended")
    folder = out or run.export
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise HistoError(f"{out} exists and is not empty (give another --out)")
    table = read_predictions(run.predictions)
    screen.say(f"exporting {run_path}")

    from histo.model.bundle import make_model, write_bundle
    from histo.model.card import CARD, parse_card
    from histo.model.checkpoint import load_best
    from histo.report.metrics import judge

    card = parse_card(read_json(run.path / CARD), run.path / CARD)
    model = make_model(card)
    load_best(run.checkpoint, model)
    environment: dict[str, Any] = read_json(run.environment)
    has_onnx = write_bundle(
        folder,
        model,
        card,
        {
            "metrics": judge(table.labels, table.probabilities, table.vocab),
            "trained": environment.get("started"),
            "fingerprint": environment.get("fingerprint"),
        },
    )
    if not has_onnx:
        screen.say(
            f"{card.arch} could not be converted to ONNX: predict will use torch on a CPU too"
        )
    return folder
