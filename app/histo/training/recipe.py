"""The recipe, on one screen: DataBlock, vision_learner, fit_one_cycle."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import fastai.callback.fp16
import fastai.callback.schedule  # noqa: F401  (both patch methods onto Learner: to_fp16, fit_one_cycle)
import numpy as np
import torch
from fastai.data.block import CategoryBlock, DataBlock, TransformBlock
from fastai.data.core import DataLoaders
from fastai.data.transforms import IndexSplitter
from fastai.learner import Learner
from fastai.vision.learner import vision_learner
from fastcore.basics import noop
from torch import nn

from histo.config import BODY_LR_DIVISOR, ModelCard, TrainConfig
from histo.data.augment import AUGMENTATIONS
from histo.data.dataset import Dataset
from histo.data.loaders import FromStore, PatchDL, takes_files
from histo.data.transforms import Augmented, ToInput
from histo.model.checkpoint import Position
from histo.model.head import make_head, parameter_groups
from histo.training.callbacks import FrozenBody
from histo.training.loss import CrossEntropy
from histo.training.optimizer import FusedAdamW
from histo.training.precision import MixedPrecision
from histo.training.recorder import EpochRecorder

STEADY = partial(FusedAdamW, sqr_mom=0.999, eps=1e-8)
"""AdamW for a linear head, with the constants of its paper (docs/measurements.md)."""
STEADY_MOMS = (0.9, 0.9, 0.9)
"""Its first moment, which does not follow the cycle."""


def make_loaders(
    data: Dataset,
    card: ModelCard,
    config: TrainConfig,
    device: torch.device,
    batch_size: int,
    share: tuple[int, int] = (0, 1),
) -> DataLoaders:
    """Loaders from rows of the store to normalised batches float32 [B, 3, S, S] on the device.

    Process `share[0]` of `share[1]` gets its share of each batch of `batch_size`.
    """
    labels = np.array(data.labels, dtype=object)
    augmented = Augmented(AUGMENTATIONS[config.augment], batch_size, *share)
    block = DataBlock(
        blocks=(
            TransformBlock(
                type_tfms=[FromStore(data.store, device, config.crop, config.size)], dl_type=PatchDL
            ),
            CategoryBlock(vocab=data.vocab, sort=False),
        ),
        get_y=labels.__getitem__,
        splitter=IndexSplitter(np.flatnonzero(data.valid).tolist()),
        batch_tfms=[augmented, ToInput(card.mean, card.std, data.store.side)],
    )
    loading = {"num_workers": 0, "drop_last": False}  # PatchDL collates whole batches itself
    loading |= {"seed": config.seed, "rank": share[0], "world_size": share[1]}
    rows = np.arange(len(labels))
    return takes_files(block.dataloaders(rows, bs=batch_size, device=device, **loading))


def make_learner(
    dls: DataLoaders,
    body: nn.Module,
    features: int,
    card: ModelCard,
    precision: str = "fp32",
    compiled: bool = False,
) -> Learner:
    """A learner around an existing body [B, 3, S, S] -> [B, features], with a new head."""
    learn = vision_learner(
        dls,
        # vision_learner cuts the body at its last pooling layer. histo's bodies include their
        # published pooling, so a pooling layer is appended only to be cut off.
        lambda pretrained: nn.Sequential(body, nn.AdaptiveAvgPool2d(1)),
        n_out=len(card.vocab),
        pretrained=False,  # the body already has its weights
        normalize=False,  # the DataBlock normalises
        custom_head=make_head(features, card.head, len(card.vocab)),
        splitter=parameter_groups,
        loss_func=CrossEntropy(),
        opt_func=FusedAdamW if card.head else STEADY,
        moms=(0.95, 0.85, 0.95) if card.head else STEADY_MOMS,
        train_bn=False,
    )
    learn.remove_cbs([learn.progress, learn.recorder])  # histo has its own progress bar and log
    learn.remove_cb(learn.cast_to_tensor)  # batches are plain tensors
    learn.add_cb(EpochRecorder())
    learn.logger = learn._set_device = (
        noop  # Recording reports epochs; batches are already on the device
    )
    learn.model = learn.model.to(dls.device, memory_format=torch.channels_last)
    if precision == "bf16":
        learn.add_cb(MixedPrecision())
    elif precision == "fp16":
        learn.to_fp16()
    if compiled:
        learn.model.compile()  # in place: the tensors keep their names
    return learn


@dataclass(frozen=True)
class Plan:
    """Epochs of the head alone, epochs of the whole model, and the peak learning rate.

    `discriminative`: the second half of the body learns more slowly than the head, the first half
    more slowly still.
    """

    freeze_epochs: int
    epochs: int
    lr: float
    discriminative: bool


def fit(learn: Learner, plan: Plan, at: Position = Position()) -> None:  # noqa: B008  (frozen)
    """Train the head with the body frozen, then the whole model: one cycle each (Smith, arXiv:1708.07120).

    Discriminative learning rates are those of Howard and Ruder, arXiv:1801.06146.
    """
    lr = slice(plan.lr / BODY_LR_DIVISOR, plan.lr) if plan.discriminative else plan.lr
    if at.epoch < plan.freeze_epochs:
        learn.freeze()
        learn.fit_one_cycle(plan.freeze_epochs, plan.lr, cbs=FrozenBody(), start_epoch=at.epoch)
    if at.epoch < plan.epochs + plan.freeze_epochs:
        learn.unfreeze()
        begun = max(0, at.epoch - plan.freeze_epochs)
        learn.fit_one_cycle(plan.epochs, lr, start_epoch=begun)
