"""`histo train`: from labels and patches to a run folder."""

from __future__ import annotations

import csv
import math
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histo.config import ModelCard, TrainConfig
from histo.data.dataset import Patches, choose_folds, fold, read_patches
from histo.errors import HistoError, Stopped
from histo.run import (
    Run,
    read_json,
    read_predictions,
    write_json,
    write_predictions,
    write_split,
    written,
)
from histo.screen import Screen

if TYPE_CHECKING:
    from fastai.learner import Learner

    from histo.model.learner import Epoch

HISTORY = (
    "epoch",
    "train_loss",
    "valid_loss",
    "accuracy",
    "roc_auc",
    "seconds",
    "patches_per_second",
)


def train(config: TrainConfig, screen: Screen) -> Run:
    """Train as `config` says and return the run folder it made.

    Nothing is made before labels, patches, weights and device have proved good.
    """
    from histo.model import learner as engine

    if config.lr not in (None, "find"):
        parse_lr(config.lr)
    if config.folds and config.split_column:
        raise HistoError("--folds makes the split itself: leave --split-column out")
    engine.resolve_precision(config.precision, engine.resolve_device(config.device))
    patches = read_patches(config, screen)
    if config.folds:
        return train_folds(config, patches, screen)
    return train_one(config, patches, lambda: Run.create(config.out, config.arch), screen)


def train_one(
    config: TrainConfig, patches: Patches, create: Callable[[], Run], screen: Screen
) -> Run:
    """Train one model on one split, in the run folder that `create` makes when all is ready."""
    from histo.model import learner as engine

    valid = patches.valid
    screen.say(f"{(~valid).sum():,} train, {valid.sum():,} validate ({patches.split})")
    device = engine.resolve_device(config.device)
    precision = engine.resolve_precision(config.precision, device)
    engine.seed_everything(config.seed, device)
    body, card = start_model(config, patches, screen)
    n_train = int((~patches.valid).sum())
    wanted = config.batch_size or engine.default_batch_size(device)
    batch_size = min(wanted, n_train)
    if batch_size < wanted:
        screen.say(f"batch size {batch_size}: there are only {n_train} training patches")
    pretrained = config.weights != "none"
    freeze_epochs = config.freeze_epochs
    if freeze_epochs is None:
        freeze_epochs = 1 if pretrained else 0

    from histo.data.loaders import make_loaders
    from histo.model.attention import write_attention
    from histo.model.body import features_of

    dls = make_loaders(
        patches.store,
        patches.labels,
        patches.valid,
        card.vocab,
        batch_size=batch_size,
        augment=config.augment,
        mean=card.mean,
        std=card.std,
        device=device,
        crop=config.crop,
        size=config.size,
    )
    features = features_of(body, card.patch_size, config.arch)
    learn = engine.build_learner(dls, body, features, card, precision, config.compile)
    run = create()
    recorder = Recording(run, patches, precision, screen)
    total = freeze_epochs + config.epochs
    try:
        with screen.bar("training", total * (len(dls.train) + len(dls.valid))) as advance:
            learn.add_cb(engine.Watch(advance, recorder.epoch))
            lr = choose_lr(config, learn, run, screen)
            found = {
                "lr": lr,
                "batch_size": batch_size,
                "freeze_epochs": freeze_epochs,
                "device": str(device),
                "precision": precision,
                "labels": config.labels_csv,
                "images": config.images_folder,
                "store": patches.store.path,
                "out": run.path,
                "split": patches.split,
                "leak": patches.leak,
                "group_column": patches.group_column,
            }
            write_json(run.config, config.record(found))
            write_json(run.checkpoint.parent / "model.json", card.as_dict())
            write_start(run, patches, device)
            screen.say(
                f"{config.arch} on {engine.describe_device(device)}, {precision}, batch size "
                f"{batch_size}, learning rate {lr:.2g}, {freeze_epochs} + {config.epochs} epochs"
            )
            engine.fit(learn, freeze_epochs, config.epochs, lr, pretrained)
            if precision != "fp32":
                recorder.finish_in_fp32(learn)
    except KeyboardInterrupt:
        raise Stopped(recorder.stopped(total)) from None
    except (HistoError, RuntimeError, OSError) as error:
        if not recorder.rows:
            shutil.rmtree(run.path, ignore_errors=True)
        expected = isinstance(error, RuntimeError) and engine.out_of_memory(error, batch_size)
        if expected:
            raise expected from None
        raise
    places = np.flatnonzero(valid)
    write_attention(run, learn.model, card, patches.store.pixels, places, batch_size, screen)
    recorder.finish()
    return run


