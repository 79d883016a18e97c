"""`histo evaluate`: a bundle on a labelled set it never saw."""

from __future__ import annotations

import csv
import io
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.config import PREDICT_BATCH, DataConfig, ModelCard
from histo.data.groups import groups_of
from histo.data.labels import Row, read_labels, without_repeats
from histo.data.patch_files import PatchIndex
from histo.data.store import decode_batches
from histo.distributed import ranks
from histo.errors import HistoError
from histo.files.digests import sha256
from histo.files.writing import check_new, write_json
from histo.model.card import CARD, read_trained, short_digests
from histo.model.predictor import Model, open_bundle
from histo.run.calls import apply_temperature
from histo.run.folder import RunFolder, write_split
from histo.run.predictions import PROBABILITY, prediction_columns, write_predictions
from histo.screen import Advance, Screen
from histo.shards.parts import Part, TableFacts, fingerprint, gather, joined_bytes
from histo.shards.shard import Shard
from histo.shards.table import PartWriter, open_table

UNSEEN = "none of these patches is among those the model was trained or chosen on, by their pixels"
COLUMNS = ("id", "label", "group", "sha1", "seen")
"""Of a part, before the probabilities; `seen` is 1 where the model was trained or chosen on it."""


@dataclass(frozen=True)
class Labelled:
    """The patches to be judged on, a row each; `groups` are blank where none are known."""

    rows: list[Row]
    groups: list[str]
    paths: Sequence[Path]
    column: str
    """what the groups are"""


def evaluate(
    bundle: Path,
    config: DataConfig,
    out: Path | None,
    screen: Screen,
    *,
    groups: str | None = None,
    tta: bool = False,
    device: str = "auto",
    batch_size: int = PREDICT_BATCH,
    shard: Shard | None = None,
) -> RunFolder | Part | None:
    """Predict every labelled patch and write a run folder for `histo interpret`.

    Patches that the model was trained or chosen on are found by their pixels, and said. `shard`
    predicts its share alone and returns its part, for `histo merge`. The processes of a launcher
    take a share each; the first writes the run, the others return None.
    """
    if out is not None:
        check_new(out)
    card, model = open_bundle(bundle, device)
    patches = read_labelled(config, card, groups)
    trained = read_trained(bundle)
    if trained is None:
        screen.say("note: this bundle does not say what it was trained on: no check for overlap")
    facts = TableFacts(
        command="evaluate",
        bundle=sha256(bundle / CARD),
        patches=len(patches.rows),
        names=fingerprint(
            f"{path.name}\0{row.label}\0{group}"
            for path, row, group in zip(patches.paths, patches.rows, patches.groups, strict=True)
        ),
        columns=[*COLUMNS, *prediction_columns(card.vocab)],
        batch_size=batch_size,
        tta=tta,
        raw=False,
        engine=model.engine,
    )
    stem = out or Path("runs", f"evaluate-{facts.key}")
    stem.parent.mkdir(parents=True, exist_ok=True)
    mine = shard or Shard(ranks.rank() + 1, ranks.world_size())
    table = stem.with_name(f"{stem.name}.csv")
    settings = settings_of(bundle, config, card, patches.column, tta, trained is not None)
    part = Part(mine.path(table), facts, mine, settings)
    with (
        open_table(part, patches.paths[part.block], screen) as rows,
        screen.bar("predicting", part.owed) as advance,
    ):
        advance(rows.rows)
        write_rows(rows, patches, card, model, trained, advance)
    if shard is not None:
        return part
    ranks.barrier()
    if ranks.rank() > 0:
        return None
    parts = gather(mine.paths(table))
    run = write_run(parts, out)
    for one in parts:
        one.remove()
    return run


