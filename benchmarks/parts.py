"""Loading, training, prediction and start-up, each beside its alternatives."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import models

import rivals
from common import CPU, QUIET, Bench, Data, Tables, Values, card_of, one_core, rate
from histo.commands.predict import write_predictions_table
from histo.data.decode import read_patch
from histo.data.inputs import Inputs
from histo.model.bundle import write_bundle
from histo.model.bundle_files import BundleFiles
from histo.model.checkpoint import Checkpoint, capture
from histo.model.device import default_lr, keep_memory, seed_everything
from histo.model.network import make_model
from histo.model.predictor import Predictor, open_bundle
from histo.model.torch_engine import TorchEngine
from histo.report.metrics import macro_auc
from histo.training.callbacks import Epoch, Watch
from histo.training.recipe import Plan, fit
from histo.training.recorder import METRICS


def count_batches(loader: Any, passes: int) -> int:
    """Draw every batch of a loader, several times over."""
    return sum(len(batch[0]) for _ in range(passes) for batch in loader)


def loading(bench: Bench) -> Tables:
    """Normalised float batches on one core, in patches a second."""
    d4 = bench.loaders(bench.data, "d4", CPU).train
    stain = bench.loaders(bench.data, "stain", CPU).train
    stock = rivals.stock_loaders(bench.data, 32, 0, CPU, rivals.dihedral()).train
    work = {
        "histo, D4": (d4, 10),
        "histo, D4 and colour": (stain, 10),
        "stock fastai DataBlock, Dihedral, no workers": (stock, 1),
    }
    with one_core():
        for loader, _ in work.values():
            count_batches(loader, 1)
        alternatives = {
            name: partial(rate, partial(count_batches, *pair)) for name, pair in work.items()
        }
        return {"loading on one core": bench.turns(alternatives)}


def training(bench: Bench, arch: str, most: int, compiled: bool) -> Tables:
    """Training alone, in patches a second, over at most `most` patches."""
    data = bench.data.first(most)
    keep_memory()
    learn, precision = bench.learner(data, arch, None, compiled), bench.precision(arch)
    trained: list[float] = []
    learn.add_cb(Watch(lambda: None, partial(keep_rate, trained)))
    batch, steps = learn.dls.train.one_batch(), len(learn.dls.train)
    workers = 0 if bench.device.type == "cpu" else min(16, os.cpu_count() or 1)
    stock = rivals.stock_learner(data, arch, 64, workers, bench.device, None)

    def histo() -> float:
        learn.fit(1, 1e-4)
        return trained[-1]

    def bare(precision: str) -> float:
        return rate(lambda: rivals.bare_steps(learn.model, batch, steps, precision))

    fastai = partial(rivals.stock_rate, stock, bench.device)
    notebook = partial(rivals.notebook_rate, data, arch, bench.device, workers)

    loops = {
        f"bare loop over one batch, {each}": partial(bare, each)
        for each in dict.fromkeys((precision, "fp32"))
    }
    histo()  # to warm up
    for loop in loops.values():
        loop()
    notebooks = {"the notebook's loop, at 96 px": notebook} if hasattr(models, arch) else {}
    found = bench.turns(
        {f"histo, {precision}": histo, **loops, "stock fastai": fastai, **notebooks}
    )
    return {f"training {arch}": found}


def checkpointing(bench: Bench, arch: str) -> Tables:
    """What a checkpoint within an epoch costs: seconds, and per cent of training at one in 5 min."""
    learn = bench.learner(bench.data.first(160), arch, None)
    found: Values = {
        "one checkpoint, seconds": [],
        "of training, at one in 5 minutes, per cent": [],
    }

    def keep(watch: Watch) -> None:
        start = time.perf_counter()
        tensors, facts = capture(watch.learn, phase_ended=False)
        assert all(torch.isfinite(value).all() for value in tensors.values())
        Checkpoint(watch.at, tensors, facts).write(bench.folder / "checkpoint")
        seconds = time.perf_counter() - start
        found["one checkpoint, seconds"].append(seconds)
        found["of training, at one in 5 minutes, per cent"].append(100 * seconds / 300)

    due = iter([False, *[True] * bench.rounds])
    learn.add_cb(Watch(lambda: None, partial(keep_rate, []), keep, lambda: next(due, False)))
    learn.fit(1, 1e-4)
    return {f"checkpoint of {arch}": found}


def prediction(bench: Bench, arch: str, most: int) -> Tables:
    """`histo predict` and its inner loop beside `get_preds` and the bare model."""
    data = bench.data.first(most)
    folder = bench.folder / f"bundle-{arch}"
    write_bundle(folder, make_model(card_of(arch)), card_of(arch), {})
    files = BundleFiles.open(folder)
    eager = Predictor(files.card, TorchEngine.open(files, bench.device), files)
    inner = open_bundle(folder, str(bench.device))
    pixels = np.stack([read_patch(path) for path in data.paths])
    stock = rivals.stock_learner(data, arch, 64, 0, bench.device, None)
    table = bench.folder / "names.csv"
    table.write_text("id\n" + "\n".join(path.name for path in data.paths) + "\n")

    def whole(*options: str) -> float:
        words = [str(folder), str(table), "--images", str(data.paths[0].parent)]
        out = ["--out", str(bench.folder / "p.csv"), "--device", str(bench.device)]
        command = [sys.executable, "-m", "histo", "predict", *words, *out, *options]

        def run() -> int:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            return len(data.paths)

        return rate(run)

    def loop(model: Predictor, tta: bool = False) -> float:
        parts = range(0, len(pixels), 256)
        return rate(lambda: sum(len(model.probabilities(pixels[i : i + 256], tta)) for i in parts))

    def warm() -> float:
        out = bench.folder / "p.csv"
        device = str(bench.device)
        inputs = Inputs(data.paths, [path.stem for path in data.paths])

        def run() -> int:
            return write_predictions_table(folder, inputs, out, QUIET, device=device)

        return rate(run)

    def get_preds() -> float:
        with stock.no_bar():
            dl = stock.dls.test_dl(list(data.paths), num_workers=0)
            return rate(lambda: len(stock.get_preds(dl=dl)[0]))

    what = inner.engine.name.partition(",")[0]
    found = bench.turns(
        {
            "histo predict, from files, the process running": warm,
            "histo predict, whole process": whole,
            "histo predict --tta, whole process": partial(whole, "--tta"),
            f"the model alone, {what}": partial(loop, inner),
            f"the model alone, {what}, D4 averaging": partial(loop, inner, True),
            "the model alone, torch, eager": partial(loop, eager),
            "stock fastai get_preds, from files": get_preds,
        }
    )
    return {f"prediction {arch}": found}


def startup(bench: Bench) -> Tables:
    """Whole processes, in seconds."""
    folder = bench.folder / "bundle-squeezenet1_1"
    if not folder.is_dir():
        write_bundle(folder, make_model(card_of("squeezenet1_1")), card_of("squeezenet1_1"), {})

    def seconds(*command: str) -> float:
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start

    python = sys.executable
    one = ["predict", str(folder), str(bench.data.paths[0]), "--out", str(bench.folder / "1.csv")]
    found = bench.turns(
        {
            "histo predict of one patch": partial(seconds, python, "-m", "histo", *one),
            "histo --help": partial(seconds, python, "-m", "histo", "--help"),
            "python -c 'import torch'": partial(seconds, python, "-c", "import torch"),
            "python -c 'import fastai.vision.learner'": partial(
                seconds, python, "-c", "import fastai.vision.learner"
            ),
        }
    )
    return {"start-up": found}


def quality(
    bench: Bench, folder: Path, arch: str, weights: Path | None, seeds: int, epochs: int
) -> Tables:
    """Training seconds until the notebook's own AUC is reached, and each recipe's best AUC.

    Same body, same starting weights, same split; `epochs` are the notebook's.
    """
    found: Tables = {
        "seconds of training to the notebook's AUC": {},
        "seconds of training in all": {},
        "best validation AUC": {},
    }
    for seed in range(seeds):
        data = Data.read(folder, seed)
        curves: dict[str, list[tuple[float, float]]] = {}

        seed_everything(seed, bench.device)
        learn = bench.learner(data, arch, weights)
        curve = curves["histo"] = []
        learn.add_cb(Watch(lambda: None, partial(_keep, curve)))
        fit(learn, Plan(1 if weights else 0, 8, default_lr(arch), bool(weights)))

        seed_everything(seed, bench.device)
        curve = curves["stock fastai fine_tune"] = []
        learn = rivals.stock_learner(data, arch, 64, 0, bench.device, weights)
        learn.add_cb(Watch(lambda: None, partial(_keep, curve)))
        with learn.no_bar(), learn.no_logging():
            learn.fine_tune(8)

        seed_everything(seed, bench.device)
        curve = curves["the notebook's recipe"] = []
        rivals.notebook_epochs(
            data, arch, bench.device, weights, epochs, partial(_keep_pair, curve)
        )
        wanted = max(auc for _, auc in curves["the notebook's recipe"])
        for name, points in curves.items():
            times = np.cumsum([seconds for seconds, _ in points])
            reached = [t for t, (_, auc) in zip(times, points, strict=True) if auc >= wanted]
            values = (reached[0] if reached else float("nan"), times[-1], max(a for _, a in points))
            for part, value in zip(found.values(), values, strict=True):
                part.setdefault(name, []).append(float(value))
        print(f"seed {seed}: " + ", ".join(f"{n} {c[-1][1]:.4f}" for n, c in curves.items()))
    return found


def keep_rate(rates: list[float], learn: Any, epoch: Epoch) -> None:
    """Keep the patches a second of an epoch."""
    learn.recorder.report(dict.fromkeys(METRICS, 0.0))
    rates.append(epoch.patches / epoch.train_seconds)


def _keep(curve: list[tuple[float, float]], learn: Any, epoch: Epoch) -> None:
    if hasattr(learn.recorder, "report"):  # histo's own
        learn.recorder.report(dict.fromkeys(METRICS, 0.0))
    scores = torch.softmax(epoch.logits.double(), 1).numpy()
    _keep_pair(curve, epoch.train_seconds, macro_auc(epoch.labels.numpy(), scores))


def _keep_pair(curve: list[tuple[float, float]], seconds: float, auc: float) -> None:
    curve.append((seconds, auc))