def train_folds(config: TrainConfig, patches: Patches, screen: Screen) -> Run:
    """One run a fold in one folder, and above them the predictions of all patches, out of fold.

    A folder that holds some folds of the same data and settings already is gone on with.
    """
    folds = choose_folds(patches, config)
    count = config.folds or 1
    run = open_folds(config, patches)
    for number in range(count):
        path = run.fold(number)
        if Run(path).finished:
            screen.say(f"fold {number + 1} of {count}: done before")
            continue
        shutil.rmtree(path, ignore_errors=True)
        screen.say(f"fold {number + 1} of {count}")
        part = replace(config, out=path, folds=None)
        create = partial(Run.create, path, config.arch)
        train_one(part, fold(patches, folds, number), create, screen)
    join_folds(run, patches, folds, count)
    return run


def open_folds(config: TrainConfig, patches: Patches) -> Run:
    """A new folder for folds, or the one of an interrupted run of the same data and settings."""
    from histo.model.learner import resolve_device

    how = patches.split.replace("on both sides", "in two folds")
    found = {
        "labels": config.labels_csv,
        "images": config.images_folder,
        "split": f"{config.folds} folds, {how}",
        "group_column": patches.group_column,
        "leak": "",
    }
    if config.out is None or not config.out.exists():
        run = Run.create(config.out, config.arch)
        write_json(run.environment, environment(patches, resolve_device(config.device)))
        write_json(run.config, config.record({**found, "out": run.path}))
        return run
    run = Run.open(config.out)
    if run.predictions.exists():
        raise HistoError(f"{run.path} exists, and a run is never overwritten (give another --out)")
    now = {name: entry["value"] for name, entry in config.record(found).items()}
    before = run.settings()
    changed = [name for name in now if now[name] != before.get(name) and name != "out"]
    fingerprint = read_json(run.environment)["fingerprint"]
    if fingerprint != environment(patches, resolve_device(config.device))["fingerprint"]:
        changed.append("the patches or labels themselves")
    if changed:
        raise HistoError(
            f"{run.path} holds folds of other settings: {', '.join(changed[:5])} (give another "
            "--out, or the same settings to go on)"
        )
    return run


def join_folds(run: Run, patches: Patches, folds: np.ndarray, count: int) -> None:
    """The out-of-fold predictions and the split of all folds, in the order of the label CSV."""
    tables = [read_predictions(Run(run.fold(number)).predictions) for number in range(count)]
    rows = {
        name: values
        for table in tables
        for name, values in zip(table.ids, table.probabilities, strict=True)
    }
    shutil.copyfile(run.fold(0) / "model.json", run.path / "model.json")
    sides = [f"fold-{number + 1}" for number in folds.tolist()]
    sha1 = [digest.decode() for digest in patches.store.sha1.tolist()]
    write_split(run.split, patches.ids, patches.labels, sides, sha1, patches.groups)
    write_predictions(
        run.predictions,
        patches.ids,
        patches.labels,
        [rows[name] for name in patches.ids],
        patches.vocab,
    )


def start_model(config: TrainConfig, patches: Patches, screen: Screen) -> tuple[Any, ModelCard]:
    """The body with its starting weights, and the card of the model to be."""
    from histo.model.body import load_weights, make_body, normalisation

    body = make_body(config.arch, imagenet=config.weights == "imagenet")
    if config.weights not in ("imagenet", "none"):
        loaded = load_weights(body, Path(config.weights))
        screen.say(f"weights: {loaded}; the head is new")
    mean, std = normalisation(body)
    card = ModelCard(
        config.arch, patches.vocab, patches.store.side, config.crop, config.size, mean, std
    )
    return body, card


def choose_lr(config: TrainConfig, learn: Learner, run: Run, screen: Screen) -> float:
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
        raise HistoError(f"--lr {text}: give a positive number, or find")
    return lr


def write_start(run: Run, patches: Patches, device: Any) -> None:
    """What is known before the first batch: split, environment, sample sheet."""
    from histo.report.plots import draw_sheet

    sides = np.where(patches.valid, "valid", "train").tolist()
    sha1 = [digest.decode() for digest in patches.store.sha1.tolist()]
    write_split(run.split, patches.ids, patches.labels, sides, sha1, patches.groups)
    write_json(run.environment, environment(patches, device))
    chosen = np.random.default_rng(0).permutation(len(patches.ids))[:9]
    draw_sheet(
        run.path / "samples",
        [patches.store.pixels[i] for i in chosen],
        [f"label {patches.labels[i]}" for i in chosen],
        "Sample patches",
    )


