"""The card of a bundle: read, bounded and checked, without torch."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.config import ModelCard, Wanted
from histo.errors import HistoError
from histo.files.limits import CARD_BYTES, CLASSES, is_name, path_inside
from histo.files.writing import read_json

FORMAT = ModelCard.format
"""Of the bundles that this histo writes; earlier ones are read too."""
CARD = "model.json"
WEIGHTS = "model.safetensors"
ONNX = "model.onnx"
INT8 = "model.int8.onnx"
"""model.onnx quantised, called like it; there only if the card's `engines` vouches for it."""
LEARNER = "learner.pkl"
TRAINED = "trained.npy"
"""The first 8 bytes of the SHA-1 of every patch the model was trained or chosen on, uint64 sorted."""

TRAINED_NEAR = "trained_near.npy"
"""Hashes of those patches that near-duplicates share, uint8 [N, K] (histo.data.similar)."""
TRAINED_GROUPS = "trained_groups.npy"
"""The same 8 bytes of the SHA-1 of the name of each slide or patient they are from."""

FILES = (WEIGHTS, ONNX, INT8, LEARNER, TRAINED, TRAINED_NEAR, TRAINED_GROUPS)
"""Every file that a card names with its hash; a learner is hashed, never opened."""

UNFINISHED = "unfinished"
"""The key of a sentence in the card of a run that had not finished training."""
SEAL = "sha256"
"""The key of the card's own hash (`seal_of`); the first cards had neither this nor `bytes`."""


def onnx_file(precision: str) -> str:
    """The ONNX model of a bundle that is run in a precision on a CPU: bf16 is computed of that in fp32."""
    return INT8 if precision == "int8" else ONNX


@dataclass(frozen=True)
class Onnx:
    """How to call model.onnx: uint8 RGB [N, S, S, 3] in, probabilities float32 [N, C] out."""

    opset: int
    input: str = "patches"
    output: str = "probabilities"


def bundle_path(folder: Path, name: str) -> Path:
    """The path of a file of a bundle; HistoError if it is a link to outside the bundle."""
    return path_inside(folder, name, "the bundle")


def read_card(folder: Path) -> tuple[ModelCard, dict[str, Any]]:
    """The card of a bundle and all its facts; HistoError if it is not a card or of a later format."""
    if not folder.is_dir():
        raise HistoError(f"no bundle {folder}")
    path = bundle_path(folder, CARD)
    facts = read_json(path, CARD_BYTES)
    if not isinstance(facts, dict) or not isinstance(facts.get("files"), dict):
        raise HistoError(f"{path} is not the card of a bundle (histo export RUN writes one)")
    found = facts.get("format")
    if type(found) is int and found > FORMAT:
        raise HistoError(f"{path} is of format {found}; this histo reads {FORMAT} (update histo)")
    sizes = facts.get("bytes", {})
    if not _is_sealed(facts):
        raise HistoError(f"{path} has changed since it was written: its SHA-256 does not match")
    if (
        found not in range(1, FORMAT + 1)
        or not all(_is_plain(name) and _is_sha256(x) for name, x in facts["files"].items())
        or not isinstance(sizes, dict)
        or not all(type(x) is int for x in sizes.values())
    ):
        raise HistoError(f"{path} is damaged: a value is missing or out of bounds")
    return parse_card(facts, path), facts


def seal_of(facts: dict[str, Any]) -> str:
    """SHA-256 of all other facts of a card, to detect changes."""
    others = {name: value for name, value in facts.items() if name != SEAL}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def _is_sealed(facts: dict[str, Any]) -> bool:
    """Whether a card is unchanged since it was written; the first cards, without a seal, pass."""
    if not facts.keys() & {SEAL, "bytes"}:
        return True
    try:
        return bool(facts.get(SEAL) == seal_of(facts))
    except RecursionError:  # nested as deeply as the reader allows
        return False


def _is_plain(name: str) -> bool:
    return re.fullmatch(r"[\w\-][\w.\-]{0,99}", name, re.ASCII) is not None


def _is_sha256(text: Any) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[0-9a-f]{64}", text, re.ASCII) is not None


