"""Train one model in a run folder, from the start or from its last checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from histo.config import TrainConfig
from histo.data.dataset import Dataset
from histo.distributed import ranks
from histo.errors import NO_ROOM, NO_WRITE, Call, HistoError, Way
from histo.files.aside import discard
from histo.files.writing import write_json
from histo.run.folder import RunFolder
from histo.run.origin import note_run
from histo.screen import Screen
from histo.training.prepare import Job, prepare
from histo.training.probe import ProbeJob, prepare_probe, probe_in
from histo.training.recording import Recording, record_resumed, write_start
from histo.training.stopping import stop_asked
from histo.training.tracking import Tracking, tracked

if TYPE_CHECKING:
    from fastai.learner import Learner

    from histo.model.checkpoint import Checkpoint

Callbacks = Sequence[Any]
"""The user's fastai callbacks."""


def train_new(
    config: TrainConfig, data: Dataset, screen: Screen, callbacks: Callbacks = ()
) -> tuple[RunFolder, Learner | None]:
    """Train in a new run folder, created once labels, patches, weights and device are checked."""
    job = prepare_probe(config, data, screen) if config.probe else prepare(config, data, screen)

    def fill(made: RunFolder, path: Path) -> None:
        write_settings(made, config.record(settings_of(path, job)), path)

    run = ranks.broadcast(lambda: RunFolder.create(config.out, config.arch, fill))
    with run.lock():
        try:
            train_in(run, job, None, screen, callbacks)
        except (HistoError, RuntimeError, OSError) as error:
            kept = run.begun
            if ranks.rank() == 0 and not kept:  # nothing to keep
                discard(run.path)
            raise not_written(run, kept, error) or error from None
    return run, job.learn


def train_on(
    run: RunFolder, config: TrainConfig, data: Dataset, screen: Screen, callbacks: Callbacks = ()
) -> Learner | None:
    """Resume a run that this process has locked, from its last checkpoint; a probe begins again."""
    from histo.model.checkpoint import Checkpoint
    from histo.training.precision import check_precision

    check_precision(config)
    begin = ranks.broadcast(lambda: Checkpoint.read(run.checkpoint))
    resumed = begin is not None
    job = (
        prepare_probe(config, data, screen)
        if config.probe
        else prepare(config, data, screen, resumed)
    )
    try:
        train_in(run, job, begin, screen, callbacks)
    except OSError as error:
        raise not_written(run, True, error) or error from None
    return job.learn


def not_written(run: RunFolder, kept: bool, error: Exception) -> HistoError | None:
    """The error of a full or broken disk, with what is left to do; None for another error."""
    if not isinstance(error, OSError) or error.errno not in NO_WRITE:
        return None
    first = "make room, then " if error.errno in NO_ROOM else ""
    way: Way = f"{first}run the same again: nothing of this run was kept"
    if kept:
        way = Call(f"{first}resume" if first else "to resume", "train", {"resume": run.path})
    return HistoError(f"{error.filename or run.path}: {error.strerror}", way)


def train_in(
    run: RunFolder,
    job: Job | ProbeJob,
    begin: Checkpoint | None,
    screen: Screen,
    callbacks: Callbacks,
) -> None:
    """Train in a run folder that this process has locked."""
    from histo.model.gradcam import save_gradcam

    if isinstance(job, ProbeJob):
        with tracked(run, job.config.tracker, screen) as tracking:
            probe_in(run, job, screen, tracking)
        return
    learn, places = job.learn, np.flatnonzero(job.data.valid)
    with tracked(run, job.config.tracker, screen) as tracking:
        recording = fit(run, job, begin, screen, callbacks, tracking)
        as_fastai_made_it(learn)
        if ranks.rank() > 0:
            return
        take, batch_size = job.data.store.take, learn.dls.train.bs
        save_gradcam(run, learn.model, job.card, take, places, batch_size, screen)
        recording.finish()


def fit(
    run: RunFolder,
    job: Job,
    begin: Checkpoint | None,
    screen: Screen,
    callbacks: Callbacks,
    tracking: Tracking,
) -> Recording:
    """Both phases of a training, recorded in its run folder."""
    from histo.model.device import out_of_memory
    from histo.training import recipe

    config, learn, minutes = job.config, job.learn, job.config.checkpoint_minutes
    steps = len(learn.dls.train) + len(learn.dls.valid)
    epochs = job.freeze_epochs + job.epochs
    done = begin.position.epoch * steps + begin.position.batch if begin else 0
    bar = screen.bar("training", epochs * steps, done, "patches", learn.dls.train.bs)
    with stop_asked() as stop, bar as advance:
        recording = Recording(run, job.data, screen, minutes, stop, tracking, begin)
        learn.recorder.earlier = list(recording.rows)
        watch = follow(job, recording, begin, advance)
        lr = start(run, job, screen) if begin is None else float(config.lr or 0)
        if begin:
            resume(run, job, begin, screen)
        tracking.begin(recording.rows)
        try:
            with with_callbacks(learn, callbacks):
                recipe.fit(learn, job.plan(lr), watch.at)
            if not job.validated_in_fp32:
                recording.finish_in_fp32(learn)
        except RuntimeError as error:
            raise out_of_memory(error, learn.dls.train.bs) or error from None
    return recording


