"""The parts of the measurement on a GPU; each also runs on a CPU, at its smallest."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.learner import Recorder

import parts
import recorder
import rivals
import scaling
from common import QUIET, Bench, Tables, Values, card_of, rate
from histo.config import TrainConfig
from histo.data.dataset import Dataset
from histo.data.store import Store
from histo.data.synth import write_dataset
from histo.distributed import ranks
from histo.model.body import features_of, make_body
from histo.model.device import keep_memory, seed_everything
from histo.run.split import Split
from histo.training.callbacks import Watch
from histo.training.recipe import make_learner, make_loaders
from histo.training.recorder import EpochRecorder


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    arch: str
    patches: int
    """of the whole epoch, in memory"""
    files: int
    """patches in files, for what reads files"""
    batches: tuple[int, ...]
    batch: int
    steps: int
    """batches of a short epoch"""
    rounds: int
    seconds: float
    """the most of the whole epoch"""


SHORT = 2.0
"""The most seconds of a short epoch."""
FULL = Sizes("resnet50", 176_000, 6_400, (64, 128, 256, 512, 1024), 256, 40, 2, 25.0)
SMALL = Sizes("squeezenet1_1", 96, 160, (8, 16), 16, 2, 1, 1.0)


class Training:
    """histo's own learner over patches in memory, and the bare loop beside it."""

    def __init__(
        self,
        bench: Bench,
        arch: str,
        patches: int,
        batch: int,
        precision: str = "",
        compiled: bool = False,
    ) -> None:
        self.device, self.precision = bench.device, precision or bench.precision(arch)
        data = in_memory(bench, patches, batch)
        card, config = card_of(arch), TrainConfig(bench.folder)
        dls = make_loaders(data, card, config, bench.device, batch, (0, 1))
        body = make_body(arch)
        features = features_of(body, 96, arch)
        self.learn = make_learner(dls, body, features, card, self.precision, compiled)
        self.rates: list[float] = []
        self.learn.add_cb(Watch(lambda: None, partial(parts.keep_rate, self.rates)))

    def epoch(self) -> float:
        """Patches a second of one epoch."""
        self.learn.fit(1, 1e-4)
        return self.rates[-1]

    def bare(self, steps: int | None = None) -> float:
        """Patches a second of a loop over one batch that lies on the device."""
        batch = self.learn.dls.train.one_batch()
        count = steps or len(self.learn.dls.train)
        return rate(lambda: rivals.bare_steps(self.learn.model, batch, count, self.precision))


def in_memory(bench: Bench, patches: int, batch: int) -> Dataset:
    """So many patches to train and one batch to validate, drawn from those in files."""
    source = bench.dataset(bench.data).store
    count = patches + batch
    drawn = source.take(np.arange(len(source)))
    rows = np.arange(count) % len(drawn)
    store = Store(np.ascontiguousarray(drawn[rows]), np.empty(count, "S40"))
    labels = [str(bench.data.labels[row]) for row in rows.tolist()]
    valid = np.arange(count) < batch
    return Dataset(
        [str(n) for n in range(count)], labels, valid, ["0", "1"], store, Split("random")
    )


