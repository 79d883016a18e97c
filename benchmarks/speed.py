"""How fast histo is beside a stock fastai DataBlock and a bare loop, in one run, in turn.

uv run python benchmarks/speed.py [--patches N] [--rounds N] [--out FILE]

Synthetic patches of 96 px are drawn into a temporary folder. Every figure is the median of the
rounds; the alternatives take turns within a round, so that a slow minute slows them all.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import Normalize, RandomSplitter
from fastai.vision.augment import Dihedral
from fastai.vision.data import ImageBlock

from histo.config import ModelCard
from histo.data.labels import PatchIndex, read_labels
from histo.data.loaders import make_loaders
from histo.data.split import random_split
from histo.data.store import open_store
from histo.data.synth import write_dataset
from histo.model.body import IMAGENET_MEAN, IMAGENET_STD, features_of, make_body
from histo.model.learner import build_learner, describe_device, resolve_device
from histo.run import write_json
from histo.screen import Screen

BATCH = 32


def rate(work: Callable[[], int]) -> float:
    """Patches a second of one call that returns how many patches it handled."""
    start = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - start)


def count_batches(loader: Any) -> int:
    """Draw every batch of a loader."""
    return sum(len(batch[0]) for batch in loader)


def stock_loader(folder: Path) -> Any:
    """The DataBlock that everybody writes, with D4-like augmentation and normalisation."""
    labels = {row.id: row.label for row in read_labels(folder / "train_labels.csv")}
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_y=lambda path: labels[path.stem],
        splitter=RandomSplitter(0.2, seed=0),
        batch_tfms=[Dihedral(p=0.875), Normalize.from_stats(IMAGENET_MEAN, IMAGENET_STD)],
    )
    paths = PatchIndex(folder / "train").paths
    return block.dataloaders(paths, bs=BATCH, num_workers=0).train


def training_rates(dls: Any, arch: str, device: torch.device, steps: int) -> dict[str, float]:
    """Patches a second of histo's learner, and of a bare loop over one batch on the device."""
    card = ModelCard(arch, ["0", "1"], 96, None, None, IMAGENET_MEAN, IMAGENET_STD)
    body = make_body(arch)
    learn = build_learner(dls, body, features_of(body, 96, arch), card, "fp32")
    learn.create_opt()
    x, y = dls.train.one_batch()
    x, y = x.as_subclass(torch.Tensor), y.as_subclass(torch.Tensor)
    optimiser = torch.optim.AdamW(learn.model.parameters(), lr=1e-4)

    def bare() -> int:
        learn.model.train()
        for _ in range(steps):
            torch.nn.functional.cross_entropy(learn.model(x), y).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            optimiser.zero_grad()
        _wait(device)
        return steps * len(y)

    def ours() -> int:
        learn.model.train()
        learn.training = True
        learn.n_epoch, learn.epoch, learn.dl, learn.n_iter = 1, 0, dls.train, steps
        learn("before_fit")
        learn("before_epoch")
        learn("before_train")
        for i, batch in enumerate(dls.train):
            if i == steps:
                break
            learn.one_batch(i, batch)
        _wait(device)
        return min(steps, len(dls.train)) * BATCH

    return {"histo": rate(ours), "bare loop (the ceiling)": rate(bare)}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(
    patches: Annotated[int, typer.Option(min=320)] = 1600,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    steps: Annotated[int, typer.Option(min=1)] = 20,
    arch: str = "squeezenet1_1",
    device: str = "auto",
    out: Path = Path("benchmarks/results/speed.json"),
) -> None:
    """Measure loading and training."""
    where = resolve_device(device)
    found: dict[str, dict[str, list[float]]] = {"loading": {}, f"training {arch}": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = write_dataset(Path(name), patches, 0, Screen())
        rows = read_labels(folder / "train_labels.csv")
        paths = PatchIndex(folder / "train").locate(rows, folder / "train_labels.csv")
        labels = [row.label for row in rows]
        store = open_store(paths, folder / "store", None, None, Screen())
        dls = make_loaders(
            store,
            labels,
            np.asarray(random_split(labels, 20, 0)),
            ["0", "1"],
            batch_size=BATCH,
            augment="d4",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            device=where,
        )
        stock = stock_loader(folder)
        for _ in range(rounds):
            for key, loader in (("histo", dls.train), ("stock fastai DataBlock", stock)):
                value = rate(lambda loader=loader: count_batches(loader))  # type: ignore[misc]
                found["loading"].setdefault(key, []).append(value)
            for key, value in training_rates(dls, arch, where, steps).items():
                found[f"training {arch}"].setdefault(key, []).append(value)
    table = {
        part: {key: median(values) for key, values in rates.items()}
        for part, rates in found.items()
    }
    for part, rates in table.items():
        first = rates["histo"]
        for key, value in rates.items():
            print(f"{part:24} {key:26} {value:9.0f} patches/s  histo is {first / value:.2f} times")
    versions = {p: version(p) for p in ("histo", "fastai", "torch", "torchvision")}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        out,
        {
            "date": time.strftime("%Y-%m-%d"),
            "device": describe_device(where),
            "machine": platform.machine(),
            "versions": versions,
            "patches": patches,
            "rounds": rounds,
            "patches_per_second": table,
        },
    )
    print(json.dumps(versions))


if __name__ == "__main__":
    typer.run(main)
