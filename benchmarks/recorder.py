"""What `learn.recorder` costs: training with histo's recorder, with fastai's own, and with none, in turns.

uv run python benchmarks/recorder.py --batches 60 --rounds 6
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from fastai.learner import Learner, Recorder

from histo.config import ModelCard, TrainConfig
from histo.data.dataset import Dataset
from histo.data.store import Store
from histo.data.synth import synthetic_patches
from histo.model.body import IMAGENET_MEAN, IMAGENET_STD, make_body
from histo.model.device import keep_memory, resolve_device
from histo.run.split import Split
from histo.training.recipe import make_learner, make_loaders
from histo.training.recorder import EpochRecorder

ARCH, BATCH = "squeezenet1_1", 32


def make(batches: int) -> Learner:
    """A learner on synthetic patches, with one batch to validate."""
    pairs = list(synthetic_patches((batches + 1) * BATCH, seed=0))
    pixels = np.stack([pixels for pixels, _ in pairs])
    labels = [str(label) for _, label in pairs]
    store = Store(pixels, np.empty(len(pixels), "S40"))
    valid = np.arange(len(pixels)) < BATCH
    ids = [str(number) for number in range(len(pixels))]
    data = Dataset(ids, labels, valid, ["0", "1"], store, Split("random"))
    card = ModelCard(ARCH, data.vocab, store.side, None, None, IMAGENET_MEAN, IMAGENET_STD)
    device = resolve_device("auto")
    config = TrainConfig("data", arch=ARCH)  # type: ignore[arg-type]
    dls = make_loaders(data, card, config, device, BATCH)
    return make_learner(dls, make_body(ARCH), 512, card)


def seconds(learn: Learner, recorder: Recorder | None) -> tuple[float, float]:
    """Seconds of an epoch of training and one validation batch: on the clock, and of the processor.

    The latter hardly vary with what else the machine does.
    """
    learn.remove_cbs([each for each in learn.cbs if isinstance(each, Recorder)])
    if recorder:
        learn.add_cb(recorder)
    synchronize()
    start, busy = time.perf_counter(), time.process_time()
    learn.fit(1, 1e-4)
    synchronize()
    return time.perf_counter() - start, time.process_time() - busy


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Rounds in which the three take turns; medians of the ratios within a round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=6)
    given = parser.parse_args()
    keep_memory()
    learn = make(given.batches)
    ways = {"none": None, "histo's": EpochRecorder(), "fastai's": Recorder()}
    seconds(learn, None)
    rounds = []
    for number in range(given.rounds):
        order = list(ways) if number % 2 else list(reversed(ways))
        times = {name: seconds(learn, ways[name]) for name in order}
        rounds.append(times)
        print("  ".join(f"{name} {clock:.3f} s" for name, (clock, _) in sorted(times.items())))
    for name in ("histo's", "fastai's"):
        for which, what in enumerate(("clock", "processor")):
            ratios = [times[name][which] / times["none"][which] for times in rounds]
            each = ", ".join(f"{ratio:.3f}" for ratio in sorted(ratios))
            print(f"{name} over none, {what}: median {statistics.median(ratios):.4f} ({each})")


if __name__ == "__main__":
    main()