def fitted(bench: Bench, sizes: Sizes) -> Sizes:
    """Sizes by the speed of the device: a slow one gets fewer patches, so that the time is enough."""
    seed_everything(
        0, bench.device
    )  # and, on a GPU, let cuDNN choose its kernels, as training does
    keep_memory()
    short = Training(bench, sizes.arch, sizes.steps * sizes.batch, sizes.batch)
    short.epoch()
    speed = short.epoch()
    whole = max(2, int(speed * sizes.seconds) // sizes.batch) * sizes.batch
    steps = max(2, int(speed * SHORT) // sizes.batch)
    return replace(sizes, patches=min(sizes.patches, whole), steps=min(sizes.steps, steps))


def training(bench: Bench, sizes: Sizes) -> Tables:
    """A whole epoch as `histo train` trains it, beside a bare loop, stock fastai and the notebook."""
    whole = Training(bench, sizes.arch, sizes.patches, sizes.batch)
    data, workers = bench.data, worker_count(bench.device)
    stock = rivals.stock_learner(data, sizes.arch, 64, workers, bench.device, None)

    fastai = partial(rivals.stock_rate, stock, bench.device)
    notebook = partial(rivals.notebook_rate, data, sizes.arch, bench.device, workers)

    whole.bare(2)
    found = bench.turns(
        {
            f"histo, {whole.precision}, {whole.learn.dls.train.n:,} patches": whole.epoch,
            "bare loop over one batch (the ceiling)": lambda: whole.bare(2 * sizes.steps),
            f"stock fastai, {workers} workers": fastai,
            f"the notebook's loop, {workers} workers": notebook,
        }
    )
    return {f"training {sizes.arch}, batch {sizes.batch}": found}


def precisions(bench: Bench, sizes: Sizes) -> Tables:
    """The same epoch in each precision that the device has."""
    on_gpu = bench.device.type == "cuda"
    kinds = ("bf16", "fp16", "fp32") if on_gpu else ("bf16", "fp32")
    found: Values = {}
    for kind in kinds:
        epoch = Training(bench, sizes.arch, sizes.steps * sizes.batch, sizes.batch, kind)
        found[kind] = measured(epoch, sizes)
    return {f"training {sizes.arch} by precision": found}


def batch_sizes(bench: Bench, sizes: Sizes) -> Tables:
    """Rate and peak memory of training by batch size; one that does not fit ends the row."""
    rates: Values = {}
    memory: Values = {}
    for batch in sizes.batches:
        forget_peak(bench.device)
        try:
            epoch = Training(bench, sizes.arch, sizes.steps * batch, batch)
            rates[f"batch {batch}"] = measured(epoch, sizes)
        except torch.cuda.OutOfMemoryError:
            break
        memory[f"batch {batch}"] = [peak_gb(bench.device)]
    return {
        f"training {sizes.arch} by batch size": rates,
        f"training {sizes.arch} by batch size, peak GB of the device": memory,
    }


def measured(epoch: Training, sizes: Sizes) -> list[float]:
    """One epoch to warm up, then one a round."""
    epoch.epoch()
    return [epoch.epoch() for _ in range(sizes.rounds)]


def loading(bench: Bench, sizes: Sizes) -> Tables:
    """Batches alone, gathered, moved to the device, turned, coloured and normalised there."""
    dls = Training(bench, sizes.arch, sizes.steps * sizes.batch, sizes.batch).learn.dls

    def batches() -> int:
        count = parts.count_batches(dls.train, 1)
        rivals.wait(bench.device)
        return count

    batches()
    return {"loading to the device": {"histo": [rate(batches) for _ in range(sizes.rounds)]}}


def compiled(bench: Bench, sizes: Sizes) -> Tables:
    """`--compile` beside none, and the seconds until its first epoch is over."""
    epoch = partial(Training, bench, sizes.arch, sizes.steps * sizes.batch, sizes.batch, "")
    plain = measured(epoch(), sizes)
    start = time.perf_counter()
    fast = epoch(True)
    fast.epoch()
    first = time.perf_counter() - start
    rates = [fast.epoch() for _ in range(sizes.rounds)]
    return {
        f"training {sizes.arch}, compiled or not": {"not": plain, "--compile": rates},
        "--compile, seconds of the first epoch": {
            f"{sizes.steps * sizes.batch:,} patches": [first]
        },
    }


def prediction(bench: Bench, sizes: Sizes) -> Tables:
    """`histo predict` on the device, with and without the eight views, beside its rivals."""
    few = Bench(bench.folder, bench.data, min(2, bench.rounds), bench.device)
    return parts.prediction(few, sizes.arch, sizes.files)


def recorders(sizes: Sizes) -> Tables:
    """What it gains that `learn.recorder` does not wait for the loss of each batch."""
    learn = recorder.make(sizes.steps)
    ways = {"histo's recorder": EpochRecorder(), "fastai's recorder": Recorder()}
    recorder.seconds(learn, None)
    found: Values = {name: [] for name in ways}
    for _ in range(2 * sizes.rounds):
        for name, way in ways.items():
            found[name].append(recorder.seconds(learn, way)[0])
    return {"squeezenet1_1, batch 32, seconds of an epoch": found}


def cut_and_resumed(bench: Bench, sizes: Sizes) -> Tables:
    """A training killed by SIGKILL and resumed, beside the same one uninterrupted, by whole processes."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as name:
        folder = Path(name)
        write_dataset(folder / "data", min(sizes.files, 2_000), 1, QUIET)
        begun, options = histo("train"), ["--weights", "none", "--epochs", "2"]
        options += ["--arch", "squeezenet1_1", "--batch-size", "16", "--checkpoint-minutes", "0"]
        options += ["--device", str(bench.device), "--lr", "1e-4"]
        options += ["--precision", bench.precision("squeezenet1_1")]
        whole, cut = folder / "whole", folder / "cut"
        start = time.perf_counter()
        call([*begun, str(folder / "data"), *options, "--out", str(whole)])
        seconds = time.perf_counter() - start
        kill_after_checkpoint([*begun, str(folder / "data"), *options, "--out", str(cut)], cut)
        if not finished(cut):
            call([*begun, "--resume", str(cut)])
        both = [probabilities(run / "predictions.csv") for run in (whole, cut)]
        apart = float(np.abs(both[0] - both[1]).max())
    return {
        "killed and resumed: predictions apart by at most": {"squeezenet1_1": [apart]},
        "whole process of a training, seconds": {"squeezenet1_1, 2 + 0 epochs": [seconds]},
    }


def processes(bench: Bench, sizes: Sizes) -> Tables:
    """Two processes that train one model beside one, by NCCL where there are two GPUs."""
    if bench.device.type == "cuda" and torch.cuda.device_count() < 2:
        return {}
    found: Values = {}
    with tempfile.TemporaryDirectory(dir=bench.folder) as name:
        place = Path(name)
        for world in (1, 2):
            write_dataset(
                place / str(world), sizes.batch * sizes.steps // 2 * world * 5 // 4, 0, QUIET
            )
            words = ["--folder", str(place / str(world)), "--arch", sizes.arch]
            words += ["--device", bench.device.type, "--batch-size", str(sizes.batch)]
            facts = scaling.run(words, place / f"out-{world}", world)
            seconds = max(each["seconds"] for each in facts)
            found[f"{world} processes"] = [facts[0]["patches"] / seconds]
    return {f"training {sizes.arch} by processes": found}


def worker_count(device: torch.device) -> int:
    """Workers of stock fastai's loaders."""
    return 0 if device.type == "cpu" else min(16, ranks.cores())


def forget_peak(device: torch.device) -> None:
    """Count the peak memory from here on."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float:
    """The most memory of the device that tensors took, in GB; 0 for a CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0


def histo(*words: str) -> list[str]:
    """A histo command line."""
    return [sys.executable, "-W", "ignore", "-m", "histo", *words]


def call(command: list[str]) -> None:
    """Run a command; what it printed is the error if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-300:])


def kill_after_checkpoint(command: list[str], run: Path) -> None:
    """Start a training, and kill it once it has a checkpoint."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while not (run / "checkpoint" / "last.safetensors").exists() and process.poll() is None:
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def finished(run: Path) -> bool:
    """Whether a run came to its end before it was killed."""
    return '"finished"' in (run / "environment.json").read_text()


def probabilities(table: Path) -> Any:
    """The column of the last class, float64 [N]."""
    with table.open(newline="") as file:
        return np.array([float(list(row.values())[-1]) for row in csv.DictReader(file)])
