"""The learner: `vision_learner` around a body, its head, optimizer, device and precision."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fastai.callback.fp16
import fastai.callback.schedule  # noqa: F401  (fit_one_cycle, lr_find and to_fp16 are patched on)
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import set_seed
from fastai.vision.learner import vision_learner
from fastcore.basics import noop
from torch import Tensor, nn

from histo.config import ModelCard
from histo.distributed import ranks
from histo.errors import HistoError
from histo.training.optimizer import FusedAdamW

CNN_LR = 1.5e-3
"""Peak learning rate for convolutional nets; by measurement, see benchmarks/README.md."""
TRANSFORMER_LR = 1e-4
"""For transformers and ConvNeXt, which diverge at the rate of a plain convolutional net."""
TRANSFORMERS = ("vit", "swin", "maxvit", "convnext", "deit", "beit", "eva", "coat", "cait", "xcit")


def default_lr(arch: str) -> float:
    """The peak learning rate for an architecture."""
    return TRANSFORMER_LR if arch.startswith(TRANSFORMERS) else CNN_LR


def default_batch_size(device: torch.device) -> int:
    """32 on a CPU, where more steps do more than larger ones; 256 keeps a GPU busy."""
    return 32 if device.type == "cpu" else 256


def make_head(features: int, units: int, classes: int) -> nn.Sequential:
    """The new head: features [B, F] to logits [B, C].

    Layer norm, one hidden layer, dropout: of the heads tried the best on real patches, and far
    better than one with batch norm (benchmarks/README.md).
    """
    return nn.Sequential(
        nn.LayerNorm(features),
        nn.Linear(features, units),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(units, classes),
    )


class CrossEntropy(CrossEntropyLossFlat):  # type: ignore[misc]
    """fastai's loss of logits [B, C] and class indices [B], on plain tensors.

    Its own makes them a type of fastai's, and all that follows, the backward pass too, is dispatched
    twice: 0.4 ms a batch.
    """

    def __call__(self, logits: Tensor, classes: Tensor, **_: Any) -> Tensor:
        """The mean over the batch; a reduction that was set counts."""
        loss: Tensor = self.func(logits, classes)
        return loss


def parameter_groups(model: nn.Sequential) -> list[list[nn.Parameter]]:
    """First half of the body by depth, second half, head: fastai's layer groups."""
    body = list(model[0].parameters())
    half = len(body) // 2
    return [body[:half], body[half:], list(model[1].parameters())]


def build_learner(
    dls: DataLoaders,
    body: nn.Module,
    features: int,
    card: ModelCard,
    precision: str,
    compiled: bool = False,
) -> Learner:
    """`vision_learner` around a body that is already made; the head is new."""
    learn = vision_learner(
        dls,
        # fastai takes as body what stands before the last pooling, here one put there to be cut
        lambda pretrained: nn.Sequential(body, nn.AdaptiveAvgPool2d(1)),
        n_out=len(card.vocab),
        pretrained=False,
        normalize=False,  # the DataBlock normalises
        custom_head=make_head(features, card.head, len(card.vocab)),
        splitter=parameter_groups,
        loss_func=CrossEntropy(),
        opt_func=FusedAdamW,
        train_bn=False,
    )
    learn.remove_cb(learn.progress)  # its console bar leaves debris; `Watch` tells the screen
    learn.remove_cb(learn.cast_to_tensor)  # batches are plain tensors, and on the device
    learn.logger = learn._set_device = noop
    learn.model = learn.model.to(dls.device, memory_format=torch.channels_last)
    if precision == "fp16":
        learn.to_fp16()
    if precision == "bf16":
        learn.to_bf16()
    if compiled:
        learn.model.compile()  # in place: the tensors keep their names
    return learn


def find_lr(learn: Learner) -> tuple[float, list[float], list[float]]:
    """fastai's learning rate finder: the suggestion (valley), the rates and losses it tried."""
    learn.unfreeze()
    with TemporaryDirectory() as folder, learn.removed_cbs(learn.watch):
        learn.path = Path(folder)  # where fastai keeps the weights meanwhile
        found = learn.lr_find(show_plot=False)
    rates, losses = learn.recorder.lrs, [float(loss) for loss in learn.recorder.losses]
    return float(found.valley), rates, losses


def resolve_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one; HistoError where the one asked for is not there.

    Of the processes of a launcher each takes the GPU of its number on the machine.
    """
    wanted = name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())
    if wanted and ranks.world() > 1:
        name = f"cuda:{ranks.local_rank()}"
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind == "cpu":
        return torch.device("cpu")
    if kind == "mps" and torch.backends.mps.is_available():
        return torch.device("mps")
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if kind == "cuda" and count and int(number or 0) < count:
        return torch.device("cuda", int(number or 0))
    there = f"{count} CUDA devices are" if count else "no such device is"
    raise HistoError(
        f"no device {name!r}: {there} available here", "{device} auto takes what there is"
    )


def resolve_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 on GPUs that have it, fp16 on older ones, fp32 elsewhere."""
    if name == "auto":
        if device.type != "cuda":
            return "fp32"
        with torch.cuda.device(device):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name != "fp32" and device.type != "cuda":
        raise HistoError(
            f"{name} needs a CUDA GPU; {device.type} trains in fp32",
            "{precision} fp32",
            "{precision} auto",
        )
    return name


def keep_memory() -> None:
    """Have the C library keep what a batch has freed for the next, instead of giving it back.

    Else each step of a training on a CPU begins with thousands of page faults (`mallopt(3)`:
    M_MMAP_MAX, M_TRIM_THRESHOLD). Does nothing where the library is not glibc.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):
            library = ctypes.CDLL(None)
            library.mallopt(-4, 0)
            library.mallopt(-1, -1)


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed Python, numpy and torch; the same seed on the same CPU gives the same figures.

    On a GPU cuDNN may choose its fastest kernels instead, whose sums vary in the last digits.
    """
    set_seed(seed, reproducible=device.type == "cpu")
    torch.backends.cudnn.benchmark = device.type == "cuda"


def out_of_memory(error: RuntimeError, batch_size: int) -> HistoError | None:
    """The one line for a device that ran out of memory; None for any other error."""
    if isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error):
        return HistoError(
            f"out of memory at batch size {batch_size}",
            f"try {{batch_size}} {max(1, batch_size // 2)}",
        )
    return None


def describe_device(device: torch.device) -> str:
    """The device as a person names it."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({os.cpu_count()} cores)" if device.type == "cpu" else str(device)
