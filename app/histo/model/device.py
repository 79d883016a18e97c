"""What training and prediction run on: device, precision, memory, seeds."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

import torch

from histo.config import CNN_LR, CPU_BATCH, GPU_BATCH, TRANSFORMER_LR
from histo.distributed import ranks
from histo.errors import HistoError
from histo.model.foundation import FOUNDATIONS

TRANSFORMERS = ("vit", "swin", "maxvit", "convnext", "deit", "beit", "eva", "coat", "cait", "xcit")
"""Prefixes of architectures that need a transformer's learning rate."""


def default_lr(arch: str) -> float:
    """The peak learning rate for an architecture."""
    is_transformer = arch.startswith(TRANSFORMERS) or arch in FOUNDATIONS
    return TRANSFORMER_LR if is_transformer else CNN_LR


def default_batch_size(device: torch.device) -> int:
    """The batch size of training for a device."""
    return CPU_BATCH if device.type == "cpu" else GPU_BATCH


def resolve_device(name: str) -> torch.device:
    """`auto` is a GPU if there is one; HistoError if the given device is not there.

    Each process of a launcher takes the GPU of its local rank.
    """
    wanted = name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())
    if wanted and ranks.world_size() > 1:
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
        f"no device {name!r}: {there} available here", "{device} auto takes what is available"
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
    """Make the C library keep freed memory for the next batch instead of returning it.

    Otherwise each training step on a CPU causes thousands of page faults (`mallopt(3)`: M_MMAP_MAX,
    M_TRIM_THRESHOLD). Does nothing if the library is not glibc.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):
            library = ctypes.CDLL(None)
            library.mallopt(-4, 0)
            library.mallopt(-1, -1)


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed Python, numpy and torch; the same seed on the same CPU gives the same figures.

    On a GPU, cuDNN may choose its fastest kernels, whose sums vary in the last digits.
    """
    from fastai.torch_core import set_seed

    set_seed(seed, reproducible=device.type == "cpu")
    torch.backends.cudnn.benchmark = device.type == "cuda"


def out_of_memory(error: RuntimeError, batch_size: int) -> HistoError | None:
    """The error for a device that ran out of memory; None for any other error."""
    if isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error):
        return HistoError(
            f"out of memory at batch size {batch_size}",
            f"try {{batch_size}} {max(1, batch_size // 2)}",
        )
    return None


def describe_device(device: torch.device) -> str:
    """The name of the device, with its model or cores."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({os.cpu_count()} cores)" if device.type == "cpu" else str(device)
