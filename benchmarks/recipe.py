"""Compare recipes of training on real patches: paired AUC over folds, eight views.

    python benchmarks/recipe.py run --data pcam-mini --weights WEIGHTS.safetensors --arch ARCH \
        --folds 0,1 --out FOLDER VARIANT…
    python benchmarks/recipe.py table --out FOLDER

A variant is `base`, or changes to it: `lr=3e-3,bn_momentum=0.1`. Each training appends a line to
FOLDER/runs.jsonl and keeps its predictions at once; what is there is not run again.
The body computes in bf16 by default, which is faster on processors that have it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from fastai.callback.core import Callback
from fastai.losses import LabelSmoothingCrossEntropyFlat
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common import Data
from histo.config import ModelCard, TrainConfig
from histo.data import augment
from histo.data.augment import Draw
from histo.data.dataset import Dataset, fold
from histo.data.loaders import equal_batches
from histo.data.split import fold_of
from histo.data.store import open_store
from histo.model.body import features_of, load_weights, make_body, normalisation
from histo.model.device import keep_memory, seed_everything
from histo.model.head import make_head
from histo.pixels.d4 import VIEWS, view
from histo.pixels.fit import Fit
from histo.run.split import Split
from histo.screen import Screen
from histo.training.callbacks import FrozenBody
from histo.training.recipe import STEADY, STEADY_MOMS, make_learner, make_loaders

CPU = torch.device("cpu")
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Variant:
    """What a recipe may change; the defaults are those of histo before this comparison."""

    lr: float = 1.5e-3
    divisor: float = 3.0
    freeze: int = 1
    epochs: int = 8
    batch: int = 32
    size: int = 0
    """side that patches are resized to; 0: as they are"""
    adapt: int = 0
    """1: batch norm adapts to the patches while the body is frozen"""
    bn_frozen: int = 0
    """1: batch norm keeps its statistics while the whole model is trained"""
    warm: float = 0.25
    """share of the cycle in which the rate rises"""
    decay: float = 0.01
    smooth: float = 0.0
    ema: float = 0.0
    mixup: float = 0.0
    turn: float = 0.0
    """free rotation on top of D4, in degrees either way"""
    zoom: float = 0.0
    """scale from 1 - zoom to 1 + zoom"""
    stain: float = 1.0
    """strength of the change of colours"""
    dropout: float = 0.5
    probe: int = 0
    """epochs of the head on cached features, instead of frozen epochs"""
    linear: int = 0
    """1: one small linear layer as the head"""
    still: int = 0
    """1: the moments of AdamW stay at 0.9 and 0.999 through the cycle"""
    layers: float = 0.0
    """rate of each sixth of the body, as a share of the next one's; 0: histo's groups"""
    teachers: int = 0
    """learn half from the labels, half from so many models of the other training patches"""
    fp32: int = 0
    seed: int = 0

    @classmethod
    def read(cls, text: str) -> Variant:
        """`base`, or `name=value,…`."""
        given = {} if text == "base" else dict(part.split("=") for part in text.split(","))
        kinds = {each.name: int if "int" in str(each.type) else float for each in fields(cls)}
        values: Any = {name: kinds[name](value) for name, value in given.items()}
        return replace(cls(), **values)

    @property
    def name(self) -> str:
        """The changes alone."""
        own, usual = asdict(self), asdict(Variant())
        return ",".join(f"{k}={v:g}" for k, v in own.items() if v != usual[k]) or "base"


# ------------------------------------------------------------------- training


class Warp:
    """histo's `stain`, its strength changed, and a free turn and zoom about the centre."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant

    def __call__(self, patches: Tensor, draw: Draw) -> Tensor:
        """uint8 [B, S, S, 3] in and out."""
        one = self.variant
        strength, usual = one.stain, augment.colour_change
        augment.colour_change = lambda factors: usual(factors * strength)
        try:
            out = augment.stain(patches, draw).numpy()
        finally:
            augment.colour_change = usual
        if not (one.turn or one.zoom):
            return torch.from_numpy(out)
        centre, side = (out.shape[1] - 1) / 2, out.shape[1]
        for patch, (turn, zoom) in zip(out, (draw.uniform(2) * 2 - 1).tolist(), strict=True):
            moved = cv2.getRotationMatrix2D((centre, centre), one.turn * turn, 1 + one.zoom * zoom)
            patch[:] = cv2.warpAffine(
                patch, moved, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
            )
        return torch.from_numpy(out)


