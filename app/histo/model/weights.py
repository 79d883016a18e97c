"""Untrusted weights files: checked before they are loaded, and their code never run."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from histo.errors import HistoError
from histo.files.limits import MB, MODEL_BYTES, check_regular

HEADER_BYTES = 16 * MB
"""Maximum bytes of a .safetensors header: enough for a hundred thousand tensors."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file, by name; no code in it is ever run."""
    try:
        check_regular(path.stat(), path)
        MODEL_BYTES.check(path.stat().st_size, str(path))
        if path.suffix == ".safetensors":
            read_header(path, HEADER_BYTES)
            return load_file(path)
        check_zip(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about what it then refuses
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise HistoError(
            f"no weights file {path}", "{weights} is imagenet, none or a file"
        ) from None
    except pickle.UnpicklingError:
        raise HistoError(
            f"{path} holds more than tensors, and is refused: it could run code"
        ) from None
    except HistoError:
        raise
    except Exception:  # a damaged pickle can raise anything
        raise HistoError(f"{path} is not a readable .safetensors or .pth state dict") from None
    for key in ("state_dict", "model", "model_state_dict", "teacher"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        raise HistoError(f"{path} is not a state dict: it holds a {type(found).__name__}")
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    for name, value in tensors.items():
        if not _is_plain(value):
            raise HistoError(f"{path} is refused: its tensor {name} does not hold plain numbers")
    return tensors


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor can be copied into a model: dense, real, with its numbers in memory."""
    there = value.layout == torch.strided and value.device.type == "cpu"
    return there and not value.is_quantized and not value.is_complex()


def read_header(path: Path, most: int) -> bytes:
    """The JSON header of a .safetensors; HistoError if it is too large or longer than the file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(most, path.stat().st_size - 8):
            raise HistoError(f"{path} is damaged: it claims a header of {length:,} bytes")
        return file.read(length)


def check_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a .safetensors that does not hold exactly these tensors, before any is read."""
    header = read_header(path, 10_000 + sum(250 + 6 * len(name) for name in shapes))
    try:
        found: dict[str, Any] = json.loads(header)
        found.pop("__metadata__", None)
        good = {name: tuple(entry["shape"]) for name, entry in found.items()} == shapes
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        good = False
    if not good:
        raise HistoError(f"{path} does not fit the model of its card")


def check_zip(path: Path) -> None:
    """Refuse a .pth that unpacks to more than its size: torch does not compress."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as members:
        unpacked = sum(member.file_size for member in members.infolist())
    if unpacked > path.stat().st_size:
        raise HistoError(f"{path} is refused: it would unpack to {unpacked:,} bytes")
