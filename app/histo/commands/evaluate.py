"""`histo evaluate`: a bundle on a labelled set it never saw."""

from __future__ import annotations

import csv
import io
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo import __version__
from histo.commands.runs import Run
from histo.config import PREDICT_BATCH, DataConfig, ModelCard, check_setting
from histo.data.decode_ahead import decode_batches
from histo.data.groups import groups_of
from histo.data.labels import Row, read_labels, without_repeats
from histo.data.patch_files import PatchIndex
from histo.distributed import ranks
from histo.errors import HistoError
from histo.files.writing import check_new, write_json
from histo.model.card import short_digests
from histo.model.predictor import Predictor, open_bundle
from histo.run.calls import apply_temperature
from histo.run.folder import RunFolder, write_split
from histo.run.predictions import PROBABILITY, prediction_columns, write_predictions
from histo.run.split import Leak, Split
from histo.screen import Advance, Progress, Screen, screen_of
from histo.shards.parts import Part, TableFacts, fingerprint, joined_bytes, open_parts, part_line
from histo.shards.shard import Shard, whole_path
from histo.shards.table import PartWriter, open_table

COLUMNS = ("id", "label", "group", "sha1", "seen")
"""Of a part, before the probabilities; `seen` is 1 where the model was trained or chosen on it."""


@dataclass(frozen=True)
class Labelled:
    """The patches to evaluate on, a row each; `groups` are blank where none are known."""

    rows: list[Row]
    groups: list[str]
    paths: Sequence[Path]
    unit: str
    """what a group is"""


def evaluate(
    bundle: str | Path,
    data: str | Path,
    *,
    out: str | Path | None = None,
    labels: str | Path | None = None,
    images: str | Path | None = None,
    id_column: str = DataConfig.id_column,
    label_column: str = DataConfig.label_column,
    groups: str | Path | None = None,
    tta: bool = False,
    device: str = "auto",
    batch_size: int = PREDICT_BATCH,
    progress: Progress = False,
) -> Run:
    """Predict the labelled patches in `data` and return the run that holds the table.

    Patches that the model was trained or chosen on are found by their pixels, and reported.
    `groups` is `CSV[:column]`; `tta` averages the eight D4 views. Raises HistoError.
    """
    done = evaluate_to(
        Path(bundle),
        Path(data),
        screen_of(progress),
        out=Path(out) if out else None,
        labels=Path(labels) if labels else None,
        images=Path(images) if images else None,
        id_column=id_column,
        label_column=label_column,
        groups=str(groups) if groups else None,
        tta=tta,
        device=device,
        batch_size=batch_size,
    )
    if done is None:
        raise HistoError("only the first process of a launch has the run")
    return Run(done.path)


def evaluate_to(
    bundle: Path,
    data: Path,
    screen: Screen,
    *,
    out: Path | None = None,
    labels: Path | None = None,
    images: Path | None = None,
    id_column: str = DataConfig.id_column,
    label_column: str = DataConfig.label_column,
    shard: Shard | None = None,
    **how: Any,
) -> RunFolder | None:
    """The run of `evaluate`; None of a share, which is for `histo merge`, and of later processes."""
    config = DataConfig(data, labels, images, id_column, label_column)
    done = evaluate_share(bundle, config, out, screen, shard=shard, **how)
    if isinstance(done, Part):
        screen.say(part_line(done.shard, whole_path(done.path), done.expected))
        return None
    return done