def parse_card(facts: dict[str, Any], path: Path) -> ModelCard:
    """The model's part of a card, its types and bounds checked."""
    try:
        needed = {f.name for f in fields(ModelCard) if f.default is MISSING}
        known = {f.name for f in fields(ModelCard) if f.name in facts}
        card = ModelCard(**{name: facts[name] for name in needed | known})
        good = _is_sound(card)
    except (KeyError, TypeError):
        good = False
    if not good:
        raise HistoError(f"{path} is damaged: a value is missing or out of bounds")
    return card


def _is_sound(card: ModelCard) -> bool:
    """Whether each value of a card has its type and is within bounds; TypeError also means no."""
    sides = [card.patch_size, *(x for x in (card.crop, card.size) if x is not None)]
    sides += [card.head] if card.head != 0 else []  # a probe has no hidden layer
    return (
        _is_plain(card.arch)
        and type(card.head) is int
        and isinstance(card.vocab, list)
        and all(is_name(name) for name in card.vocab)
        and 2 <= len(card.vocab) == len(set(card.vocab)) <= CLASSES.value
        and all(type(side) is int and 1 <= side <= 8192 for side in sides)
        and card.size in (None, card.patch_size)  # batches are as large as patch_size allows
        and _are_three(card.mean, -100, 100)
        and _are_three(card.std, 1e-3, 100)
        and type(card.models) is int
        and 1 <= card.models <= 100
        and _is_between(card.temperature, 0.01, 100)
        and _is_between(card.threshold, 0, 1.1)
        and (card.positive is None or (len(card.vocab) == 2 and card.positive in card.vocab))
        and (card.wanted is None or Wanted.read(card.wanted) is not None)
        and (card.mpp is None or _is_between(card.mpp, 0.05, 50))
        and (card.levels is None or _are_blocks(card.levels))
        and type(card.format) is int
    )


def _are_blocks(names: Any) -> bool:
    """Whether they are names of a body's modules, each once."""
    return (
        isinstance(names, list)
        and all(isinstance(name, str) and _is_plain(name) for name in names)
        and len(names) == len(set(names)) <= 1000
    )


def _are_three(values: Any, low: float, high: float) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(_is_between(v, low, high) for v in values)
    )


def _is_between(value: Any, low: float, high: float) -> bool:
    """Whether a value is a float in the range; NaN is not."""
    return isinstance(value, float) and low <= value <= high


def short_digests(digests: Sequence[str]) -> NDArray[np.uint64]:
    """The first 8 bytes of SHA-1s in hex: among a million patches, the chance that two agree is about 1e-7."""
    return np.array([int(digest[:16], 16) for digest in digests], np.uint64)


def name_digests(names: Sequence[str]) -> NDArray[np.uint64]:
    """Digests of the names of slides or patients, sorted; of each name once."""
    digests = [hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest() for name in names]
    return np.unique(short_digests(digests))


def parse_trained(data: bytes, path: Path) -> NDArray[np.uint64]:
    """The uint64 [N] of a .npy file; its header is checked before memory is allocated."""
    return np.frombuffer(_array_bytes(data, path, np.dtype(np.uint64), ()), np.uint64)


def parse_near(data: bytes, path: Path, length: int) -> NDArray[np.uint8]:
    """The uint8 [N, length] of a .npy file, read with the same care."""
    found = np.frombuffer(_array_bytes(data, path, np.dtype(np.uint8), (length,)), np.uint8)
    return found.reshape(-1, length)


def _array_bytes(data: bytes, path: Path, kind: np.dtype[Any], row: tuple[int, ...]) -> bytes:
    file = io.BytesIO(data)
    try:
        np.lib.format.read_magic(file)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception:  # numpy evaluates the header as Python: it can raise anything
        raise HistoError(f"{path} is damaged") from None
    rest = data[file.tell() :]
    rows, left = divmod(len(rest), kind.itemsize * math.prod(row))
    if dtype != kind or fortran or left or shape != (rows, *row):
        raise HistoError(f"{path} is damaged")
    return rest
