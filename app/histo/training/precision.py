"""bf16 training: where the device multiplies it in hardware and a short trial finds it faster."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import torch
from fastai.callback.core import Callback
from torch import Tensor, nn

from histo.config import TrainConfig
from histo.distributed import ranks
from histo.errors import HistoError
from histo.files.notes import read_note, write_note
from histo.model.body import features_of, make_body
from histo.model.device import has_bf16, processor_name, resolve_device, resolve_precision
from histo.screen import Screen

TRIALS = "trials"
"""The kind of the notes of their outcomes."""
TRIAL_PATCHES = 8
TRIAL_SECONDS = 0.25
TRIAL_STEPS = 8
FASTER = 1.1
"""How many times as fast bf16 must be in the trial: less than that is not worth its rounding."""


class MixedPrecision(Callback):  # type: ignore[misc]
    """Trains in bf16 autocast on any device; fastai's own callback knows CUDA only.

    Weights, gradients and the optimizer stay in fp32, and so do the loss and the sums within norms.
    On a CPU validation is in fp32, so that every figure is; on a GPU it would take too long, and
    the kept epoch is judged anew in fp32 at the end.
    """

    order = 10  # that of fastai's own: before `DataParallel` wraps the model

    def before_fit(self) -> None:
        """Run the model in autocast."""
        self.changed = run_in_bf16(self.learn.model, self.dls.device.type)

    def after_fit(self) -> None:
        """Restore the model's own forward pass."""
        for module in self.changed:
            del module.forward


def run_in_bf16(model: nn.Module, kind: str) -> list[nn.Module]:
    """Run a model in bf16 autocast, on a CPU only while it trains; returns the modules changed.

    On them the attribute `forward` hides their class's own until it is deleted.
    """
    slow = [each for each in model.modules() if kind == "cpu" and slow_in_bf16(each)]
    for module in slow:
        module.forward = partial(in_fp32, module.forward)
    forward = model.forward

    def mixed(x: Tensor) -> Tensor:
        with torch.autocast(kind, torch.bfloat16, enabled=model.training or kind != "cpu"):
            logits: Tensor = forward(x)
        return logits.float()

    model.forward = mixed
    return [*slow, model]


def slow_in_bf16(module: nn.Module) -> bool:
    """Whether it is a depthwise convolution whose gradients oneDNN computes ten times as slowly in bf16.

    Those with a stride or larger than 3x3 are (torch 2.15, AVX512_BF16; benchmarks/README.md).
    """
    if not isinstance(module, nn.Conv2d) or module.groups == 1:
        return False
    depthwise = module.groups == module.in_channels
    return depthwise and (max(module.stride) > 1 or max(module.kernel_size) > 3)


def in_fp32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer's own forward pass, in fp32 also where autocast is on; bf16 then comes out of it."""
    if not torch.is_autocast_enabled("cpu"):
        return forward(x)
    with torch.autocast("cpu", enabled=False):
        return forward(x.float()).bfloat16()


def choose_precision(config: TrainConfig, side: int, device: torch.device, screen: Screen) -> str:
    """The precision of a new training on patches of `side` px; on a CPU `auto` makes a trial.

    The choice is kept in config.json, so that a resumed run does not choose again, and the trial's
    outcome for the user, so that the same seed gives the same figures. Several
    processes choose together, and bf16 only if it is faster in each.
    """
    precision = resolve_precision(config.precision, device)
    if config.precision != "auto" or device.type != "cpu":
        return precision
    speed = known_speed(config.arch, side) if precision == "bf16" else None
    slow = ranks.any_rank(speed is None or speed < FASTER)
    if speed is not None:
        screen.say(
            f"{'fp32' if slow else 'bf16'}: a step in bf16 is {speed:.1f} times as fast here"
        )
    return "fp32" if slow else "bf16"


def can_train_in(precision: str, device: torch.device) -> bool:
    """Whether a device can go on in the precision that a run was started with."""
    if precision == "fp32" or device.type == "cuda":
        return True
    return precision == "bf16" and has_bf16(device)


def check_precision(config: TrainConfig) -> None:
    """HistoError if a run cannot be resumed here in the precision it was started with."""
    device = resolve_device(config.device)
    if not can_train_in(config.precision, device):
        cpu = "on a processor with AVX512_BF16, AMX or ARM bf16, or "
        raise HistoError(
            f"the run was started in {config.precision}, which this {device.type} does not have in "
            "hardware: it cannot be resumed here",
            f"resume it {cpu if config.precision == 'bf16' else ''}on a GPU",
            "start a new training, with {precision} fp32",
        )


def known_speed(arch: str, side: int) -> float:
    """The outcome of this user's last trial on such a processor, else of a new one.

    Two trials of a network whose speeds are near to each other could choose differently, and the same
    seed would give other figures.
    """
    facts = (arch, side, torch.__version__, torch.get_num_threads(), processor_name())
    key = repr(facts).encode()
    with suppress(ValueError):
        return float(read_note(TRIALS, key) or "")
    speed = bf16_speed(arch, side)
    write_note(TRIALS, key, f"{speed:.2f}\n")  # without a cache the next training tries again
    return speed


def bf16_speed(arch: str, side: int) -> float:
    """How many times as fast as in fp32 a training step of an architecture is in bf16, on this CPU.

    The least of a few steps each, in turn, in seconds of the processor: other work on the machine
    does not change the choice. The random state stays as it was.
    """
    with torch.random.fork_rng(devices=[]):
        body = make_body(arch)
        features_of(body, side, arch)
        body.to(memory_format=torch.channels_last).train()
        patches = torch.rand(TRIAL_PATCHES, 3, side, side).to(memory_format=torch.channels_last)
        taken = trial(body, patches)
    return min(taken["fp32"][1:]) / min(taken["bf16"][1:])  # the first step chooses kernels


def trial(body: nn.Module, patches: Tensor) -> dict[str, list[float]]:
    """Seconds of a few steps in each precision, in turn."""
    taken: dict[str, list[float]] = {"fp32": [], "bf16": []}
    end = time.process_time() + TRIAL_SECONDS
    while len(taken["bf16"]) < 2 or (
        time.process_time() < end and len(taken["bf16"]) < TRIAL_STEPS
    ):
        for precision, seconds in taken.items():
            changed = run_in_bf16(body, "cpu") if precision == "bf16" else []
            seconds.append(step_seconds(body, patches))
            for module in changed:
                del module.forward
    return taken


def step_seconds(body: nn.Module, patches: Tensor) -> float:
    """Seconds of the processor for one pass forward and backward through a body."""
    start = time.process_time()
    body(patches).square().mean().backward()
    return time.process_time() - start
