"""One model, trained in a run folder from its start or from its last checkpoint."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histo.config import ModelCard, TrainConfig
from histo.data.dataset import Dataset
from histo.distributed import ranks
from histo.errors import HistoError
from histo.files.writing import write_json
from histo.run.folder import RunFolder
from histo.screen import Screen
from histo.training.recording import Recording, record_resumed, write_start
from histo.training.stopping import stop_asked

if TYPE_CHECKING:
    import torch
    from fastai.learner import Learner

    from histo.model.checkpoint import Checkpoint
    from histo.training.watch import Plan


@dataclass(frozen=True)
class Job:
    """All that is ready before the first batch."""

    config: TrainConfig
    patches: Dataset
    device: torch.device
    precision: str
    learn: Learner
    card: ModelCard

    @property
    def freeze_epochs(self) -> int:
        """As given; else one where the body starts from weights, none where it starts from nothing."""
        given = self.config.freeze_epochs
        return given if given is not None else int(self.pretrained)

    @property
    def pretrained(self) -> bool:
        """Whether the body starts from weights."""
        return self.config.weights != "none"

    def plan(self, lr: float) -> Plan:
        """Both phases, at this peak learning rate."""
        from histo.training.watch import Plan

        return Plan(self.freeze_epochs, self.config.epochs, lr, self.pretrained)


def train_new(config: TrainConfig, patches: Dataset, screen: Screen) -> RunFolder:
    """Train in a new run folder; it is made once labels, patches, weights and device are good."""
    job = prepare(config, patches, screen)
    run = ranks.broadcast(lambda: RunFolder.create(config.out, config.arch))
    with run.lock():
        try:
            train_in(run, job, None, screen)
        except (HistoError, RuntimeError, OSError):
            if ranks.rank() == 0 and not run.begun:  # there is nothing to keep
                shutil.rmtree(run.path, ignore_errors=True)
            raise
    return run


def train_on(run: RunFolder, config: TrainConfig, patches: Dataset, screen: Screen) -> RunFolder:
    """Go on with a run folder that this process holds, from its last checkpoint."""
    from histo.model.checkpoint import Checkpoint

    begin = ranks.broadcast(lambda: Checkpoint.read(run.checkpoint))
    train_in(run, prepare(config, patches, screen, begin), begin, screen)
    return run


def prepare(
    config: TrainConfig, patches: Dataset, screen: Screen, begin: Checkpoint | None = None
) -> Job:
    """Device, body, loaders and learner; of a checkpoint's run the weights come later."""
    from histo.data.loaders import make_loaders
    from histo.model import learner as engine
    from histo.model.body import features_of

    valid = patches.valid
    screen.say(f"{(~valid).sum():,} train, {valid.sum():,} validate ({patches.split})")
    device = engine.resolve_device(config.device)
    precision = engine.resolve_precision(config.precision, device)
    engine.seed_everything(config.seed, device)
    engine.keep_memory()
    body, card = start_model(config, patches, screen, weights=begin is None)
    count = int((~valid).sum())
    wanted = config.batch_size or engine.default_batch_size(device)
    batch_size = min(wanted, count)
    if batch_size < wanted:
        screen.say(f"batch size {batch_size}: there are only {count} training patches")
    if ranks.world() > 1:
        divide(config, batch_size, int(valid.sum()), device, body, screen)
    dls = make_loaders(
        patches.store,
        patches.labels,
        valid,
        card.vocab,
        batch_size=batch_size,
        augment=config.augment,
        mean=card.mean,
        std=card.std,
        device=device,
        crop=config.crop,
        size=config.size,
        seed=config.seed,
        rank=ranks.rank(),
        world=ranks.world(),
    )
    features = features_of(body, card.patch_size, config.arch)
    learn = engine.build_learner(dls, body, features, card, precision, config.compile)
    return Job(config, patches, device, precision, learn, card)


def divide(
    config: TrainConfig,
    batch_size: int,
    judged: int,
    device: torch.device,
    body: Any,
    screen: Screen,
) -> None:
    """Make ready for a share of each batch; HistoError where there is not a patch for each."""
    import torch

    from histo.training.data_parallel import SMALL_SHARE, share_batch_norm

    world = ranks.world()
    if config.lr == "find":
        raise HistoError(
            "several processes cannot search for a learning rate",
            "find it with one process, then give {lr} the number",
        )
    if batch_size < 2 * world:  # the batches of an epoch may be half as large
        raise HistoError(f"batch size {batch_size} is too small for {world} processes to share")
    if judged < world:
        raise HistoError(f"{judged} validation patches are too few for {world} processes to share")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(ranks.cores())
    share = batch_size // world
    norms = share_batch_norm(body) if share < SMALL_SHARE else 0
    said = "; batch norm over all of them" if norms else ""
    screen.say(f"{world} processes, {share} patches of each batch to each{said}")