def read_labelled(config: DataConfig, card: ModelCard, groups: str | None) -> Labelled:
    """The labelled patches, their labels checked against the bundle's classes."""
    rows, _ = without_repeats(
        read_labels(config.labels_csv, config.id_column, config.label_column), config.labels_csv
    )
    check_labels(rows, card.vocab, config.labels_csv)
    column, names = "", [""] * len(rows)
    if groups:
        column, names = groups_of(groups, (row.id for row in rows), config.id_column)
    paths = PatchIndex(config.images_folder).locate(rows, config.labels_csv)
    return Labelled(rows, names, paths, column)


def check_labels(rows: list[Row], vocab: list[str], table: Path) -> None:
    """Every label must be a class of the model."""
    for row in rows:
        if row.label not in vocab:
            raise HistoError(
                f"{table.name}, line {row.line}: label {row.label!r} is no class of the bundle "
                f"({', '.join(vocab[:8])})"
            )


def settings_of(
    bundle: Path, config: DataConfig, card: ModelCard, column: str, tta: bool, known: bool
) -> dict[str, Any]:
    """What the run's config.json will say; `known`: whether the bundle says its training set."""
    threshold = apply_temperature(
        np.array([[1 - card.threshold, card.threshold]]), card.temperature
    )
    return {
        "bundle": str(bundle),
        "arch": card.arch,
        "data": str(config.data),
        "labels": str(config.labels_csv),
        "images": str(config.images_folder),
        "crop": card.crop,
        "size": card.size,
        "tta": tta,
        "threshold": float(threshold[0, 1]) if len(card.vocab) == 2 else 0.5,
        "group_column": column,
        "split": UNSEEN if known else "",
        "leak": "",
    }


def write_rows(
    table: PartWriter,
    patches: Labelled,
    card: ModelCard,
    model: Model,
    trained: NDArray[np.uint64] | None,
    advance: Advance,
) -> None:
    """Predict the patches whose rows are not in the table yet."""
    at, end = table.part.block.start + table.rows, table.part.block.stop
    shape = (card.crop, card.size, card.patch_size, table.part.facts.batch_size)
    for files, pixels, sha1 in decode_batches(patches.paths[at:end], *shape):
        found = model.predict(pixels, table.part.facts.tta).astype(np.float64)
        seen = np.isin(short_digests(sha1), [] if trained is None else trained).astype(int)
        probabilities = apply_temperature(found, card.temperature)
        table.add(
            [
                [
                    patches.rows[at + i].id,
                    patches.rows[at + i].label,
                    patches.groups[at + i],
                    sha1[i],
                    str(seen[i]),
                    *(f"{value:.9g}" for value in probabilities[i]),
                ]
                for i in range(len(files))
            ]
        )
        at += len(files)
        advance(len(files))


def write_run(parts: Sequence[Part], out: Path | None) -> RunFolder:
    """The run folder of an evaluation of which all parts are there."""
    facts, settings = parts[0].facts, dict(parts[0].settings)
    text = b"".join(joined_bytes(parts)).decode()
    _, *rows = csv.reader(io.StringIO(text, newline=""))
    seen = sum(row[COLUMNS.index("seen")] == "1" for row in rows)
    if seen:
        settings["split"] = ""
        settings["leak"] = (
            f"{seen:,} of {len(rows):,} patches are among those the model was trained or chosen on"
        )
    run = RunFolder.create(out, "evaluate")
    write_json(
        run.config, {name: {"value": value, "source": "given"} for name, value in settings.items()}
    )
    packages = ("histo", "onnxruntime", "numpy", "opencv-python")
    write_json(
        run.environment,
        {
            "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
            "device": facts.engine,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        },
    )
    ids, labels, groups, sha1, _, *columns = zip(*rows, strict=True)
    write_split(run.split, ids, labels, ["test"] * len(ids), sha1, groups if any(groups) else None)
    vocab = [name.removeprefix(PROBABILITY) for name in facts.columns[len(COLUMNS) :]]
    table = zip(*([float(value) for value in column] for column in columns), strict=True)
    write_predictions(run.predictions, ids, labels, table, vocab)
    return run