def follow(job: Job, recording: Recording, begin: Checkpoint | None, advance: Any) -> Any:
    """Add the callbacks that report to the recording and share the work of several processes."""
    from histo.training.callbacks import Watch
    from histo.training.data_parallel import DataParallel

    epochs, batches = job.freeze_epochs + job.epochs, len(job.learn.dls.train)

    def on_batch() -> None:
        place = f"{watch.at.batch:,}/{batches:,}" if watch.training else "validating"
        advance(1, f"epoch {watch.at.epoch + 1}/{epochs}, {place}")

    watch = Watch(on_batch, recording.epoch, recording.pause, recording.pause_due, begin)
    job.learn.add_cb(watch)
    if ranks.world_size() > 1:
        job.learn.add_cb(DataParallel())
    return watch


def with_callbacks(learn: Learner, callbacks: Callbacks) -> Any:
    """The learner with the user's callbacks, for the duration of the training."""
    from fastai.callback.progress import ProgressCallback, ShowGraphCallback

    wants_bar = any(isinstance(each, ShowGraphCallback) for each in callbacks)
    return learn.added_cbs([*([ProgressCallback()] if wants_bar else []), *callbacks])


def as_fastai_made_it(learn: Learner) -> None:
    """Prepare the learner for its user: remove histo's callbacks; add fastai's recorder, bar and log."""
    from fastai.callback.progress import ProgressCallback

    from histo.training.callbacks import Watch
    from histo.training.data_parallel import DataParallel
    from histo.training.precision import MixedPrecision
    from histo.training.recorder import give_recorder

    if learn.dls.device.type == "cuda" and any(isinstance(cb, MixedPrecision) for cb in learn.cbs):
        learn.to_bf16()
    ours = Watch | DataParallel | MixedPrecision
    learn.remove_cbs([each for each in learn.cbs if isinstance(each, ours)])
    give_recorder(learn)
    learn.add_cb(ProgressCallback())
    learn.logger = print
    vars(learn).pop("_set_device", None)


def settings_of(path: Path, job: Job | ProbeJob) -> dict[str, Any]:
    """The settings that were found out, for the run folder `path`; the learning rate is found last."""
    config, data = job.config, job.data
    return {
        **job.settings(),
        "batch_size": job.batch_size,
        "device": str(job.device),
        "precision": job.precision,
        "labels": config.label_table,
        "images": config.images_folder,
        "store": data.store.path and data.store.path.parent,
        "out": path,
        "split": data.split.as_dict(),
        "group_column": data.unit,
        "corrected": dict(data.corrected),
        "positive": job.card.positive,
        "mpp": config.mpp,
    }


def write_settings(run: RunFolder, record: dict[str, Any], path: Path) -> None:
    """Write the settings of a run that is, or will be, at `path`, and note that they are this user's."""
    note_run(path, record)
    write_json(run.config, record)


def start(run: RunFolder, job: Job, screen: Screen) -> float:
    """Write what is known before the first batch and report the settings; returns the learning rate."""
    from histo.model.device import describe_device

    config = job.config
    if ranks.rank() > 0:
        return choose_lr(config, job.learn, run)
    write_json(run.path / "model.json", job.card.as_dict())
    write_start(run, job.data, job.device)
    lr = choose_lr(config, job.learn, run)
    write_settings(run, config.record({**settings_of(run.path, job), "lr": lr}), run.path)
    screen.say(
        f"{config.arch} on {describe_device(job.device)}, {job.precision}, batch size "
        f"{job.learn.dls.train.bs}, learning rate {lr:.2g}, {job.freeze_epochs} + {job.epochs} epochs"
    )
    return lr


def resume(run: RunFolder, job: Job, begin: Checkpoint, screen: Screen) -> None:
    """Record that this process resumes the run, and report where."""
    if ranks.rank() == 0:
        record_resumed(run, job.device, screen)
    at = begin.position
    screen.say(f"resuming in epoch {at.epoch + 1}, batch {at.batch + 1:,}")


def choose_lr(config: TrainConfig, learn: Learner, run: RunFolder) -> float:
    """The given learning rate, the architecture's default, or the finder's suggestion."""
    from histo.model.device import default_lr

    if config.lr is None:
        return default_lr(config.arch)
    if config.lr != "find":
        return float(config.lr)
    from histo.report.plots import draw_lr_find

    lr, rates, losses = find_lr(learn)
    draw_lr_find(run.path / "lr_find", rates, losses, lr)
    return lr


def find_lr(learn: Learner) -> tuple[float, list[float], list[float]]:
    """fastai's learning rate finder: its suggestion (valley), and the rates and losses it tried."""
    learn.unfreeze()
    before = learn.path
    with TemporaryDirectory() as folder, learn.removed_cbs(learn.watch):
        learn.path = Path(folder)  # fastai saves the weights there meanwhile
        found = learn.lr_find(show_plot=False)
    learn.path = before
    rates, losses = learn.recorder.lrs, [float(loss) for loss in learn.recorder.losses]
    return float(found.valley), rates, losses