def start_model(
    config: TrainConfig, patches: Dataset, screen: Screen, *, weights: bool
) -> tuple[Any, ModelCard]:
    """The body with its starting weights, and the card of the model to be."""
    from histo.model.body import load_weights, make_body, normalisation

    body = make_body(config.arch, imagenet=weights and config.weights == "imagenet")
    if weights and config.weights not in ("imagenet", "none"):
        loaded = load_weights(body, Path(config.weights))
        screen.say(f"weights: {loaded}; the head is new")
    mean, std = normalisation(body)
    card = ModelCard(
        config.arch, patches.vocab, patches.store.side, config.crop, config.size, mean, std
    )
    return body, card


def train_in(run: RunFolder, job: Job, begin: Checkpoint | None, screen: Screen) -> None:
    """Train in a run folder that this process holds."""
    from histo.model import learner as engine
    from histo.model.gradcam import save_gradcam
    from histo.training.data_parallel import DataParallel
    from histo.training.watch import Watch, fit

    config, learn = job.config, job.learn
    epochs = job.freeze_epochs + config.epochs
    steps = len(learn.dls.train) + len(learn.dls.valid)
    with stop_asked() as stop, screen.bar("training", epochs * steps) as advance:
        recording = Recording(run, job.patches, screen, config.checkpoint_minutes, stop, begin)
        watch = Watch(advance, recording.epoch, recording.pause, recording.pause_due, begin)
        learn.add_cb(watch)
        if ranks.world() > 1:
            learn.add_cb(DataParallel())
        lr = start(run, job, screen) if begin is None else parse_lr(config.lr or "")
        if begin:
            if ranks.rank() == 0:
                record_resumed(run, job.device, screen)
            screen.say(f"going on in epoch {watch.at.epoch + 1}, batch {watch.at.batch + 1:,}")
            advance(watch.at.epoch * steps + watch.at.batch)
        try:
            fit(learn, job.plan(lr), watch.at)
            if job.precision != "fp32":
                recording.finish_in_fp32(learn)
        except RuntimeError as error:
            raise engine.out_of_memory(error, learn.dls.train.bs) or error from None
    if ranks.rank() > 0:
        return
    save_gradcam(
        run,
        learn.model,
        job.card,
        job.patches.store.take,
        np.flatnonzero(job.patches.valid),
        learn.dls.train.bs,
        screen,
    )
    recording.finish()


def start(run: RunFolder, job: Job, screen: Screen) -> float:
    """Write what is known before the first batch, say what will be done; the learning rate."""
    from histo.model.learner import describe_device

    config, patches = job.config, job.patches
    if ranks.rank() > 0:
        return choose_lr(config, job.learn, run)
    batch_size = job.learn.dls.train.bs
    found = {
        "batch_size": batch_size,
        "freeze_epochs": job.freeze_epochs,
        "device": str(job.device),
        "precision": job.precision,
        "labels": config.labels_csv,
        "images": config.images_folder,
        "store": patches.store.path and patches.store.path.parent,
        "out": run.path,
        "split": patches.split,
        "leak": patches.leak,
        "group_column": patches.group_column,
    }
    write_json(run.config, config.record(found))
    write_json(run.path / "model.json", job.card.as_dict())
    write_start(run, patches, job.device)
    lr = choose_lr(config, job.learn, run)
    write_json(run.config, config.record({**found, "lr": lr}))
    screen.say(
        f"{config.arch} on {describe_device(job.device)}, {job.precision}, batch size "
        f"{batch_size}, learning rate {lr:.2g}, {job.freeze_epochs} + {config.epochs} epochs"
    )
    return lr


def choose_lr(config: TrainConfig, learn: Learner, run: RunFolder) -> float:
    """The learning rate given, the default for the architecture, or what the finder finds."""
    from histo.model.learner import default_lr, find_lr

    if config.lr is None:
        return default_lr(config.arch)
    if config.lr != "find":
        return parse_lr(config.lr)
    from histo.report.plots import draw_lr_find

    lr, rates, losses = find_lr(learn)
    draw_lr_find(run.path / "lr_find", rates, losses, lr)
    return lr


def parse_lr(text: str) -> float:
    """A learning rate as a number; HistoError where it is none."""
    try:
        lr = float(text)
    except ValueError:
        lr = math.nan
    if not (math.isfinite(lr) and lr > 0):
        raise HistoError(
            f"learning rate {text!r} is not a positive number", "{lr} takes a number, or find"
        )
    return lr
