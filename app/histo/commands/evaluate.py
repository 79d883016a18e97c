"""`histo evaluate`: a bundle on a labelled set it never saw."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histo.commands.evaluated_run import COLUMNS, is_cut, write_joined
from histo.commands.overlap import Trained
from histo.commands.predict import say_engine
from histo.commands.runs import Run
from histo.config import PREDICT_BATCH, DataConfig, ModelCard, check_setting
from histo.data.decode import read_patch
from histo.data.decode_ahead import decode_batches, fitting_batch
from histo.data.groups import groups_of
from histo.data.label_table import LabelTable, find_groups, read_labelled
from histo.data.labels import Row
from histo.data.patch_files import PatchFiles
from histo.data.pixel_size import mpp_apart
from histo.distributed import ranks
from histo.errors import HistoError
from histo.model.predictor import Predictor, open_bundle
from histo.run.calls import apply_temperature
from histo.run.folder import RunFolder, exists
from histo.run.positive import Positive, bundle_positive
from histo.run.predictions import prediction_columns
from histo.run.split import Split
from histo.screen import Advance, Progress, Screen, screen_of
from histo.shards.parts import Part, TableFacts, fingerprint, open_parts, part_line
from histo.shards.shard import Shard, whole_path
from histo.shards.table import PartWriter, open_table
from histo.slides.slide_files import holds_slides


@dataclass(frozen=True)
class Labelled:
    """The patches to evaluate on, one row each; `groups` are blank if unknown."""

    rows: list[Row]
    groups: list[str]
    paths: PatchFiles
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
    label_from: str | None = None,
    group_from: str | None = None,
    groups: str | Path | None = None,
    tta: bool = False,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = PREDICT_BATCH,
    positive: str | None = None,
    skip_bad: bool = False,
    annotations: str | Path | None = None,
    classes: Sequence[str] = (),
    choose_score: bool = False,
    score: str | Path | None = None,
    mpp: float | None = None,
    slide_mpp: str | float | None = None,
    progress: Progress = False,
) -> Run | Path:
    """Predict the labelled patches in `data` and return the run that holds the table.

    Patches that the model was trained or chosen on are found by their pixels, and reported.
    `groups` is `CSV[:column]`; `tta` averages the eight D4 views; `positive` is the positive class of
    two, where the bundle does not say; `precision` is fp32, bf16, int8, or the fastest that the
    bundle vouches for; `skip_bad` leaves patches out that cannot be read or have
    another size, and lists them in the run's skipped.csv. Raises HistoError.

    Where `data` is a whole slide, or a folder of them, they are mapped and judged: by lesions drawn
    in `annotations`, a folder with a GeoJSON, ASAP XML or mask for each, or by slide labels in the CSV
    `labels`; `classes` are as for `cut`, `mpp` and `slide_mpp` as for `map`. `choose_score` chooses how
    a slide's score is made, on training slides, and `score` is the score.json of that for others.
    Returns the folder with slides.json and report.html.
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
        label_from=label_from,
        group_from=group_from,
        groups=str(groups) if groups else None,
        tta=tta,
        device=device,
        precision=precision,
        batch_size=batch_size,
        positive=positive,
        skip_bad=skip_bad,
        annotations=Path(annotations) if annotations else None,
        classes=classes,
        choose_score=choose_score,
        score=Path(score) if score else None,
        mpp=mpp,
        slide_mpp=slide_mpp,
    )
    if done is None:
        raise HistoError("only the first process of a launch has the run")
    return done if isinstance(done, Path) else Run(done.path)


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
    label_from: str | None = None,
    group_from: str | None = None,
    shard: Shard | None = None,
    annotations: Path | None = None,
    classes: Sequence[str] = (),
    choose_score: bool = False,
    score: Path | None = None,
    mpp: float | None = None,
    slide_mpp: str | float | None = None,
    **how: Any,
) -> RunFolder | Path | None:
    """The run of `evaluate`; None of a share, which is for `histo merge`, and of later processes.

    Of whole slides the folder of their figures.
    """
    if annotations or holds_slides(data):
        if shard:
            raise HistoError("slides are not evaluated in shares", "leave {shard} out")
        from histo.commands.evaluate_slides import evaluate_slides

        how = {name: value for name, value in how.items() if name not in ("skip_bad", "then")}
        return evaluate_slides(
            bundle,
            data,
            screen,
            out=out,
            annotations=annotations,
            labels=labels,
            label_name=label_column,
            id_name=id_column,
            classes=classes,
            choose_score=choose_score,
            score=score,
            mpp=mpp,
            slide_mpp=slide_mpp,
            **how,
        )
    if classes or choose_score or score or slide_mpp:
        raise HistoError(
            f"{data} holds no whole slides",
            "leave {classes}, {choose_score}, {score} and {slide_mpp} out",
        )
    config = DataConfig(
        data,
        labels,
        images,
        id_column,
        label_column,
        label_from=label_from,
        group_from=group_from,
    )
    done = evaluate_share(bundle, config, out, screen, shard=shard, mpp=mpp, **how)
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
    precision: str = "auto",
    batch_size: int = PREDICT_BATCH,
    positive: str | None = None,
    skip_bad: bool = False,
    shard: Shard | None = None,
    mpp: float | None = None,
    then: Callable[[RunFolder], object] = lambda _: None,
) -> RunFolder | Part | None:
    """Predict every labelled patch and write a run folder for `histo interpret`.

    `then` is done with the run before the rows beside it are removed: after a kill in it, the same
    call finds the run made, and does it again.
    `shard` predicts its share alone and returns its part, for `histo merge`. The processes of a
    launcher take a share each; the first writes the run, the others return None.
    """
    if out is not None and os.path.lexists(out) and (shard or not is_cut(out)):
        raise exists(out)
    check_setting("batch_size", batch_size)
    predictor = open_bundle(bundle, device, precision)
    say_engine(predictor.judged, predictor.passed_over, screen)
    batch_size = fitting_batch(batch_size, predictor.card.patch_size)
    known = positive_of(predictor.card, positive)
    patches = read_patches(config, predictor.card, groups, screen)
    say_mpp(config, predictor.card, patches.paths[0], mpp, screen)
    trained = Trained.of(predictor)
    if trained.digests is None:
        screen.say("note: this bundle does not say what it was trained on: no check for overlap")
    facts = facts_of(predictor, patches, tta, batch_size, skip_bad)
    stem = out or Path("runs", f"evaluate-{facts.key}")
    stem.parent.mkdir(parents=True, exist_ok=True)
    mine = shard or Shard(ranks.rank() + 1, ranks.world_size())
    table = table_of(stem)
    split = trained.split(patches.groups, patches.unit)
    settings = settings_of(bundle, config, predictor.card, patches.unit, tta, split)
    settings |= {"positive": known.as_entry()} if known else {}
    part = Part(mine.path(table), facts, mine, settings)
    with (
        open_table(part, patches.paths[part.block], screen) as rows,
        screen.bar("predicting", part.expected, rows.rows) as advance,
    ):
        write_rows(rows, patches, predictor, trained, advance)
    if shard is not None:
        return part
    ranks.barrier()
    return write_joined(open_parts(mine.paths(table)), out, then) if ranks.rank() == 0 else None


