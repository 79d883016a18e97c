"""`histo evaluate`: a bundle on a labelled set it never saw."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from histo.config import DataConfig
from histo.data.labels import (
    PatchIndex,
    Row,
    group_of,
    read_groups,
    read_labels,
    without_repeats,
)
from histo.data.store import decode_batches
from histo.errors import HistoError
from histo.model.card import read_trained, short_digests
from histo.model.opened import open_bundle
from histo.run import Run, write_json, write_predictions, write_split
from histo.screen import Screen
from histo.temperature import apply_temperature

UNSEEN = "none of these patches is among those the model was trained or chosen on, by their pixels"


def evaluate(
    bundle: Path,
    config: DataConfig,
    out: Path | None,
    screen: Screen,
    *,
    groups: str | None = None,
    tta: bool = False,
    device: str = "auto",
    batch_size: int = 256,
) -> Run:
    """Predict every labelled patch and write a run folder for `histo interpret`.

    Patches that the model was trained or chosen on are found by their pixels, and said.
    """
    card, model = open_bundle(bundle, device)
    trained = read_trained(bundle)
    rows, _ = without_repeats(
        read_labels(config.labels_csv, config.id_column, config.label_column), config.labels_csv
    )
    check_labels(rows, card.vocab, config.labels_csv)
    column, known = read_groups(groups, config.id_column) if groups else ("", {})
    names = [group_of(known, row.id, groups) for row in rows] if groups else None
    paths = PatchIndex(config.images_folder).locate(rows, config.labels_csv)
    found: list[np.ndarray] = []
    digests: list[str] = []
    batches = decode_batches(paths, card.crop, card.size, card.patch_size, batch_size)
    with screen.bar("predicting", len(rows)) as advance:
        for _, pixels, sha1 in batches:
            found.append(model.predict(pixels, tta))
            digests += sha1
            advance(len(pixels))
    probabilities = apply_temperature(np.concatenate(found).astype(np.float64), card.temperature)
    leak = say_overlap(trained, digests, len(rows), screen)
    ids, labels = [row.id for row in rows], [row.label for row in rows]
    threshold = apply_temperature(
        np.array([[1 - card.threshold, card.threshold]]), card.temperature
    )
    run = Run.create(out, "evaluate")
    settings = {
        "bundle": bundle,
        "arch": card.arch,
        "data": config.data,
        "labels": config.labels_csv,
        "images": config.images_folder,
        "crop": card.crop,
        "size": card.size,
        "tta": tta,
        "threshold": float(threshold[0, 1]) if len(card.vocab) == 2 else 0.5,
        "group_column": column,
        "split": "" if leak or trained is None else UNSEEN,
        "leak": leak,
    }
    write_json(
        run.config,
        {
            name: {"value": str(value) if isinstance(value, Path) else value, "source": "given"}
            for name, value in settings.items()
        },
    )
    packages = ("histo", "onnxruntime", "numpy", "opencv-python")
    write_json(
        run.environment,
        {
            "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
            "device": device,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        },
    )
    write_split(run.split, ids, labels, ["test"] * len(ids), digests, names)
    write_predictions(run.predictions, ids, labels, probabilities, card.vocab)
    return run


def check_labels(rows: list[Row], vocab: list[str], table: Path) -> None:
    """Every label must be a class of the model."""
    for row in rows:
        if row.label not in vocab:
            raise HistoError(
                f"{table.name}, line {row.line}: label {row.label!r} is no class of the bundle "
                f"({', '.join(vocab[:8])})"
            )


def say_overlap(trained: np.ndarray | None, digests: list[str], n: int, screen: Screen) -> str:
    """How many of the patches the model has seen in training; nothing where none."""
    if trained is None:
        screen.say("note: this bundle does not say what it was trained on: no check for overlap")
        return ""
    seen = int(np.isin(short_digests(digests), trained).sum())
    if not seen:
        return ""
    return f"{seen:,} of {n:,} patches are among those the model was trained or chosen on"
