"""The learner of an earlier run, rebuilt from its settings, its data and its best weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from histo.config import TrainConfig
from histo.data.label_table import read_label_table
from histo.errors import HistoError
from histo.run.folder import RunFolder
from histo.screen import Screen
from histo.training.prepare import prepare
from histo.training.resume import load_again, read_settings, without_strange_places
from histo.training.single import as_fastai_made_it

if TYPE_CHECKING:
    from fastai.learner import Learner


def load_learner(run: RunFolder, screen: Screen) -> Learner:
    """The learner of a run with the weights of its best epoch; its patches must be unchanged."""
    from histo.model.checkpoint import load_best
    from histo.model.device import resolve_device
    from histo.training.precision import can_train_in

    settings = run.settings()
    if settings.get("folds"):
        raise HistoError(
            f"{run.path} has one model per fold: use the learner of {run.fold(0)} or of another fold"
        )
    if "bundle" in settings:
        raise HistoError(f"{run.path} is an evaluation: it has no learner")
    asked = TrainConfig(run.path)
    config = without_strange_places(run, read_settings(run, asked), asked, screen)
    if not can_train_in(config.precision, resolve_device(config.device)):
        config = replace(config, precision="fp32")
    data = load_again(run, config, read_label_table(config, screen), screen)
    learn = prepare(config, data, screen, resumed=True).learn
    load_best(run.checkpoint, learn.model)
    as_fastai_made_it(learn)
    return learn