def table_of(run: Path) -> Path:
    """The rows of an evaluation, beside the run that it will be."""
    return run.with_name(f"{run.name}.csv")


def facts_of(
    predictor: Predictor, patches: Labelled, tta: bool, batch_size: int, skip_bad: bool
) -> TableFacts:
    """What the rows of this evaluation have in common."""
    rows = zip(patches.paths.names, patches.rows, patches.groups, strict=True)
    return TableFacts(
        command="evaluate",
        bundle=predictor.files.fingerprint(),
        patches=len(patches.rows),
        names=fingerprint(f"{name}\0{row.label}\0{group}" for name, row, group in rows),
        columns=[*COLUMNS, *prediction_columns(predictor.vocab)],
        batch_size=batch_size,
        tta=tta,
        raw=False,
        engine=predictor.engine.name,
        skip_bad=skip_bad,
    )


def read_patches(
    config: DataConfig, card: ModelCard, groups: str | None, screen: Screen
) -> Labelled:
    """The labelled patches, their labels checked against the bundle's classes."""
    table = read_labelled(config, screen, training=False)
    check_labels(table, card.vocab)
    if groups:
        unit, names = groups_of(groups, (row.id for row in table.rows), config.id_column)
    else:
        unit, found = find_groups(config, table)
        names = found or [""] * len(table.rows)
    return Labelled(table.rows, names, table.paths, unit)


