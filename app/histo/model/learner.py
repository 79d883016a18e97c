"""The heart of training: a fastai learner, frozen then whole, one cycle each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import fastai.callback.fp16
import fastai.callback.schedule  # noqa: F401  (fit_one_cycle, lr_find and to_fp16 are patched on)
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.torch_core import set_seed
from fastai.vision.learner import vision_learner
from fastcore.basics import noop
from torch import Tensor, nn

from histo.config import ModelCard
from histo.errors import HistoError
from histo.model.optimizer import FusedAdamW

FULL_LR = 1.5e-3
"""Peak learning rate for convolutional nets; by measurement, see benchmarks/README.md."""
ATTENTION_LR = 1e-4
"""For transformers and ConvNeXt, which diverge at the rate of a plain convolutional net."""
ATTENTION = ("vit", "swin", "maxvit", "convnext", "deit", "beit", "eva", "coat", "cait", "xcit")
BODY_DIV = 3.0
"""The first half of a pretrained body learns at the peak rate divided by this."""


def default_lr(arch: str) -> float:
    """The peak learning rate for an architecture."""
    return ATTENTION_LR if arch.startswith(ATTENTION) else FULL_LR


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
        opt_func=FusedAdamW,
        train_bn=False,
    )
    learn.remove_cb(learn.progress)  # its console bar leaves debris; `Watch` tells the screen
    learn.logger = noop
    learn.model = learn.model.to(dls.device, memory_format=torch.channels_last)
    if precision == "fp16":
        learn.to_fp16()
    if precision == "bf16":
        learn.to_bf16()
    if compiled:
        learn.model.compile()  # in place: the tensors keep their names
    return learn


class FrozenBody(Callback):  # type: ignore[misc]
    """While frozen, the body only infers: no gradients, batch norm and dropout as in prediction."""

    def before_fit(self) -> None:
        """Let the body infer alone; the head gets copies that autograd may keep."""
        body = self.learn.model[0]
        forward = body.forward

        def infer(x: Tensor) -> Tensor:
            with torch.inference_mode():
                features: Tensor = forward(x)
            return features.clone()

        body.forward = infer

    def before_train(self) -> None:
        """After fastai's own switch to training mode."""
        self.learn.model[0].eval()

    def after_fit(self) -> None:
        """The body's own forward pass again."""
        del self.learn.model[0].forward


@dataclass(frozen=True)
class Epoch:
    """What one epoch showed: logits [N, C] and class indices [N] of the validation patches."""

    number: int
    train_loss: float
    logits: Tensor
    labels: Tensor
    seconds: float
    train_seconds: float
    patches: int


class Watch(Callback):  # type: ignore[misc]
    """Tells `on_batch` of each batch and `on_epoch` of each epoch, counted over both phases."""

    order = 60

    def __init__(
        self, on_batch: Callable[[], None], on_epoch: Callable[[Learner, Epoch], None]
    ) -> None:
        self.on_batch, self.on_epoch, self.number = on_batch, on_epoch, 0

    def before_epoch(self) -> None:
        """A new epoch: nothing gathered yet."""
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.losses: list[Tensor] = []
        self.start = time.perf_counter()

    def after_train(self) -> None:
        """The clock of training alone, for patches a second."""
        self.train_seconds = time.perf_counter() - self.start

    def before_batch(self) -> None:
        """Plain tensors for the model: with fastai's own types each operation is dispatched twice."""
        self.learn.xb = tuple(x.as_subclass(Tensor) for x in self.xb)
        self.learn.yb = tuple(y.as_subclass(Tensor) for y in self.yb)

    def after_batch(self) -> None:
        """Keep losses of training, logits of validation, on the device."""
        if self.training:
            self.losses.append(self.loss.detach())
        else:
            self.logits.append(self.pred.detach().float())
            self.labels.append(self.yb[0])
        self.on_batch()

    def after_epoch(self) -> None:
        """Hand the epoch over."""
        self.number += 1
        loss = float(torch.stack(self.losses).float().mean())
        patches = len(self.losses) * self.dls.train.bs
        logits, labels = torch.cat(self.logits).cpu(), torch.cat(self.labels).cpu()
        seconds = time.perf_counter() - self.start
        self.on_epoch(
            self.learn,
            Epoch(self.number, loss, logits, labels, seconds, self.train_seconds, patches),
        )


def fit(learn: Learner, freeze_epochs: int, epochs: int, lr: float, pretrained: bool) -> None:
    """Head first with the body frozen, then all of it: one cycle each (Smith, arXiv:1708.07120).

    A pretrained body learns slower at its start than at its end (discriminative learning rates,
    Howard and Ruder, arXiv:1801.06146); a new one learns all at the same rate.
    """
    with learn.removed_cbs(learn.recorder):  # it fetches each batch's loss; `Watch` an epoch's
        if freeze_epochs:
            learn.freeze()
            learn.fit_one_cycle(freeze_epochs, lr, cbs=FrozenBody())
        learn.unfreeze()
        learn.fit_one_cycle(epochs, slice(lr / BODY_DIV, lr) if pretrained else lr)


def find_lr(learn: Learner) -> tuple[float, list[float], list[float]]:
    """fastai's learning rate finder: the suggestion (valley), the rates and losses it tried."""
    learn.unfreeze()
    with learn.removed_cbs(learn.watch):
        found = learn.lr_find(show_plot=False)
    rates, losses = learn.recorder.lrs, [float(loss) for loss in learn.recorder.losses]
    return float(found.valley), rates, losses


def resolve_device(name: str) -> torch.device:
    """`auto` is the first GPU there is; HistoError where the one asked for is not there."""
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
    raise HistoError(f"--device {name}: {there} available here (--device auto takes what there is)")


def resolve_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 on GPUs that have it, fp16 on older ones, fp32 elsewhere."""
    if name == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name == "fp16" and device.type == "cpu":
        raise HistoError("--precision fp16 needs a GPU (bf16 and fp32 work on the CPU)")
    return name


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
            f"out of memory at batch size {batch_size}: try --batch-size {max(1, batch_size // 2)}"
        )
    return None


def describe_device(device: torch.device) -> str:
    """The device as a person names it."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({os.cpu_count()} cores)" if device.type == "cpu" else str(device)


def state_on_cpu(model: nn.Module) -> dict[str, Tensor]:
    """The model's tensors as safetensors takes them: on the CPU, contiguous, none shared."""
    return {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.state_dict().items()
    }
