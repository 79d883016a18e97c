"""`histo train`: from labels and patches to a run folder, or on with one that was cut."""

from __future__ import annotations

from pathlib import Path

from histo.config import TrainConfig
from histo.data.dataset import Dataset, load_dataset
from histo.distributed import ranks
from histo.errors import HistoError
from histo.run.folder import RunFolder
from histo.screen import Screen
from histo.training.folds import train_folds, train_folds_on
from histo.training.resume import read_patches_again, read_settings
from histo.training.single import parse_lr, train_new, train_on


def train(config: TrainConfig, screen: Screen) -> RunFolder:
    """Train as `config` says and return the run folder it made.

    Nothing is made before labels, patches, weights and device have proved good.
    """
    from histo.model import learner as engine

    if config.lr not in (None, "find"):
        parse_lr(config.lr)
    if config.folds and config.split_column:
        raise HistoError("--folds makes the split itself: leave --split-column out")
    engine.resolve_precision(config.precision, engine.resolve_device(config.device))
    make = train_folds if config.folds else train_new
    with ranks.process_group():
        patches = load_dataset(config, screen)
        check_same(patches)
        return make(config, patches, screen)


def check_same(patches: Dataset) -> None:
    """HistoError where the machines of a launch do not have the same data."""
    if ranks.world() == 1:
        return
    mine = patches.fingerprints()
    if ranks.broadcast(lambda: mine) != mine:
        raise HistoError("labels or pixels here are not those of the first process's machine")


def resume(path: Path, asked: TrainConfig, screen: Screen) -> RunFolder:
    """Go on with a run that was cut, to the same end as if it had not been.

    `asked` holds what the user gives now: only where the data lie, device and checkpoints may
    differ from what the run was started with.
    """
    with ranks.process_group():
        run = ranks.broadcast(lambda: unfinished(path))
        with run.lock():
            config = read_settings(run, asked)
            if ranks.broadcast(lambda: not run.split.is_file() or not run.environment.is_file()):
                patches = load_dataset(config, screen)  # it was cut before its first batch
            else:
                patches = read_patches_again(run, config, screen)
            go_on = train_folds_on if config.folds else train_on
            return go_on(run, config, patches, screen)


def unfinished(path: Path) -> RunFolder:
    """The run at `path`; HistoError where it has come to its end."""
    run = RunFolder.open(path)
    if run.predictions.is_file() if run.settings().get("folds") else run.finished:
        raise HistoError(f"{path} is finished (next: histo interpret {path})")
    return run