def say_mpp(
    config: DataConfig, card: ModelCard, first: Path, given: float | None, screen: Screen
) -> None:
    """Say where the patches, one of which is `first`, have another µm per px than the model's.

    It is the one that was `given`, else the one that the patches were cut or imported at.
    """
    if card.mpp is None:
        return
    with suppress(HistoError):  # a damaged patch is named when it is predicted
        side = card.crop or int(read_patch(first).shape[0])
        if note := mpp_apart(config, side, card.size, card.mpp, given):
            screen.say(note)


def check_labels(table: LabelTable, vocab: list[str]) -> None:
    """Every label must be a class of the model."""
    for row in table.rows:
        if row.label not in vocab:
            raise HistoError(
                f"{table.place(row)}: label {row.label!r} is not a class of the bundle "
                f"({', '.join(vocab[:8])})"
            )


def positive_of(card: ModelCard, given: str | None) -> Positive | None:
    """The positive class as the bundle says, else as given or found; HistoError where they differ."""
    known = bundle_positive(card.vocab, card.positive, card.format == 1, given)
    if known and known.index != card.positive_index and card.threshold != 0.5:
        raise HistoError(
            f"the threshold of this bundle is for {card.vocab[card.positive_index]!r}, "
            f"not for {known.name!r}",
            "leave {positive} out",
        )
    return known


def settings_of(
    bundle: Path, config: DataConfig, card: ModelCard, unit: str, tta: bool, split: Split
) -> dict[str, Any]:
    """The content of the run's config.json."""
    at = np.array([[1 - card.threshold, card.threshold]])
    scale = card.temperature / card.built_in_temperature  # of the published probabilities
    threshold = float(apply_temperature(at, scale)[0, 1])
    return {
        "bundle": str(bundle),
        "arch": card.arch,
        "data": str(config.data),
        "labels": str(config.label_table or ""),
        "images": str(config.images_folder),
        "crop": card.crop,
        "size": card.size,
        "tta": tta,
        "threshold": threshold if len(card.vocab) == 2 else 0.5,
        "wanted": card.wanted,
        "temperature": card.temperature,
        "group_column": unit,
        "split": split.as_dict(),
    }


def write_rows(
    table: PartWriter,
    patches: Labelled,
    predictor: Predictor,
    trained: Trained,
    advance: Advance,
) -> None:
    """Predict the patches whose rows are not in the table yet."""
    at, end = table.part.block.start + table.rows, table.part.block.stop
    facts = table.part.facts
    batches = decode_batches(patches.paths[at:end], predictor.fit, facts.batch_size, facts.skip_bad)
    for batch in batches:
        probabilities = None
        if batch.sha1:
            probabilities = predictor.predict(batch.pixels, facts.tta).probabilities
        seen = trained.seen(batch.sha1, batch.pixels)
        places, rows = batch.places(), []
        for place in range(len(batch.paths)):
            row, group = patches.rows[at + place], patches.groups[at + place]
            if probabilities is None or place in batch.bad:
                values = ["", batch.bad[place], *[""] * len(predictor.vocab)]
            else:
                n = places[place]
                values = [batch.sha1[n], str(seen[n]), *(f"{p:.9g}" for p in probabilities[n])]
            rows.append([row.id, row.label, group, *values])
        table.add(rows)
        at += len(batch.paths)
        advance(len(batch.paths))
