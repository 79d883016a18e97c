"""A probe: a linear head on the features of a frozen body, fitted in seconds."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from histo.config import PREDICT_BATCH, ModelCard, TrainConfig
from histo.data.dataset import Dataset
from histo.data.features import KnownFeatures, keys_of, open_features
from histo.distributed import ranks
from histo.errors import HistoError
from histo.files.writing import read_json, write_json, written
from histo.pixels.d4 import VIEWS
from histo.run.folder import RunFolder
from histo.run.whole import begin_keeping, keep
from histo.screen import Screen, counted
from histo.training.prepare import split_phrase, start_model
from histo.training.recording import HISTORY, write_start
from histo.training.tracking import Tracking

if TYPE_CHECKING:
    import torch
    from torch import nn

    from histo.training.logistic import LinearHead

ROWS = 4000
"""Views of patches that a head is fitted to by default, where there are so many: a fit of seconds.
Four times as many add 0.003 to 0.006 to the AUC of 3,200 patches (docs/measurements.md)."""
NO_EPOCHS = ("epochs", "freeze_epochs", "lr", "augment", "compile")
"""Settings that a probe has no use for."""


def check_probe(config: TrainConfig) -> None:
    """HistoError for settings that a probe has no use for, or views without a probe."""
    if not config.probe:
        if config.views is not None:
            raise HistoError("views are for a probe", "leave {views} out", "give {probe}")
        return
    useless = [name for name in NO_EPOCHS if name in config.given]
    if useless:
        raise HistoError(
            f"a probe trains no body: it has no {useless[0].replace('_', ' ')}",
            f"leave {{{useless[0]}}} out",
        )
    if config.precision not in ("auto", "fp32"):
        raise HistoError("a probe computes its features in fp32", "leave {precision} out")
    if ranks.world_size() > 1:
        raise HistoError("a probe runs in one process", "leave {devices} out")


@dataclass(frozen=True)
class ProbeJob:
    """A probe that is ready to start."""

    config: TrainConfig
    data: Dataset
    device: torch.device
    body: nn.Module
    card: ModelCard
    precision: str = "fp32"
    learn: None = None
    """a probe has no learner of its own; `Run.learner` makes one"""

    @property
    def views(self) -> int:
        """How many of the eight D4 views of a training patch the head is fitted to."""
        return self.config.views or min(max(ROWS // self.data.train_count, 1), VIEWS)

    @property
    def batch_size(self) -> int:
        """Patches at once, a view of each at a time."""
        return self.config.batch_size or PREDICT_BATCH

    def settings(self) -> dict[str, Any]:
        """What is recorded instead of the settings of epochs."""
        return {"views": self.views, "epochs": 1, "freeze_epochs": 0, "augment": "none"}


def prepare_probe(config: TrainConfig, data: Dataset, screen: Screen) -> ProbeJob:
    """Load the body and its weights."""
    train, valid = data.train_count, int(data.valid.sum())
    screen.say(f"{train:,} train, {valid:,} validate ({split_phrase(data)})")
    with screen.step("loading torch"):
        import torch

        from histo.model import device as devices
        from histo.model.body import features_of
        from histo.model.levels import Levels, blocks_of

    device = devices.resolve_device(config.device)
    torch.manual_seed(config.seed)  # a body without weights is drawn
    devices.keep_memory()
    body, card = start_model(config, data, screen, weights=True)
    features_of(body, card.patch_size, config.arch)
    if names := blocks_of(body, card.patch_size):
        body, card = Levels(body, names), replace(card, levels=names)
    return ProbeJob(config, data, device, body, card)


def probe_in(run: RunFolder, job: ProbeJob, screen: Screen, tracking: Tracking) -> None:
    """Fit the head in a run folder that this process has locked, and write what any run has."""
    from histo.model.device import describe_device, out_of_memory
    from histo.model.gradcam import save_gradcam

    start, data = time.monotonic(), job.data
    write_json(run.path / "model.json", job.card.as_dict())
    write_start(run, data, job.device)
    screen.say(
        f"{job.config.arch} on {describe_device(job.device)}, frozen: the features of "
        f"{counted(job.views, 'view')} of each training patch"
    )
    tracking.begin()
    try:
        known = features_of_data(job, screen)
    except RuntimeError as error:
        raise out_of_memory(error, job.batch_size) or error from None
    with screen.step(f"fitting a head of {len(data.vocab)} classes"):  # of dozens, minutes
        head = fit(job, known)
    penalty = {"value": head.penalty, "source": "found"}
    write_json(run.config, {**read_json(run.config), "penalty": penalty})
    row = record(run, job, head, known, time.monotonic() - start)
    tracking.follow([row])
    take, places = data.store.take, np.flatnonzero(data.valid)
    save_gradcam(run, model_of(job, head), job.card, take, places, job.batch_size, screen)
    run.mark_finished()
    tracking.results("kept", row, run_folder=str(run.path.resolve()))
    screen.say(
        f"probe: penalty {head.penalty:g}, AUC {row['roc_auc']:.4f}, accuracy {row['accuracy']:.4f} "
        f"on {int(data.valid.sum()):,} patches"
    )


def features_of_data(job: ProbeJob, screen: Screen) -> KnownFeatures:
    """All features that the probe needs: every view of training patches, the first of the others."""
    from histo.model.features import Extractor, digest_of
    from histo.training.features import compute_features

    data, config = job.data, job.config
    store = data.store.path.parent if data.store.path else None
    known = open_features(store, digest_of(job.body, job.card))
    wanted = np.repeat(~data.valid[:, None], job.views, 1)
    wanted[:, 0] = True
    extract = Extractor(job.body, job.card, job.device)
    made = compute_features(
        *(extract, data.store.take, data.store.sha1, wanted, known),
        *(job.batch_size, config.checkpoint_minutes, screen),
    )
    kept = int(wanted.sum()) - made
    screen.say(
        f"features: {counted(made, 'view')} computed" + (f", {kept:,} known" if kept else "")
    )
    return known


def fit(job: ProbeJob, known: KnownFeatures) -> LinearHead:
    """The head, fitted to all views of the training patches."""
    from histo.training.logistic import fit_head

    places = np.flatnonzero(~job.data.valid)
    sha1, classes = job.data.store.sha1[places], codes(job.data)[places]
    features = np.stack([known.take(keys_of(sha1, view)) for view in range(job.views)], 1)
    groups = job.data.groups and [job.data.groups[place] for place in places]
    return fit_head(features, classes, groups, job.config.seed)


def codes(data: Dataset) -> NDArray[np.int64]:
    """The class [N] of each patch, as its place in the vocab."""
    place = {name: code for code, name in enumerate(data.vocab)}
    return np.array([place[label] for label in data.labels])


def model_of(job: ProbeJob, head: LinearHead) -> nn.Sequential:
    """Body and head as one network, as any run has it."""
    import torch
    from torch import nn

    from histo.model.head import make_head

    classes, features = head.weight.shape
    linear = make_head(features, 0, classes)
    tensors = {"0.weight": torch.from_numpy(head.weight), "0.bias": torch.from_numpy(head.bias)}
    linear.load_state_dict(tensors)
    return nn.Sequential(nn.Sequential(job.body), linear.to(job.device))


def record(
    run: RunFolder, job: ProbeJob, head: LinearHead, known: KnownFeatures, seconds: float
) -> dict[str, float]:
    """Write settings, history, weights and predictions; returns the row of the history."""
    from histo.model.checkpoint import on_cpu, save_best
    from histo.report.metrics import log_loss, macro_auc
    from histo.run.predictions import write_predictions

    data, labels, valid = job.data, codes(job.data), job.data.valid
    chances = probabilities(head, known.take(keys_of(data.store.sha1, 0)))
    mine = chances[valid]
    row = {
        "epoch": 1,
        "train_loss": log_loss(labels[~valid], chances[~valid]),
        "valid_loss": log_loss(labels[valid], mine),
        "accuracy": float((mine.argmax(1) == labels[valid]).mean()),
        "roc_auc": macro_auc(labels[valid], mine),
        "seconds": seconds,
        "patches_per_second": data.train_count / seconds,
    }
    with written(run.history, "w") as file:
        table = csv.DictWriter(file, HISTORY, lineterminator="\n")
        table.writeheader()
        table.writerow({k: v if k == "epoch" else f"{v:.6g}" for k, v in row.items()})
    run.checkpoint.mkdir(exist_ok=True)
    begin_keeping(run)
    save_best(run.checkpoint, on_cpu(model_of(job, head).state_dict()))
    names = [data.labels[place] for place in np.flatnonzero(valid)]
    write_predictions(run.predictions, data.valid_ids, names, mine, data.vocab)
    keep(run, 1)
    return row


def probabilities(head: LinearHead, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities [N, C] of features [N, F]."""
    logits = (features @ head.weight.T + head.bias).astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    chances = np.exp(logits)
    return np.asarray(chances / chances.sum(1, keepdims=True))
