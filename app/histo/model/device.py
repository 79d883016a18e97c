"""What training and prediction run on: device, precision, memory, seeds."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path

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
    """`auto` is bf16 on a device that has it in hardware, fp16 on older GPUs, fp32 elsewhere."""
    if name == "auto" and device.type == "cuda":
        return "bf16" if has_bf16(device) else "fp16"
    if name == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    if name == "fp32" or device.type == "cuda" or (name == "bf16" and has_bf16(device)):
        return name
    or_cpu = ", or a processor with AVX512_BF16, AMX or ARM bf16" if name == "bf16" else ""
    raise HistoError(
        f"{name} needs a CUDA GPU{or_cpu}; {device.type} here trains in fp32",
        "{precision} fp32",
        "{precision} auto",
    )


def has_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 in hardware, by what torch and oneDNN say; never by emulation."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    """On x86 oneDNN also says yes where it would emulate, so torch must know the instructions too."""
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
    except (AttributeError, RuntimeError):  # a torch without oneDNN
        return False
    if platform.machine().lower() in ("aarch64", "arm64"):
        return True
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in known)


def processor_name() -> str:
    """What the processor calls itself, as "AMD EPYC 9R14"; its kind where the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


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