class Average(Callback):  # type: ignore[misc]
    """An exponential average of the weights."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def before_fit(self) -> None:
        """Start from the weights as they are."""
        self.mean = [p.detach().clone() for p in self.learn.model.parameters()]

    @torch.no_grad()
    def after_batch(self) -> None:
        """Move the average; in the beginning it follows faster."""
        if self.training:
            rate = min(self.rate, (1 + self.train_iter) / (10 + self.train_iter))
            for kept, value in zip(self.mean, self.learn.model.parameters(), strict=True):
                kept.lerp_(value, 1 - rate)


class MixUp(Callback):  # type: ignore[misc]
    """Mix patches of a batch in pairs, and their losses (Zhang et al., arXiv:1710.09412)."""

    def __init__(self, alpha: float) -> None:
        self.beta = torch.distributions.Beta(alpha, alpha)

    def before_batch(self) -> None:
        """Mix the patches."""
        if self.training:
            share = self.beta.sample((len(self.x),))
            self.share = torch.maximum(share, 1 - share)
            self.other = torch.randperm(len(self.x))
            part = self.share.view(-1, 1, 1, 1)
            self.learn.xb = (self.x * part + self.x[self.other] * (1 - part),)

    def after_loss(self) -> None:
        """Mix the losses."""
        if self.training:
            each = nn.functional.cross_entropy
            one = each(self.pred, self.y, reduction="none")
            two = each(self.pred, self.y[self.other], reduction="none")
            self.learn.loss_grad = (self.share * one + (1 - self.share) * two).mean()


class Adapting(FrozenBody):
    """A frozen body whose batch norm normalises by the batch and follows the patches' statistics."""

    def before_train(self) -> None:
        """Everything but batch norm in eval mode."""
        super().before_train()
        for module in self.body.modules():
            if isinstance(module, _BatchNorm):
                module.train()


class Still(Callback):  # type: ignore[misc]
    """Batch norm keeps its running statistics, and normalises by them."""

    def before_train(self) -> None:
        """To eval mode, after fastai has switched the model to training mode."""
        for module in self.learn.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


class Taught(Callback):  # type: ignore[misc]
    """Half of the loss is that against the teachers' probabilities (Hinton et al., arXiv:1503.02531)."""

    def __init__(self, soft: Tensor) -> None:
        self.soft = soft

    def before_train(self) -> None:
        """The patches of each batch of this epoch."""
        loader = self.learn.dls.train
        self.rows = equal_batches(loader.get_idxs(), loader.bs)

    def after_loss(self) -> None:
        """Add the teachers' half."""
        if self.training:
            soft = self.soft[self.rows[self.iter]]
            taught = nn.functional.cross_entropy(self.pred, soft)
            self.learn.loss_grad = (self.learn.loss_grad + taught) / 2


class Curve(Callback):  # type: ignore[misc]
    """Seconds of training and AUC of validation (one view) after each epoch."""

    def __init__(self) -> None:
        self.seconds, self.rows = 0.0, []  # type: ignore[var-annotated]

    def before_train(self) -> None:
        """Start the clock."""
        self.begun = time.perf_counter()

    def after_train(self) -> None:
        """Stop it, and judge."""
        self.seconds += time.perf_counter() - self.begun
        self.rows.append((round(self.seconds, 1), self.auc()))
        print(f"  {self.rows[-1]} CPU {time.process_time():.0f}", flush=True)

    def auc(self) -> float:
        """Of validation, one view."""
        found = probabilities(self.learn, views=1)
        return round(float(roc_auc_score(self.learn.dls.valid.codes.numpy(), found)), 4)


