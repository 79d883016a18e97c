"""The engines beside fp32: how fast a whole `histo predict` is by each, and how the judge finds them.

uv run python benchmarks/engines.py speed --arch resnet50 --patches 1600 --rounds 3
uv run python benchmarks/engines.py judge tf_efficientnet_lite0 --data pcam-mini --weights FILE

`speed`: random weights, synthetic patches; cards that vouch for each engine, whatever it costs.
`judge`: real weights and patches; the body stays frozen, the head is trained on its features.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import nn

import rivals
from common import CPU, QUIET, Bench, Data, Values, card_of, write_results
from histo.commands.judge_engines import CALIBRATION, Sample, engine_facts
from histo.data.decode import read_patch
from histo.data.synth import write_dataset
from histo.model.body import load_weights
from histo.model.bundle import write_bundle
from histo.model.bundle_files import BundleFiles
from histo.model.card import CARD, INT8, ONNX, SEAL, Onnx, seal_of
from histo.model.engines import ENGINES, Judged, fast_precisions, openvino_is_there
from histo.model.network import make_model, make_one
from histo.model.predictor import Predictor
from histo.model.quantise import write_int8
from histo.model.torch_engine import TorchEngine
from histo.pixels.normalise import Normalise
from histo.report.metrics import macro_auc
from histo.screen import Screen
from speed import show

app = typer.Typer()
FEW = 32
OF_FEW = f", of {FEW} files"


def vouched(folder: Path, engine: str, precision: str) -> Path:
    """A copy of a bundle whose card vouches for one engine."""
    copy = shutil.copytree(folder, folder.with_name(f"{folder.name}-{engine[:4]}-{precision}"))
    card = json.loads((copy / CARD).read_text())
    card[ENGINES] = {"judged": [asdict(Judged(engine, precision, True, 2.0, 0.0, 0.0, 0.0))]}
    del card[SEAL]
    (copy / CARD).write_text(json.dumps({**card, SEAL: seal_of(card)}))
    return copy


def here() -> list[tuple[str, str]]:
    """The engines of this machine beside fp32."""
    found = [("ONNX Runtime", "int8"), ("OpenVINO", "bf16"), ("OpenVINO", "int8")]
    return [
        (engine, precision)
        for engine, precision in found
        if precision in fast_precisions() and (engine != "OpenVINO" or openvino_is_there())
    ]


def spent() -> float:
    """Seconds of the processor, of this process and its children, in user and system."""
    return sum(os.times()[:4])


@app.command()
def speed(
    arch: str = "resnet50",
    patches: Annotated[int, typer.Option(min=160)] = 1600,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    alone: Annotated[
        int | None, typer.Option(help="Patches for torch and get_preds, if not all.")
    ] = None,
    out: Path = Path("benchmarks/results/engines.json"),
) -> None:
    """Patches a second of whole processes, from files, in turns: by the clock and of the processor.

    On a machine that is busy with other work only the second can be compared.
    """
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        write_dataset(Path(name), patches, 0, QUIET)
        bench = Bench(Path(name), Data.read(Path(name)), rounds, CPU)
        pixels = np.stack([read_patch(path) for path in bench.data.paths])
        folder, model = bench.folder / "b", make_model(card_of(arch))

        def more(onnx: Onnx) -> dict[str, object]:
            write_int8(folder / ONNX, folder / INT8, pixels[:64], onnx.input)
            return {}

        write_bundle(folder, model, card_of(arch), {}, None, False, more=more)
        files = BundleFiles.open(folder)
        eager = Predictor(files.card, TorchEngine.open(files, CPU), files)
        stock = rivals.stock_learner(bench.data, arch, 64, 0, CPU, None)

        cpu: Values = {}

        def timed(name: str, work: Callable[[], int]) -> float:
            began, start = spent(), time.perf_counter()
            count = work()
            seconds = time.perf_counter() - start
            cpu.setdefault(name, []).append(count / (spent() - began))
            print(
                f"{name}: {count / seconds:.1f}/s, of the processor {cpu[name][-1]:.1f}/s",
                flush=True,
            )
            return count / seconds

        few = bench.folder / "few"
        few.mkdir()
        for path in bench.data.paths[:FEW]:
            shutil.copy(path, few)

        def whole(bundle: Path, precision: str, patches: Path) -> int:
            words = [str(bundle), str(patches), "--out", str(bench.folder / "p.csv")]
            command = [sys.executable, "-m", "histo", "predict", *words, "--device", "cpu"]
            (bench.folder / "p.csv").unlink(missing_ok=True)

            subprocess.run(
                [*command, "--precision", precision], check=True, stdout=subprocess.DEVNULL
            )
            return len(list(patches.iterdir()))

        def torch_alone() -> int:
            some = pixels[:alone] if alone else pixels
            parts = range(0, len(some), 64)
            return sum(len(eager.probabilities(some[i : i + 64])) for i in parts)

        def get_preds() -> int:
            with stock.no_bar():
                dl = stock.dls.test_dl(list(bench.data.paths)[: alone or None], num_workers=0)
                return len(stock.get_preds(dl=dl)[0])

        alternatives: dict[str, Callable[[], int]] = {}
        for engine, precision in (("ONNX Runtime", "fp32"), *here()):
            bundle = folder if precision == "fp32" else vouched(folder, engine, precision)
            title = f"histo predict, {precision} by {engine}"
            alternatives[title] = partial(whole, bundle, precision, bench.folder / "train")
            alternatives[title + OF_FEW] = partial(whole, bundle, precision, few)
        alternatives["the model alone, torch, eager"] = torch_alone
        alternatives["stock fastai get_preds, from files"] = get_preds
        wall = bench.turns({name: partial(timed, name, it) for name, it in alternatives.items()})
        tables = {f"whole processes, {arch}": wall, "the same, of the processor": cpu}
        tables["their start left out"] = {
            name: [
                (patches - FEW) / (patches / many - FEW / start)
                for many, start in zip(rates, wall[name + OF_FEW], strict=True)
            ]
            for name, rates in wall.items()
            if name + OF_FEW in wall
        }
    show(tables)
    settings = {"arch": arch, "patches": patches, "rounds": rounds}
    write_results(out, CPU, settings, "patches a second", tables=tables)


@app.command()
def judge(arch: str, data: Path, weights: Path, epochs: int = 10) -> None:
    """What `histo export` would keep of a model with real weights, and how long that takes."""
    torch.manual_seed(0)
    patches = Data.read(data)
    pixels = np.stack([read_patch(path) for path in patches.paths])
    labels, card, valid = np.array(patches.labels, np.int64), card_of(arch), patches.valid
    model = make_one(card).eval()
    body, head = model.children()
    load_weights(next(body.children()), weights)
    features, normalise = [], Normalise(card.mean, card.std)
    with torch.no_grad():
        for i in range(0, len(pixels), 64):
            batch = normalise(torch.from_numpy(pixels[i : i + 64])).permute(0, 3, 1, 2)
            features.append(body(batch))
    known, truth = torch.cat(features), torch.from_numpy(labels)
    fit_head(head, known[~valid], truth[~valid], epochs)
    with torch.no_grad():
        scores = torch.softmax(head(known[valid]).double(), 1).numpy()
    print(f"{arch}: AUC {macro_auc(labels[valid], scores):.4f} on {valid.sum()} patches")
    sample = Sample(pixels[~valid][:CALIBRATION], pixels[valid], labels[valid])
    with tempfile.TemporaryDirectory() as name:
        folder, spent = Path(name), [0.0]

        def more(onnx: Onnx) -> dict[str, object]:
            began = time.monotonic()
            found = engine_facts(folder, onnx, model, card, sample, Screen())
            spent[0] = time.monotonic() - began
            return found

        began = time.monotonic()
        write_bundle(folder, model, card, {}, None, False, more=more)
        took = time.monotonic() - began
    print(f"the bundle took {took:.1f} s, {spent[0]:.1f} of them for the judge")


def fit_head(head: nn.Module, features: torch.Tensor, truth: torch.Tensor, epochs: int) -> None:
    """Train a head on the features of its patches."""
    steps = torch.optim.AdamW(head.parameters(), 1e-3)
    head.train()
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(truth)), 64):
            steps.zero_grad()
            loss = nn.functional.cross_entropy(head(features[rows]), truth[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            steps.step()
    head.eval()


if __name__ == "__main__":
    app()
