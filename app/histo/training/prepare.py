"""What a training needs before its first batch: device, body, loaders, learner."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histo.config import EPOCHS, EPOCHS_OF_FEW, FEW_PATCHES, LINEAR_HEAD, ModelCard, TrainConfig
from histo.data.dataset import Dataset
from histo.data.pixel_size import model_mpp
from histo.distributed import ranks
from histo.errors import HistoError
from histo.model.foundation import hub_step
from histo.run.positive import choose_positive
from histo.screen import Screen

if TYPE_CHECKING:
    import torch
    from fastai.learner import Learner
    from torch import nn

    from histo.training.recipe import Plan


@dataclass(frozen=True)
class Job:
    """A training that is ready to start."""

    config: TrainConfig
    data: Dataset
    device: torch.device
    precision: str
    learn: Learner
    card: ModelCard

    @property
    def validated_in_fp32(self) -> bool:
        """Whether the epochs' figures and predictions are those of fp32 already."""
        return self.precision == "fp32" or self.device.type == "cpu"

    @property
    def batch_size(self) -> int:
        """Patches in a batch of all processes."""
        return int(self.learn.dls.train.bs)

    def settings(self) -> dict[str, Any]:
        """What is found of the settings of epochs."""
        return {"epochs": self.epochs, "freeze_epochs": self.freeze_epochs}

    @property
    def epochs(self) -> int:
        """As given; by default more of them for few training patches."""
        return self.config.epochs or default_epochs(self.data.train_count)

    @property
    def freeze_epochs(self) -> int:
        """As given; by default 1 for a pretrained body, 0 without weights or with a linear head."""
        given = self.config.freeze_epochs
        return given if given is not None else int(self.slower_body)

    @property
    def slower_body(self) -> bool:
        """Whether the body learns later and more slowly: a pretrained one, under several layers."""
        return self.config.pretrained and self.card.head > 0

    def plan(self, lr: float) -> Plan:
        """The plan of both phases, at this peak learning rate."""
        from histo.training.recipe import Plan

        return Plan(self.freeze_epochs, self.epochs, lr, self.slower_body)


def default_epochs(train: int) -> int:
    """How many epochs of the whole model so many training patches get (docs/measurements.md)."""
    return EPOCHS_OF_FEW if train < FEW_PATCHES else EPOCHS


def prepare(config: TrainConfig, data: Dataset, screen: Screen, resumed: bool = False) -> Job:
    """Prepare a training; the weights of a `resumed` run come from its checkpoint."""
    train, valid = data.train_count, int(data.valid.sum())
    screen.say(f"{train:,} train, {valid:,} validate ({split_phrase(data)})")
    with screen.step("loading torch and fastai"):
        from histo.model import device as devices
        from histo.model.body import features_of
        from histo.training.precision import choose_precision
        from histo.training.recipe import make_learner, make_loaders

    device = devices.resolve_device(config.device)
    precision = choose_precision(config, data.store.side, device, screen)
    devices.seed_everything(config.seed, device)
    devices.keep_memory()
    body, card = start_model(config, data, screen, weights=not resumed)
    wanted = config.batch_size or devices.default_batch_size(device)
    batch_size = min(wanted, train)
    if batch_size < wanted:
        screen.say(f"batch size {batch_size}: there are only {train} training patches")
    if ranks.world_size() > 1:
        divide(config, batch_size, valid, device, body, screen)
    share = (ranks.rank(), ranks.world_size())
    dls = make_loaders(data, card, config, device, batch_size, share)
    features = features_of(body, card.patch_size, config.arch)
    learn = make_learner(dls, body, features, card, precision, config.compile)
    return Job(config, data, device, precision, learn, card)


def split_phrase(data: Dataset) -> str:
    """How the patches were split, in a few words."""
    split = data.split
    if split.kind == "random":
        return "random over patches: optimistic for new slides"
    if split.kind == "grouped":
        return f"by {split.column}: none of {split.groups:,} is on both sides"
    if split.kind == "folders":
        return "as the folders train and valid say"
    if split.kind == "column":
        return f"as the column {split.column} says"
    return "how they were split is not recorded"


def start_model(
    config: TrainConfig, data: Dataset, screen: Screen, *, weights: bool
) -> tuple[nn.Module, ModelCard]:
    """The body with its initial weights, and the card of the model."""
    from histo.model.body import load_weights, make_body, normalisation

    published = weights and config.weights == "imagenet"
    with hub_step(config.arch, published, screen):
        body = make_body(config.arch, imagenet=published)
    if weights and config.weights not in ("imagenet", "none"):
        loaded = load_weights(body, Path(config.weights))
        screen.say(f"weights: {loaded}; the head is new")
    mean, std = normalisation(body)
    card = ModelCard(config.arch, data.vocab, data.store.side, config.crop, config.size, mean, std)
    card = replace(card, head=0) if config.probe or config.arch.startswith(LINEAR_HEAD) else card
    mpp = model_mpp(config.mpp, data.side, config.size)
    if mpp != config.mpp:
        screen.say(f"{data.side} px resized to {config.size} px: {mpp:.4g} µm per px")
    return body, replace(card, positive=positive_name(config, data), mpp=mpp)


def positive_name(config: TrainConfig, data: Dataset) -> str | None:
    """The positive class of two as given or found; None where it is not known."""
    found = choose_positive(data.vocab, config.positive)
    return found.name if found and found.known else None


def divide(
    config: TrainConfig,
    batch_size: int,
    valid: int,
    device: torch.device,
    body: nn.Module,
    screen: Screen,
) -> None:
    """Share each batch among the processes; HistoError if there are fewer patches than processes."""
    import torch

    from histo.training.batch_norm import SMALL_SHARE, share_batch_norm

    processes = ranks.world_size()
    if config.lr == "find":
        raise HistoError(
            "the learning rate finder runs in one process only",
            "run it with one process, then give {lr} the number it finds",
        )
    if batch_size < 2 * processes:  # an epoch's batches may be as small as half this
        raise HistoError(f"batch size {batch_size} is too small for {processes} processes to share")
    if valid < processes:
        raise HistoError(
            f"{valid} validation patches are too few for {processes} processes to share"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(ranks.cores())
    share = batch_size // processes
    shared = share < SMALL_SHARE and share_batch_norm(body) > 0
    note = "; batch norm over all processes" if shared else ""
    screen.say(f"{processes} processes, {share} patches per batch and process{note}")
