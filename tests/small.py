"""Small data sets in memory and learners on them, made as `histo train` makes its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback

from histo.config import Augment, ModelCard, TrainConfig
from histo.data.dataset import Dataset
from histo.data.store import Store
from histo.model.body import IMAGENET_MEAN, IMAGENET_STD, make_body
from histo.model.checkpoint import Checkpoint, capture
from histo.run.split import Split
from histo.training.callbacks import Watch
from histo.training.recipe import make_learner, make_loaders

CPU = torch.device("cpu")
NOISE = np.random.default_rng(0).integers(0, 256, (48, 32, 32, 3), dtype=np.uint8)


def dataset_of(pixels: np.ndarray, valid: np.ndarray, labels: list[str] | None = None) -> Dataset:
    """Patches uint8 [N, S, S, 3] as a data set; labels 0 and 1 in turn where none are given."""
    labels = labels or ["0", "1"] * (len(pixels) // 2)
    ids = [str(number) for number in range(len(pixels))]
    store = Store(pixels, np.empty(len(pixels), "S40"))
    return Dataset(ids, labels, valid, sorted(set(labels)), store, Split("random"))


def card_of(data: Dataset, arch: str) -> ModelCard:
    """The card of a model to be."""
    return ModelCard(arch, data.vocab, data.store.side, None, None, IMAGENET_MEAN, IMAGENET_STD)


def learner_of(
    data: Dataset,
    arch: str,
    batch_size: int,
    augment: Augment = "d4",
    features: int = 512,
    precision: str = "fp32",
) -> Any:
    """histo's own learner, on the CPU."""
    card, config = card_of(data, arch), TrainConfig(Path(), augment=augment)
    dls = make_loaders(data, card, config, CPU, batch_size)
    return make_learner(dls, make_body(arch), features, card, precision)


def watched_learner(*callbacks: Callback) -> tuple[Any, Watch, list[Checkpoint]]:
    """A learner on 48 patches of noise in batches of 8; a checkpoint is kept after each batch."""
    kept: list[Checkpoint] = []
    learn = learner_of(dataset_of(NOISE, np.arange(48) < 16), "squeezenet1_1", 8)

    def keep(watch: Watch) -> None:
        if watch.training:
            kept.append(Checkpoint(watch.at, *capture(watch.learn, phase_ended=False)))

    watch = Watch(lambda: None, lambda learn, _: report(learn), keep, lambda: True)
    learn.add_cbs([watch, *callbacks])
    return learn, watch, kept


def report(learn: Any) -> None:
    """The figures of an epoch that nobody reads."""
    learn.recorder.report(dict.fromkeys(("train_loss", "valid_loss", "accuracy", "roc_auc"), 0.0))
