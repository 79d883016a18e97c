"""Cross-validation: several models in one folder, each validated on a different part of the patches."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from histo.config import Precision, TrainConfig
from histo.data.dataset import Dataset, choose_folds, fold
from histo.distributed import ranks
from histo.files.aside import discard
from histo.files.writing import read_json, write_json
from histo.run.folder import RunFolder
from histo.run.origin import note_run
from histo.run.predictions import read_predictions, write_predictions
from histo.run.split import Leak
from histo.screen import Screen
from histo.training.prepare import default_epochs, positive_name
from histo.training.recording import environment, write_sides
from histo.training.resume import MAY_DIFFER, read_settings
from histo.training.single import Callbacks, train_new, train_on


def train_folds(
    config: TrainConfig, data: Dataset, screen: Screen, callbacks: Callbacks = ()
) -> RunFolder:
    """Train all folds: a new folder with one run per fold, and the out-of-fold predictions of all."""
    folds = choose_folds(data, config)
    config = choose_once(config, data, screen)

    def fill(made: RunFolder, path: Path) -> None:
        start_folds(made, path, config, data, folds)

    run = ranks.broadcast(lambda: RunFolder.create(config.out, config.arch, fill))
    with run.lock():
        _train_each(run, config, data, folds, screen, callbacks)
    return run


def choose_once(config: TrainConfig, data: Dataset, screen: Screen) -> TrainConfig:
    """The settings with precision and epochs chosen for all folds; a probe has fp32 and no epochs."""
    if config.probe:
        return replace(config, precision="fp32")
    from histo.model.device import resolve_device
    from histo.training.precision import choose_precision

    device = resolve_device(config.device)
    chosen = choose_precision(config, data.store.side, device, screen)
    train = len(data.valid) - len(data.valid) // (config.folds or 1)
    return replace(
        config,
        precision=cast(Precision, chosen),
        epochs=config.epochs or default_epochs(train),
    )


def train_folds_on(
    run: RunFolder, config: TrainConfig, data: Dataset, screen: Screen, callbacks: Callbacks = ()
) -> RunFolder:
    """Resume folds that this process has locked: finished folds stay, an interrupted one resumes."""
    _train_each(run, config, data, choose_folds(data, config), screen, callbacks)
    return run


def start_folds(
    run: RunFolder, path: Path, config: TrainConfig, data: Dataset, folds: np.ndarray
) -> None:
    """Write settings, environment and split of all folds of the run that will be at `path`."""
    from histo.model.device import resolve_device

    split = replace(data.split, folds=config.folds or 0, leak=Leak())
    found = {
        "labels": config.label_table,
        "images": config.images_folder,
        "out": path,
        "split": split.as_dict(),
        "group_column": data.unit,
        "corrected": dict(data.corrected),
        "positive": positive_name(config, data),
        "mpp": config.mpp,
        "precision": config.precision,
        "epochs": config.epochs,
    }
    write_json(run.environment, environment(data, resolve_device(config.device)))
    write_sides(run, data, [f"fold-{number + 1}" for number in folds.tolist()])
    record = config.record(found)
    note_run(path, record)
    write_json(run.config, record)


def _train_each(
    run: RunFolder,
    config: TrainConfig,
    data: Dataset,
    folds: np.ndarray,
    screen: Screen,
    callbacks: Callbacks,
) -> None:
    count = config.folds or 1
    for number in range(count):
        part, mine = RunFolder(run.fold(number)), fold(data, folds, number)
        done, begun = ranks.broadcast(partial(state_of, part))
        if done:
            screen.say(f"fold {number + 1} of {count}: already finished")
            continue
        screen.say(f"fold {number + 1} of {count}")
        settings = replace(config, out=part.path, folds=None)
        if begun:
            asked = replace(settings, given=config.given.intersection(MAY_DIFFER))
            with part.lock():
                own = replace(read_settings(part, asked), tracker=config.tracker)
                train_on(part, own, mine, screen, callbacks)
        else:
            if ranks.rank() == 0:
                discard(part.path)
            train_new(settings, mine, screen, callbacks)
    if ranks.rank() == 0:
        join_folds(run, data, count)
        run.mark_finished()


def state_of(run: RunFolder) -> tuple[bool, bool]:
    """Whether a run is finished, and whether it can be resumed."""
    return run.finished, run.begun


def join_folds(run: RunFolder, data: Dataset, count: int) -> None:
    """The out-of-fold predictions of all folds, in the order of the label CSV."""
    tables = [read_predictions(RunFolder(run.fold(number)).predictions) for number in range(count)]
    rows = {
        name: values
        for table in tables
        for name, values in zip(table.ids, table.probabilities, strict=True)
    }
    write_json(run.path / "model.json", read_json(run.fold(0) / "model.json"))
    probabilities = [rows[name] for name in data.ids]
    write_predictions(run.predictions, data.ids, data.labels, probabilities, data.vocab)
