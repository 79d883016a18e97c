"""One training by histo, stock fastai, timm's own script or ultralytics, timed epoch by epoch.

    PYTHON training_rival_tools.py JOB.json

Runs in the environment of its tool, for which `training_rivals.py` writes the job. Leaves two files
in the job's folder: result.json (patches and seconds of each epoch of training, without validation)
and predictions.csv (name and probability of class 1 of each validation patch, one view).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

LR, DECAY, BATCH = 1.5e-3, 0.01, 32
SIDE = 96
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass
class Job:
    """What is trained, and on which patches."""

    tool: str
    tuned: bool
    network: str
    weights: str
    data: str
    """a folder with train/CLASS/*.png and val/CLASS/*.png"""
    folder: str
    """for the job's own files"""
    epochs: int
    """of the whole network"""
    seed: int
    script: str
    """timm's train.py"""
    spent: list[tuple[int, float]] = field(default_factory=list)
    """patches and seconds of each epoch of training"""
    threads: int = 0
    """of torch, in training"""

    def epoch(self, patches: int, seconds: float) -> None:
        """Note an epoch of training."""
        self.spent.append((patches, seconds))
        self.threads = int(importlib.import_module("torch").get_num_threads())

    @property
    def valid(self) -> list[Path]:
        """The files that validate."""
        return sorted(Path(self.data).glob("val/*/*.png"))

    def keep(self, names: Sequence[str], scores: Sequence[float]) -> None:
        """Write the predictions."""
        rows = [f"{name},{score:.9g}\n" for name, score in zip(names, scores, strict=True)]
        Path(self.folder, "predictions.csv").write_text("".join(rows))


def judge(job: Job, model: Any, mean: Sequence[float], std: Sequence[float]) -> None:
    """Predict the validation patches, whole and in one view, as its training normalised them."""
    import numpy as np
    import torch
    from PIL import Image

    centre, width = (torch.tensor(each).view(1, 3, 1, 1) for each in (mean, std))
    scores: list[float] = []
    model.float().eval()
    with torch.no_grad():
        for start in range(0, len(job.valid), 64):
            files = job.valid[start : start + 64]
            pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
            found = model((x - centre) / width)
            # ultralytics' head gives probabilities, then logits
            probable = found[0] if isinstance(found, tuple) else found.softmax(1)
            scores += probable[:, 1].tolist()
    job.keep([file.stem for file in job.valid], scores)


# ------------------------------------------------------------------- histo


def histo(job: Job) -> None:
    """`histo train` by its defaults; the time says how many epochs."""
    from histo.cli import main
    from histo.training.recording import Recording, softmax

    record = Recording.epoch

    def recorded(self: Recording, learn: Any, seen: Any) -> None:
        job.epoch(seen.patches, seen.train_seconds)
        names = [Path(each).stem for each in self.data.valid_ids]
        job.keep(names, softmax(seen.logits)[:, 1].tolist())  # the last epoch stays, not the best
        record(self, learn, seen)

    Recording.epoch = recorded  # type: ignore[method-assign]
    sys.argv = ["histo", "train", job.data, "--images", job.data, "--labels"]
    sys.argv += [f"{job.data}/labels.csv", "--split-column", "split", "--arch", job.network]
    sys.argv += ["--weights", job.weights, "--epochs", str(job.epochs), "--seed", str(job.seed)]
    sys.argv += ["--store", f"{job.folder}/store", "--out", f"{job.folder}/run"]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise


# ------------------------------------------------------------------- fastai