class NoValidation(Callback):  # type: ignore[misc]
    """Leave fastai's own validation out: `Curve` judges."""

    def before_validate(self) -> None:
        """Skip."""
        from fastai.callback.core import CancelValidException

        raise CancelValidException


def probabilities(learn: Any, views: int = VIEWS, loader: Any = None) -> NDArray[np.float64]:
    """Mean probability of class 1 over `views` D4 views, of the validation patches or a loader's."""
    learn.model.eval()
    found = []
    with torch.no_grad():
        for x, _ in loader or learn.dls.valid:
            each = [
                learn.model(view(x.permute(0, 2, 3, 1), n).permute(0, 3, 1, 2)).double().softmax(1)
                for n in range(views)
            ]
            found.append(torch.stack(each).mean(0)[:, 1])
    return torch.cat(found).numpy()


def in_bf16(body: nn.Module) -> None:
    """Let a body compute in bf16; its features are fp32.

    Convolutions in groups stay in fp32: in bf16 oneDNN trains tf_efficientnet_lite0 half as fast.
    """
    forward = body.forward
    for module in body.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.forward = partial(in_fp32, module.forward)  # type: ignore[method-assign]

    def low(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            features: Tensor = forward(x)
        return features.float()

    body.forward = low


def in_fp32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer's pass in fp32, within autocast."""
    with torch.autocast("cpu", enabled=False):
        return forward(x.float()).to(x.dtype)


def learner(data: Dataset, arch: str, weights: Path, one: Variant) -> Any:
    """histo's learner, changed."""
    seed_everything(one.seed, CPU)
    body = make_body(arch)
    load_weights(body, weights)
    mean, std = normalisation(body)
    size = one.size or None
    card = ModelCard(arch, data.vocab, data.store.side, None, size, mean, std)
    config = TrainConfig(Path(), size=size, seed=one.seed)
    augment.AUGMENTATIONS["stain"] = Warp(one)
    dls = make_loaders(data, card, config, CPU, one.batch)
    features = features_of(body, card.patch_size, arch)
    if not one.fp32:
        in_bf16(body)
    learn = make_learner(dls, body, features, card)
    if one.linear:
        learn.model[1] = make_head(features, 0, 2)
    else:
        learn.model[1][3].p = one.dropout
    if one.still:
        learn.moms, learn.opt_func = STEADY_MOMS, STEADY
    if one.smooth:
        learn.loss_func = LabelSmoothingCrossEntropyFlat(eps=one.smooth)
    return learn


Readouts = dict[str, NDArray[np.float64]]
"""Probabilities of the validation patches [N] by what was read out of one training."""


def train(
    data: Dataset, arch: str, weights: Path, one: Variant
) -> tuple[Any, Average | None, Curve]:
    """Train by the recipe of `histo.training.recipe.fit`, changed: learner, average, curve."""
    learn = learner(data, arch, weights, one)
    curve = Curve()
    extra: list[Callback] = [curve, NoValidation()]
    if one.freeze and not one.probe:
        learn.freeze()
        frozen = Adapting() if one.adapt else FrozenBody()
        learn.fit_one_cycle(one.freeze, one.lr, cbs=[frozen, *extra], wd=one.decay)
    if one.probe:
        curve.seconds += fit_head(learn, one.probe)
    learn.unfreeze()
    mean = Average(one.ema) if one.ema else None
    extra += [mean] if mean else []
    extra += [MixUp(one.mixup)] if one.mixup else []
    extra += [Still()] if one.bn_frozen else []
    extra += [Taught(taught(data, arch, weights, one))] if one.teachers else []
    if one.layers:
        learn.splitter = sixths
        learn.create_opt()
    lowest = one.lr * one.layers**6 if one.layers else one.lr / one.divisor
    learn.fit_one_cycle(
        one.epochs,
        slice(lowest, one.lr),
        pct_start=one.warm,
        wd=one.decay,
        cbs=extra,
    )
    return learn, mean, curve


def sixths(model: nn.Module) -> list[list[nn.Parameter]]:
    """The tensors of the body in six groups from its input to its features, and those of the head."""
    body = list(model[0].parameters())  # type: ignore[index]
    bounds = np.linspace(0, len(body), 7).astype(int)
    groups = [body[a:b] for a, b in pairwise(bounds)]
    return [*groups, list(model[1].parameters())]  # type: ignore[index]


def taught(data: Dataset, arch: str, weights: Path, one: Variant) -> Tensor:
    """Probabilities [N, 2] of the training patches, by the mean of models of folds among them.

    Each patch was among the training patches of all models but one, as in a bundle of `--folds`.
    """
    mine = np.flatnonzero(~data.valid)
    labels = [data.labels[n] for n in mine]
    part = np.full(len(data.labels), -1)
    part[mine] = fold_of(labels, None, one.teachers, 0)
    usual = replace(one, teachers=0)
    found = np.zeros(len(mine))
    everything = learner(replace(data, valid=~data.valid), arch, weights, usual).dls.valid
    for number in range(one.teachers):
        here = replace(data, valid=data.valid | (part == number))
        learn = train(here, arch, weights, replace(usual, seed=one.seed + 1 + number))[0]
        found += probabilities(learn, loader=everything) / one.teachers
    return torch.from_numpy(np.stack([1 - found, found], 1)).float()


def read_out(learn: Any, mean: Average | None) -> Readouts:
    """The last weights; the average of the weights."""
    found = {"last": probabilities(learn), "one view": probabilities(learn, views=1)}
    if mean:
        for own, averaged in zip(learn.model.parameters(), mean.mean, strict=True):
            own.data.copy_(averaged)
        found["average"] = probabilities(learn)
    return found


def fit_head(learn: Any, epochs: int) -> float:
    """Fit the head to cached features of one augmented view; returns the seconds it took."""
    begun = time.perf_counter()
    learn.model.eval()
    with torch.no_grad():
        pairs = [(learn.model[0](x), y) for x, y in learn.dls.train]
    x, y = (torch.cat(part) for part in zip(*pairs, strict=True))
    head = learn.model[1].train()
    steps = epochs * math.ceil(len(x) / 32)
    opt = torch.optim.AdamW(head.parameters(), 1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 1.5e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.tensor_split(torch.randperm(len(x)), steps // epochs):
            loss: Any = nn.functional.cross_entropy(head(x[rows]), y[rows])
            loss.backward()
            opt.step()
            opt.zero_grad()
            schedule.step()
    return time.perf_counter() - begun


# ------------------------------------------------------------------- folds


def dataset(folder: Path, size: int, store: Path) -> Dataset:
    """All patches of a folder in Kaggle's layout."""
    data = Data.read(folder)
    rows = open_store(data.paths, store, Fit(None, size or None), Screen(quiet=True))
    labels = [str(label) for label in data.labels]
    ids = [path.stem for path in data.paths]
    return Dataset(ids, labels, data.valid, ["0", "1"], rows, Split("random"))


@app.command()
def run(
    variants: list[str],
    data: Annotated[Path, typer.Option()],
    weights: Annotated[Path, typer.Option()],
    arch: Annotated[str, typer.Option()],
    out: Annotated[Path, typer.Option()],
    folds: str = "0,1,2,3,4",
) -> None:
    """Train each variant on each of five folds, if that was not done."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_memory()
    out.mkdir(parents=True, exist_ok=True)
    for number in map(int, folds.split(",")):
        for one in map(Variant.read, variants):
            key = f"{arch} {one.name} fold {number}"
            if key in {row["key"] for row in rows_of(out)}:
                continue
            print(key, flush=True)
            whole = dataset(data, one.size, out / "store")
            mine = fold(whole, fold_of(whole.labels, None, 5, 0), number)
            begun = time.process_time()
            learn, mean, curve = train(mine, arch, weights, one)
            found = read_out(learn, mean)
            facts = {
                "arch": arch,
                "variant": one.name,
                "fold": number,
                "train_seconds": round(curve.seconds, 1),
                "cpu_seconds": round(time.process_time() - begun, 1),
                "curve": curve.rows,
                "date": time.strftime("%Y-%m-%d %H:%M"),
            }
            labels = np.array(mine.labels)[mine.valid].astype(int)
            for readout, each in found.items():
                keep(out, key, readout, labels, each, facts)


def keep(
    out: Path,
    key: str,
    readout: str,
    labels: NDArray[np.int64],
    found: NDArray[np.float64],
    facts: dict[str, Any],
) -> None:
    """Keep one model's predictions, and its line."""
    np.save(out / f"{key} {readout}.npy", np.stack([labels, found]).astype(np.float32))
    auc = round(float(roc_auc_score(labels, found)), 5)
    row = {"key": key, "readout": readout, "auc": auc, **facts}
    with (out / "runs.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{key}, {readout}: AUC {auc}, CPU {facts['cpu_seconds']} s", flush=True)


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The trainings done."""
    file = out / "runs.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def paired(out: Path, one: list[str], other: list[str], draws: int = 1000) -> tuple[float, float]:
    """Bounds (95 %) of the mean over folds of AUC differences: patches drawn within each fold."""
    rng, found = np.random.default_rng(0), np.zeros(draws)
    for a, b in zip(one, other, strict=True):
        (labels, p), (_, q) = np.load(out / a), np.load(out / b)
        for draw in range(draws):
            rows = rng.integers(len(labels), size=len(labels))
            found[draw] += fast_auc(labels[rows], p[rows]) - fast_auc(labels[rows], q[rows])
    low, high = np.quantile(found / len(one), [0.025, 0.975])
    return float(low), float(high)


def fast_auc(labels: NDArray[np.float32], scores: NDArray[np.float32]) -> float:
    """The area under the ROC curve by ranks; ties count half."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    ones = labels > 0.5
    n, m = int(ones.sum()), int((~ones).sum())
    return float((ranks[ones].sum() - n * (n + 1) / 2) / (n * m))


def by_variant(out: Path) -> Iterator[tuple[str, str, dict[int, dict[str, Any]]]]:
    """Architecture, variant, and its rows by fold."""
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in rows_of(out):
        name = row["variant"] if row["readout"] == "last" else f"{row['variant']}; {row['readout']}"
        found.setdefault((row["arch"], name), {})[row["fold"]] = row
    for (arch, variant), rows in found.items():
        yield arch, variant, rows


@app.command()
def table(out: Annotated[Path, typer.Option()], base: str = "base") -> None:
    """Each variant against the base, on the folds that both have."""
    known = {(arch, name): rows for arch, name, rows in by_variant(out)}
    print("| arch | variant | folds | AUC | difference | 95 % | by fold | CPU s |")
    print("|---|---|---:|---:|---:|---|---|---:|")
    for (arch, name), rows in known.items():
        usual = known.get((arch, base), {})
        both = sorted(set(rows) & set(usual))
        mean = np.mean([row["auc"] for row in rows.values()])
        cpu = np.median([row["cpu_seconds"] for row in rows.values()])
        gains = [rows[n]["auc"] - usual[n]["auc"] for n in both]
        cells = ""
        if both and name != base:
            mine, theirs = (
                [f"{x[n]['key']} {x[n]['readout']}.npy" for n in both] for x in (rows, usual)
            )
            low, high = paired(out, mine, theirs)
            each = " ".join(f"{gain:+.4f}" for gain in gains)
            cells = f"{np.mean(gains):+.4f} | {low:+.4f} to {high:+.4f} | {each}"
        print(f"| {arch} | {name} | {len(rows)} | {mean:.4f} | {cells or '| |'} | {cpu:.0f} |")


if __name__ == "__main__":
    app()
