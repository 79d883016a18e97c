"""What all parts of the benchmark share: the data, the clock, and turns."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from histo import __version__
from histo.config import Augment, ModelCard, TrainConfig
from histo.data.dataset import Dataset
from histo.data.labels import read_labels
from histo.data.patch_files import PatchFiles, PatchIndex
from histo.data.split import random_split
from histo.data.store import open_store
from histo.data.synth import write_dataset
from histo.distributed import ranks
from histo.files.writing import write_json
from histo.model.body import IMAGENET_MEAN, IMAGENET_STD, features_of, load_weights, make_body
from histo.model.device import default_batch_size, describe_device
from histo.pixels.fit import Fit
from histo.run.split import Split
from histo.screen import Screen
from histo.training.precision import choose_precision
from histo.training.recipe import make_learner, make_loaders

Values = dict[str, list[float]]
Tables = dict[str, Values]
QUIET = Screen(quiet=True)
CPU = torch.device("cpu")
PACKAGES = ("fastai", "torch", "torchvision", "onnxruntime", "opencv-python", "numpy")


@dataclass(frozen=True)
class Data:
    """Labelled patches of a folder: files, classes 0 and 1, and which of them validate."""

    paths: PatchFiles
    labels: Sequence[int]
    valid: NDArray[np.bool_]

    @classmethod
    def read(cls, folder: Path, seed: int = 0) -> Data:
        """A folder in Kaggle's layout, split as histo splits it."""
        rows = read_labels(folder / "train_labels.csv")
        paths = PatchIndex(folder / "train").locate(rows, folder / "train_labels.csv")
        labels = [row.label for row in rows]
        return cls(paths, [int(x) for x in labels], random_split(labels, 20, seed))

    def first(self, n: int) -> Data:
        """The first `n` patches."""
        return Data(self.paths[:n], self.labels[:n], self.valid[:n])

    def part(self, valid: bool) -> list[tuple[Path, int]]:
        """Files and classes of one side of the split, in table order."""
        rows = zip(self.paths, self.labels, self.valid, strict=True)
        return [(path, label) for path, label, side in rows if side == valid]


@dataclass(frozen=True)
class Bench:
    """What is measured: on which device, with which patches, in how many rounds."""

    folder: Path
    data: Data
    rounds: int
    device: torch.device

    @classmethod
    def make(cls, folder: Path, patches: int, rounds: int, device: torch.device) -> Bench:
        """Draw synthetic patches into a folder."""
        write_dataset(folder, patches, 0, QUIET)
        return cls(folder, Data.read(folder), rounds, device)

    def precision(self, arch: str) -> str:
        """The precision `histo train` would choose."""
        return choose_precision(TrainConfig(self.folder, arch=arch), 96, self.device, QUIET)

    def loaders(
        self, data: Data, augment: Augment, device: torch.device, batch_size: int | None = None
    ) -> Any:
        """histo's own loaders over a store."""
        config = TrainConfig(self.folder, augment=augment)
        size = batch_size or min(default_batch_size(device), len(data.part(False)))
        share = (ranks.rank(), ranks.world_size())
        return make_loaders(self.dataset(data), card_of("any"), config, device, size, share)

    def dataset(self, data: Data) -> Dataset:
        """The patches in histo's store."""
        store = open_store(data.paths, self.folder / "store", Fit(), QUIET)
        labels = [str(label) for label in data.labels]
        ids = [path.stem for path in data.paths]
        return Dataset(ids, labels, data.valid, ["0", "1"], store, Split("random"))

    def learner(
        self,
        data: Data,
        arch: str,
        weights: Path | None,
        compiled: bool = False,
        batch_size: int | None = None,
    ) -> Any:
        """histo's own learner, as `histo train` builds it."""
        body = make_body(arch)
        if weights:
            load_weights(body, weights)
        dls = self.loaders(data, "stain", self.device, batch_size)
        features = features_of(body, 96, arch)
        return make_learner(dls, body, features, card_of(arch), self.precision(arch), compiled)

    def turns(self, alternatives: Mapping[str, Callable[[], float]]) -> Values:
        """Each alternative once a round, in turn; what each gave, by name."""
        found: Values = {name: [] for name in alternatives}
        for _ in range(self.rounds):
            for name, measure in alternatives.items():
                found[name].append(measure())
        return found


def card_of(arch: str) -> ModelCard:
    """The card of a model of two classes for patches of 96 px."""
    return ModelCard(arch, ["0", "1"], 96, None, None, IMAGENET_MEAN, IMAGENET_STD)


def write_results(
    out: Path, device: torch.device, settings: Mapping[str, Any], units: str, **found: Any
) -> None:
    """What was found, as JSON, with date, hardware and versions."""
    out.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "device": describe_device(device),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "histo": __version__,
            **{name: version(name) for name in PACKAGES},
        },
        "settings": settings,
        "units": units,
    }
    write_json(out, {**facts, **found})
    print(f"\n{out}")


def rate(work: Callable[[], int]) -> float:
    """Patches a second of one call that returns how many patches it handled."""
    start = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - start)


@contextmanager
def one_core() -> Iterator[None]:
    """Hold this thread, torch and OpenCV to a single core."""
    threads = torch.get_num_threads()
    pin = getattr(os, "sched_setaffinity", None)  # Linux has it
    cores = os.sched_getaffinity(0) if pin else set()
    if pin:
        pin(0, {min(cores)})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        if pin:
            pin(0, cores)
        torch.set_num_threads(threads)
        cv2.setNumThreads(-1)