def fastai(job: Job) -> None:
    """The short script of its documentation; or histo's recipe, by what fastai has."""
    import fastai.callback.schedule  # noqa: F401  (patches fine_tune and fit_one_cycle on)
    from fastai.callback.channelslast import ChannelsLast
    from fastai.torch_core import set_seed
    from fastai.vision.augment import DihedralItem, aug_transforms
    from fastai.vision.data import ImageDataLoaders
    from fastai.vision.learner import vision_learner

    set_seed(job.seed)
    own: dict[str, Any] = {"batch_tfms": aug_transforms()}
    if job.tuned:
        own = {"item_tfms": [DihedralItem()], "bs": BATCH, "num_workers": 2}
    dls = ImageDataLoaders.from_folder(Path(job.data), train="train", valid="val", **own)
    learn = vision_learner(dls, job.network, pretrained_cfg_overlay={"file": job.weights})
    learn.add_cb(fastai_clock(job))
    with learn.no_bar(), learn.no_logging():
        if job.tuned:
            learn.add_cb(ChannelsLast())
            learn.fit_one_cycle(1, LR)
            learn.unfreeze()
            learn.fit_one_cycle(job.epochs, slice(LR / 3, LR), wd=DECAY)
        else:
            learn.fine_tune(job.epochs)
    config = learn.model[0].model.pretrained_cfg
    judge(job, learn.model, config["mean"], config["std"])


def fastai_clock(job: Job) -> Any:
    """A callback that times the training of each epoch."""
    from fastai.callback.core import Callback

    class Clock(Callback):  # type: ignore[misc]
        def before_train(self) -> None:
            self.begun = time.perf_counter()

        def after_train(self) -> None:
            train = self.learn.dls.train
            job.epoch(len(train) * train.bs, time.perf_counter() - self.begun)

    return Clock()


# ------------------------------------------------------------------- timm

TIMM_TUNED: dict[str, Any] = {
    "batch_size": BATCH,
    "opt": "adamw",
    "lr": LR,
    "weight_decay": DECAY,
    "sched_on_updates": True,
    "scale": [1, 1],
    "ratio": [1, 1],
    "vflip": 0.5,
    "color_jitter": 0,
    "smoothing": 0,
    "train_interpolation": "bilinear",
    "head_init_scale": 0.01,  # as it is, the first loss is about 7
    "channels_last": True,
    "workers": 2,
}


def timm(job: Job) -> None:
    """Its own train.py, unchanged, with a clock around its function for an epoch."""
    spec = importlib.util.spec_from_file_location("timm_train", job.script)
    assert spec
    assert spec.loader
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.train_one_epoch = clocked(job, script.train_one_epoch)
    sys.argv = ["train.py", *timm_words(job)]
    script.main()
    timm_judge(job)


def timm_words(job: Job) -> list[str]:
    """The command line of train.py."""
    given = {"data-dir": job.data, "train-split": "train", "val-split": "val"}
    given |= {"model": job.network, "pretrained-path": job.weights, "num-classes": "2"}
    given |= {"img-size": str(SIDE), "device": "cpu", "seed": str(job.seed)}
    given |= {"epochs": str(job.epochs), "output": job.folder, "experiment": "run"}
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    if job.tuned:
        tuned = TIMM_TUNED | {"warmup_epochs": 0.25 * job.epochs}  # as an option it is whole
        Path(job.folder, "tuned.json").write_text(json.dumps(tuned))
        words += ["--config", f"{job.folder}/tuned.json"]
    return [*words, "--pretrained"]


def clocked(job: Job, train_one_epoch: Callable[..., Any]) -> Callable[..., Any]:
    """train.py's function, timed."""

    def timed(epoch: int, model: Any, loader: Any, optimizer: Any, args: Any, **more: Any) -> Any:
        begun = time.perf_counter()
        found = train_one_epoch(epoch, model, loader, optimizer, args, **more)
        job.epoch(len(loader) * args.batch_size, time.perf_counter() - begun)
        return found

    return timed


def timm_judge(job: Job) -> None:
    """Load the last checkpoint and predict."""
    import torch

    create = importlib.import_module("timm").create_model
    model = create(job.network, num_classes=2)
    kept = torch.load(f"{job.folder}/run/last.pth.tar", map_location="cpu", weights_only=False)
    model.load_state_dict(kept["state_dict"])
    judge(job, model, model.pretrained_cfg["mean"], model.pretrained_cfg["std"])


