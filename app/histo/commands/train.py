"""`histo train`: from labels and patches to a run folder, or on with one that was cut."""

from __future__ import annotations

from pathlib import Path

from histo.config import TrainConfig
from histo.data.dataset import read_patches
from histo.errors import HistoError
from histo.run import Run
from histo.screen import Screen
from histo.training.folds import train_folds, train_folds_on
from histo.training.resume import read_patches_again, read_settings
from histo.training.single import parse_lr, train_new, train_on


def train(config: TrainConfig, screen: Screen) -> Run:
    """Train as `config` says and return the run folder it made.

    Nothing is made before labels, patches, weights and device have proved good.
    """
    from histo.model import learner as engine

    if config.lr not in (None, "find"):
        parse_lr(config.lr)
    if config.folds and config.split_column:
        raise HistoError("--folds makes the split itself: leave --split-column out")
    engine.resolve_precision(config.precision, engine.resolve_device(config.device))
    patches = read_patches(config, screen)
    make = train_folds if config.folds else train_new
    return make(config, patches, screen)


def resume(path: Path, asked: TrainConfig, screen: Screen) -> Run:
    """Go on with a run that was cut, to the same end as if it had not been.

    `asked` holds what the user gives now: only where the data lie, device and checkpoints may
    differ from what the run was started with.
    """
    run = Run.open(path)
    if run.predictions.is_file() if run.settings().get("folds") else run.finished:
        raise HistoError(f"{path} is finished (next: histo interpret {path})")
    with run.lock():
        config = read_settings(run, asked)
        if not run.split.is_file() or not run.environment.is_file():  # cut before its first batch
            patches = read_patches(config, screen)
        else:
            patches = read_patches_again(run, config, screen)
        go_on = train_folds_on if config.folds else train_on
        return go_on(run, config, patches, screen)