def environment(patches: Patches, device: Any) -> dict[str, Any]:
    """Versions, device, command line, commit of the working folder, fingerprints of the data."""
    from histo.model.learner import describe_device

    packages = ("histo", "fastai", "torch", "torchvision", "opencv-python", "numpy", "pandas")
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "platform": platform.platform(),
        "device": describe_device(device),
        "command": sys.argv,
        "git_commit": commit,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "fingerprint": {
            "labels": patches.fingerprint(),
            "pixels": patches.store.fingerprint(),
        },
    }


class Recording:
    """Writes what each epoch shows, keeps the best, and says a line an epoch."""

    def __init__(self, run: Run, patches: Patches, precision: str, screen: Screen) -> None:
        self.run, self.patches, self.screen = run, patches, screen
        self.rows: list[dict[str, float]] = []
        self.best = -math.inf

    def epoch(self, learn: Learner, seen: Epoch) -> None:
        """Judge one epoch: the row of history.csv, and checkpoint and predictions if it is best."""
        from histo.model.checkpoint import save_best
        from histo.report.metrics import log_loss, macro_auc

        probabilities = seen.logits.double().softmax(1).numpy()
        labels = seen.labels.numpy()
        row = {
            "epoch": seen.number,
            "train_loss": seen.train_loss,
            "valid_loss": log_loss(labels, probabilities),
            "accuracy": float((probabilities.argmax(1) == labels).mean()),
            "roc_auc": macro_auc(labels, probabilities),
            "seconds": seen.seconds,
            "patches_per_second": seen.patches / seen.train_seconds,
        }
        if not math.isfinite(row["train_loss"]) or not np.isfinite(probabilities).all():
            raise HistoError(
                f"the loss is not finite in epoch {seen.number} (try a lower --lr, or fp32)"
            )
        self.rows.append(row)
        with written(self.run.history, "w") as file:
            table = csv.DictWriter(file, HISTORY, lineterminator="\n")
            table.writeheader()
            table.writerows(
                {k: v if k == "epoch" else f"{v:.6g}" for k, v in r.items()} for r in self.rows
            )
        self._say(row)
        score = row["roc_auc"] if len(self.patches.vocab) == 2 else -row["valid_loss"]
        if score > self.best:
            self.best = score
            save_best(self.run.checkpoint, learn.model)
            self._predictions(probabilities)

    def _predictions(self, probabilities: Any) -> None:
        labels = [self.patches.labels[i] for i in np.flatnonzero(self.patches.valid)]
        write_predictions(
            self.run.predictions,
            self.patches.valid_ids,
            labels,
            probabilities,
            self.patches.vocab,
        )

    def _say(self, row: dict[str, float]) -> None:
        if len(self.rows) == 1:
            self.screen.say("epoch  train loss  valid loss  accuracy     AUC  seconds  patches/s")
        self.screen.say(
            f"{row['epoch']:5d}  {row['train_loss']:10.4f}  {row['valid_loss']:10.4f}  "
            f"{row['accuracy']:8.4f}  {row['roc_auc']:6.4f}  {row['seconds']:7.1f}  "
            f"{row['patches_per_second']:9.0f}"
        )

    def finish_in_fp32(self, learn: Learner) -> None:
        """Predict the validation patches anew, so that the table is what the bundle will say."""
        from histo.model.checkpoint import load_best

        load_best(self.run.checkpoint, learn.model)
        with learn.removed_cbs(learn.mixed_precision), learn.removed_cbs(learn.watch):
            self._predictions(learn.get_preds()[0].double().cpu().numpy())

    def finish(self) -> None:
        """Draw the learning curve and say which epoch is kept."""
        from histo.report.plots import draw_learning_curve

        draw_learning_curve(self.run.path / "learning_curve", self.rows)
        key = "roc_auc" if len(self.patches.vocab) == 2 else "valid_loss"
        pick = max if key == "roc_auc" else min
        best = pick(self.rows, key=lambda row: row[key])
        self.screen.say(
            f"kept epoch {best['epoch']:g}: AUC {best['roc_auc']:.4f}, "
            f"accuracy {best['accuracy']:.4f} on {int(self.patches.valid.sum()):,} patches"
        )

    def stopped(self, total: int) -> str:
        """The one line after Ctrl-C."""
        if not self.rows:
            return f"stopped before the first epoch ended; {self.run.path} has no model"
        return (
            f"stopped after {len(self.rows)} of {total} epochs; the best is kept: "
            f"histo interpret {self.run.path}"
        )