def evaluate_share(
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

    `shard` predicts its share alone and returns its part, for `histo merge`. The processes of a
    launcher take a share each; the first writes the run, the others return None.
    """
    if out is not None:
        check_new(out)
    check_setting("batch_size", batch_size)
    predictor = open_bundle(bundle, device)
    patches = read_labelled(config, predictor.card, groups)
    trained = predictor.files.trained_on()
    if trained is None:
        screen.say("note: this bundle does not say what it was trained on: no check for overlap")
    facts = facts_of(predictor, patches, tta, batch_size)
    stem = out or Path("runs", f"evaluate-{facts.key}")
    stem.parent.mkdir(parents=True, exist_ok=True)
    mine = shard or Shard(ranks.rank() + 1, ranks.world_size())
    table = stem.with_name(f"{stem.name}.csv")
    settings = settings_of(bundle, config, predictor.card, patches.unit, tta, trained is not None)
    part = Part(mine.path(table), facts, mine, settings)
    with (
        open_table(part, patches.paths[part.block], screen) as rows,
        screen.bar("predicting", part.expected) as advance,
    ):
        advance(rows.rows)
        write_rows(rows, patches, predictor, trained, advance)
    if shard is not None:
        return part
    ranks.barrier()
    return write_joined(open_parts(mine.paths(table)), out) if ranks.rank() == 0 else None


def write_joined(parts: Sequence[Part], out: Path | None) -> RunFolder:
    """The run of parts that are all there, which are then removed."""
    run = write_run(parts, out)
    for one in parts:
        one.remove()
    return run


def facts_of(predictor: Predictor, patches: Labelled, tta: bool, batch_size: int) -> TableFacts:
    """What the rows of this evaluation have in common."""
    rows = zip(patches.paths, patches.rows, patches.groups, strict=True)
    return TableFacts(
        command="evaluate",
        bundle=predictor.files.fingerprint(),
        patches=len(patches.rows),
        names=fingerprint(f"{path.name}\0{row.label}\0{group}" for path, row, group in rows),
        columns=[*COLUMNS, *prediction_columns(predictor.vocab)],
        batch_size=batch_size,
        tta=tta,
        raw=False,
        engine=predictor.engine.name,
    )


def read_labelled(config: DataConfig, card: ModelCard, groups: str | None) -> Labelled:
    """The labelled patches, their labels checked against the bundle's classes."""
    rows, _ = without_repeats(
        read_labels(config.labels_csv, config.id_column, config.label_column), config.labels_csv
    )
    check_labels(rows, card.vocab, config.labels_csv)
    unit, names = "", [""] * len(rows)
    if groups:
        unit, names = groups_of(groups, (row.id for row in rows), config.id_column)
    paths = PatchIndex(config.images_folder).locate(rows, config.labels_csv)
    return Labelled(rows, names, paths, unit)


def check_labels(rows: list[Row], vocab: list[str], table: Path) -> None:
    """Every label must be a class of the model."""
    for row in rows:
        if row.label not in vocab:
            raise HistoError(
                f"{table.name}, line {row.line}: label {row.label!r} is no class of the bundle "
                f"({', '.join(vocab[:8])})"
            )


def settings_of(
    bundle: Path, config: DataConfig, card: ModelCard, unit: str, tta: bool, known: bool
) -> dict[str, Any]:
    """What the run's config.json will say; `known`: whether the bundle says its training set."""
    at = np.array([[1 - card.threshold, card.threshold]])
    threshold = float(apply_temperature(at, card.temperature)[0, 1])
    return {
        "bundle": str(bundle),
        "arch": card.arch,
        "data": str(config.data),
        "labels": str(config.labels_csv),
        "images": str(config.images_folder),
        "crop": card.crop,
        "size": card.size,
        "tta": tta,
        "threshold": threshold if len(card.vocab) == 2 else 0.5,
        "group_column": unit,
        "split": Split("unseen" if known else "unknown").as_dict(),
    }


def write_rows(
    table: PartWriter,
    patches: Labelled,
    predictor: Predictor,
    trained: NDArray[np.uint64] | None,
    advance: Advance,
) -> None:
    """Predict the patches whose rows are not in the table yet."""
    at, end = table.part.block.start + table.rows, table.part.block.stop
    facts = table.part.facts
    batches = decode_batches(patches.paths[at:end], predictor.fit, facts.batch_size)
    for files, pixels, sha1 in batches:
        probabilities = predictor.predict(pixels, facts.tta).probabilities
        seen = np.isin(short_digests(sha1), [] if trained is None else trained).astype(int)
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
    split = Split.read(settings["split"])
    if seen:
        split = replace(split, leak=Leak(patches=seen, of=len(rows)))
    settings["split"] = split.as_dict()
    run = RunFolder.create(out, "evaluate")
    write_json(
        run.config, {name: {"value": value, "source": "given"} for name, value in settings.items()}
    )
    packages = ("onnxruntime", "numpy", "opencv-python")
    found = {"histo": __version__, **{name: version(name) for name in packages}}
    write_json(
        run.environment,
        {
            "versions": {"python": platform.python_version(), **found},
            "device": facts.engine,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        },
    )
    ids, labels, groups, sha1, _, *columns = zip(*rows, strict=True)
    write_split(run.split, ids, labels, ["test"] * len(ids), sha1, groups if any(groups) else None)
    vocab = [name.removeprefix(PROBABILITY) for name in facts.columns[len(COLUMNS) :]]
    table = zip(*([float(value) for value in column] for column in columns), strict=True)
    write_predictions(run.predictions, ids, labels, table, vocab)
    run.mark_finished()
    return run