# ------------------------------------------------------------------- ultralytics

ULTRALYTICS_TUNED: dict[str, Any] = {
    "batch": BATCH,
    "nbs": BATCH,
    "optimizer": "AdamW",
    "lr0": LR,
    "momentum": 0.9,
    "weight_decay": DECAY,
    "cos_lr": True,
    "warmup_bias_lr": 0.0,
    "scale": 0.0,
    "flipud": 0.5,
    "auto_augment": None,
    "hsv_h": 0.0,
    "hsv_s": 0.0,
    "hsv_v": 0.0,
    "erasing": 0.0,
    "cache": "ram",
    "deterministic": False,
    "val": False,
    "plots": False,
}
SQUEEZENET = """nc: 2
backbone:
  - [-1, 1, TorchVision, [512, squeezenet1_1, null, True, 1]]
head:
  - [-1, 1, Classify, [nc]]
"""


def ultralytics(job: Job) -> None:
    """`YOLO(…).train`, of the classification task."""
    os.environ |= {"YOLO_CONFIG_DIR": job.folder, "YOLO_OFFLINE": "true"}
    yolo = importlib.import_module("ultralytics").YOLO
    given: dict[str, Any] = {"data": job.data, "epochs": job.epochs, "imgsz": SIDE}
    given |= {"device": "cpu", "seed": job.seed, "project": job.folder, "name": "run"}
    own = f"{job.network}.yaml"
    if job.weights:
        own = f"{job.folder}/{job.network}.yaml"
        Path(own).write_text(SQUEEZENET)
        given["pretrained"] = ultralytics_weights(job, yolo(own, task="classify"))
    if job.tuned:
        given |= ULTRALYTICS_TUNED | {"warmup_epochs": 0.25 * job.epochs}
    model = yolo(own, task="classify")
    begun = [0.0]

    def start(_trainer: Any) -> None:
        if job.tuned:  # on a CPU it leaves one core unused
            importlib.import_module("torch").set_num_threads(os.cpu_count())
        begun[0] = time.perf_counter()

    def end(trainer: Any) -> None:
        job.epoch(len(trainer.train_loader.dataset), time.perf_counter() - begun[0])

    model.add_callback("on_train_epoch_start", start)
    model.add_callback("on_train_epoch_end", end)
    model.train(**given)
    # it trains on pixels from 0 to 1, without a mean or deviation
    judge(job, yolo(f"{job.folder}/run/weights/last.pt").model, (0.0,) * 3, (1.0,) * 3)


def ultralytics_weights(job: Job, model: Any) -> str:
    """A checkpoint of its own kind with the body's ImageNet weights.

    Tuned, ImageNet's normalisation, which it leaves out, is in the first convolution.
    """
    import torch
    from safetensors.torch import load_file

    given = {name.removeprefix("features."): x for name, x in load_file(job.weights).items()}
    if job.tuned:
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in IMAGENET)
        given["0.weight"] = given["0.weight"] / std
        given["0.bias"] = given["0.bias"] - (given["0.weight"] * mean).sum((1, 2, 3))
    model.model.model[0].m.load_state_dict(given)
    torch.save({"model": model.model, "train_args": {}}, f"{job.folder}/begin.pt")
    return f"{job.folder}/begin.pt"


TOOLS = {each.__name__: each for each in (histo, fastai, timm, ultralytics)}


def version_of(tool: str) -> str:
    """Of a tool; histo may run from its source tree."""
    if tool == "histo":
        return str(importlib.import_module("histo").__version__)
    return version(tool)


def main() -> None:
    """Train, then say how long each epoch took."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    sys.path.remove(str(Path(__file__).parent))  # the benchmarks are no modules of the tool
    TOOLS[job.tool](job)
    import torch

    names = {"torch": torch.__version__, job.tool: version_of(job.tool)}
    found = {"spent": job.spent, "threads": job.threads, "versions": names}
    Path(job.folder, "result.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
