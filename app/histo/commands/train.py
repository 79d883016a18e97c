"""`histo train`: train a model in a run folder, or resume an interrupted run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histo.commands.bodies import check_model, size_for_foundation
from histo.commands.runs import Run
from histo.config import TrainConfig, takes
from histo.data.dataset import Dataset
from histo.data.label_table import LabelTable, read_label_table
from histo.data.pixel_size import known_mpp
from histo.distributed import ranks
from histo.errors import HistoError
from histo.run.folder import RunFolder
from histo.run.positive import choose_positive
from histo.screen import Progress, Screen, screen_of
from histo.training.probe import check_probe
from histo.training.trackers import check_tracker

if TYPE_CHECKING:
    from fastai.learner import Learner


@takes(TrainConfig)
def train(
    data: str | Path | None = None,
    *,
    resume: str | Path | None = None,
    callbacks: Sequence[Any] = (),
    progress: Progress = False,
    **settings: Any,
) -> Run:
    """Train a classifier on the patches in `data`, or resume the run `resume`.

    Returns the run: its folder, tables, figures, and the live fastai learner. Each setting is a
    field of histo.config.TrainConfig; `callbacks` are fastai callbacks. No run folder is
    made before labels, patches, weights and device have proved good. Raises HistoError.
    """
    screen = screen_of(progress)
    given = settings if data is None else {"data": data, **settings}
    config = TrainConfig(**{"data": Path(), **given}, given=frozenset(given))
    if data is None and resume is None:
        raise HistoError("there is nothing to train on (give a folder of data, or a run to resume)")
    run = (
        resume_run(Path(resume), config, screen, callbacks)
        if resume is not None
        else begin(config, screen, callbacks)
    )
    screen.say(f"run: {run.path} (next: histo interpret {run.path})")
    return run


def begin(config: TrainConfig, screen: Screen, callbacks: Sequence[Any]) -> Run:
    """Train in a new run folder."""
    if config.folds and config.split_column:
        raise HistoError("folds define the split themselves", "leave {split_column} out")
    check_tracker(config.tracker)
    check_probe(config)
    table = read_label_table(config, screen)
    if positive := choose_positive(table.vocab, config.positive):
        screen.say(f"positive class: {positive}", *positive.ways)
    mpp, said = known_mpp(config)
    if said:
        screen.say(said)
    config = replace(config, mpp=mpp)
    check_model(config.arch, config.weights)
    config = replace(config, size=size_for_foundation(config.arch, config.size, screen))

    from histo.data.dataset import load_dataset
    from histo.model.device import resolve_device, resolve_precision
    from histo.training.folds import train_folds
    from histo.training.single import train_new

    device = resolve_device(config.device)
    if not config.probe:
        resolve_precision(config.precision, device)
    with ranks.process_group():
        data = load_dataset(config, table, screen)
        check_same(data)
        if config.folds:
            return Run(train_folds(config, data, screen, callbacks).path)
        run, learn = train_new(config, data, screen, callbacks)
    return Run(run.path, learn)


def check_same(data: Dataset) -> None:
    """HistoError if the machines of a launch do not have the same data."""
    if ranks.world_size() == 1:
        return
    mine = data.fingerprints()
    if ranks.broadcast(lambda: mine) != mine:
        raise HistoError("labels or pixels on this machine differ from those of the first process")


def resume_run(path: Path, now: TrainConfig, screen: Screen, callbacks: Sequence[Any]) -> Run:
    """Resume an interrupted run, with the same result as without the interruption.

    `now` are the settings given now: only the data folder, device and checkpoints may differ from
    those that the run was started with.
    """
    unfinished(path)

    from histo.training.folds import train_folds_on
    from histo.training.resume import read_settings, without_strange_places
    from histo.training.single import train_on

    with ranks.process_group():
        run = ranks.broadcast(lambda: unfinished(path))
        with run.lock():
            config = without_strange_places(run, read_settings(run, now), now, screen)
            data = data_of(run, config, read_label_table(config, screen), screen)
            if config.folds:
                train_folds_on(run, config, data, screen, callbacks)
                return Run(run.path)
            learn: Learner | None = train_on(run, config, data, screen, callbacks)
    return Run(run.path, learn)


def data_of(run: RunFolder, config: TrainConfig, table: LabelTable, screen: Screen) -> Dataset:
    """The data of a resumed run, split as before."""
    from histo.data.dataset import load_dataset
    from histo.training.resume import load_again

    if ranks.broadcast(lambda: not run.split.is_file() or not run.environment.is_file()):
        return load_dataset(config, table, screen)  # stopped before its first batch
    return load_again(run, config, table, screen)


def unfinished(path: Path) -> RunFolder:
    """The run at `path`; HistoError if it has finished."""
    run = RunFolder.open(path)
    if run.finished:
        run.tidy()
        raise HistoError(f"{path} is finished (next: histo interpret {path})")
    return run
