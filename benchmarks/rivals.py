"""What histo is measured against: stock fastai, the published notebook's loop, and a bare loop.

The notebook is Teddy Koker's "Histopathologic Cancer Detection with Transfer Learning" (2019):
its recipe is repeated here from its text, its mistakes (BGR, no shuffle, 49 px) included.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from fastai.callback.core import Callback, CancelValidException
from fastai.callback.fp16 import MixedPrecision  # noqa: F401  (patches to_fp16 on)
from fastai.callback.schedule import fine_tune  # noqa: F401  (patches it and fit_one_cycle on)
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import IndexSplitter, Normalize
from fastai.vision.augment import Dihedral, aug_transforms
from fastai.vision.data import ImageBlock
from fastai.vision.learner import vision_learner
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from common import Data
from histo.model.body import IMAGENET_MEAN, IMAGENET_STD
from histo.report.metrics import macro_auc
from histo.training.optimizer import FusedAdamW
from histo.training.precision import run_in_bf16


def wait(device: torch.device) -> None:
    """Let a GPU finish before the clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def stock_loaders(data: Data, bs: int, workers: int, device: torch.device, tfms: Any) -> Any:
    """The DataBlock that everybody writes."""
    labels = dict(zip(data.paths, data.labels, strict=True))
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_y=labels.get,
        splitter=IndexSplitter(np.flatnonzero(data.valid).tolist()),
        batch_tfms=[*tfms, Normalize.from_stats(IMAGENET_MEAN, IMAGENET_STD)],
    )
    return block.dataloaders(list(data.paths), bs=bs, num_workers=workers, device=device)


def dihedral() -> list[Any]:
    """fastai's nearest to D4: a random one of eight by grid_sample, for 7 patches of 8."""
    return [Dihedral(p=0.875)]


def stock_learner(
    data: Data, arch: str, bs: int, workers: int, device: torch.device, weights: Path | None
) -> Any:
    """The short fastai script: `ImageBlock`, `aug_transforms`, `vision_learner`, fp16 on a GPU."""
    tfms = aug_transforms(flip_vert=True, max_warp=0.0)
    dls = stock_loaders(data, bs, workers, device, tfms)
    body = getattr(torchvision.models, arch, arch)  # timm's by name
    learn = vision_learner(dls, body, pretrained=False, normalize=False)
    if weights:
        load_features(learn.model[0], weights)
    return learn.to_fp16() if device.type == "cuda" else learn


class TrainOnly(Callback):  # type: ignore[misc]
    """Skips validation, so that training alone is timed."""

    def before_validate(self) -> None:
        """Say no."""
        raise CancelValidException


def stock_rate(learn: Any, device: torch.device) -> float:
    """Patches a second of an epoch of training by stock fastai."""
    with learn.no_bar(), learn.no_logging():
        start = time.perf_counter()
        learn.fit_one_cycle(1, 1e-4, cbs=TrainOnly())
        wait(device)
        return float(len(learn.dls.train) * learn.dls.train.bs / (time.perf_counter() - start))


def load_features(body: nn.Module, weights: Path) -> None:
    """Copy a file's `features.*` tensors into a body, by what follows the last dots' numbers."""
    given = {key.removeprefix("features."): v for key, v in load_file(weights).items()}
    features = body[0] if isinstance(body, nn.Sequential) and len(body) == 1 else body
    features.load_state_dict({k: v for k, v in given.items() if not k.startswith("classifier")})


class NotebookPatches(Dataset[tuple[Tensor, int]]):
    """Decode by `cv2.imread`, BGR left as it is, through torchvision's transforms."""

    def __init__(self, rows: list[tuple[Path, int]], train: bool, crop: int | None) -> None:
        vary = [
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.RandomRotation(20),
        ]
        self.rows = rows
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                *(vary if train else []),
                *([transforms.CenterCrop(crop)] if crop else []),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.rows[index]
        image: Tensor = self.transform(cv2.imread(str(path)))
        return image, label


def notebook_model(arch: str, weights: Path | None) -> nn.Module:
    """Its body without the last two children, and its head."""
    model = getattr(torchvision.models, arch)()
    if hasattr(model, "features"):
        body = model.features
        if weights:
            load_features(body, weights)
    else:
        body = nn.Sequential(*list(model.children())[:-2])
    with torch.no_grad():
        features = body.eval()(torch.zeros(1, 3, 64, 64)).shape[1]
    head = nn.Sequential(
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.BatchNorm1d(features), nn.Dropout(0.5), nn.Linear(features, 512), nn.ReLU()),
        *(nn.BatchNorm1d(512), nn.Dropout(0.5), nn.Linear(512, 2)),
    )
    return nn.Sequential(body, head)


def notebook_epochs(
    data: Data,
    arch: str,
    device: torch.device,
    weights: Path | None,
    epochs: int,
    on_epoch: Callable[[float, float], None],
    crop: int | None = 49,
    workers: int = 0,
) -> None:
    """Its training: SGD with momentum, one cycle to 1e-2, batches of 64 in table order.

    `on_epoch` is told the seconds of training since the last one, and the validation AUC.
    """
    train = DataLoader(NotebookPatches(data.part(False), True, crop), 64, num_workers=workers)
    valid = DataLoader(NotebookPatches(data.part(True), False, crop), 64, num_workers=workers)
    model = notebook_model(arch, weights).to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=1e-2, epochs=epochs, steps_per_epoch=len(train)
    )
    for _ in range(epochs):
        start = time.perf_counter()
        model.train()
        for images, labels in train:
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            loss.item()  # it adds the loss up each batch
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        wait(device)
        seconds = time.perf_counter() - start
        on_epoch(seconds, notebook_auc(model, valid, device))


def notebook_rate(data: Data, arch: str, device: torch.device, workers: int) -> float:
    """Patches a second of an epoch of its training, at 96 px."""
    taken: list[float] = []
    notebook_epochs(data, arch, device, None, 1, lambda s, _: taken.append(s), None, workers)
    return len(data.part(False)) / taken[0]


def notebook_auc(model: nn.Module, valid: Any, device: torch.device) -> float:
    """The AUC of the validation patches."""
    model.eval()
    with torch.no_grad():
        pairs = [(model(x.to(device)).softmax(1).cpu(), y) for x, y in valid]
    scores, labels = (torch.cat(part).numpy() for part in zip(*pairs, strict=True))
    return macro_auc(labels, scores.astype(np.float64))


def bare_steps(
    model: nn.Module, batch: tuple[Tensor, Tensor], steps: int, precision: str = "fp32"
) -> int:
    """The ceiling: `steps` optimizer steps over one batch that lies on the device; patches seen.

    Model, precision, memory format and optimizer are those of histo.
    """
    x, y = (t.as_subclass(Tensor) for t in batch)
    x = x.contiguous(memory_format=torch.channels_last)
    optimiser = FusedAdamW([list(model.parameters())], lr=1e-4)
    model.train()
    changed = run_in_bf16(model, x.device.type) if precision == "bf16" else []
    for _ in range(steps):
        with torch.autocast(x.device.type, torch.float16, enabled=precision == "fp16"):
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
    for module in changed:
        del module.forward
    wait(x.device)
    return steps * len(y)
