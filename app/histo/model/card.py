"""The card of a bundle: read, bounded and checked, without torch."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.config import ModelCard
from histo.errors import HistoError
from histo.run import read_json

FORMAT = 1
CARD = "model.json"
WEIGHTS = "model.safetensors"
ONNX = "model.onnx"
LEARNER = "learner.pkl"
TRAINED = "trained.npy"
"""The first 8 bytes of the SHA-1 of every patch the model was trained or chosen on, uint64 sorted."""


@dataclass(frozen=True)
class Onnx:
    """How to call model.onnx: uint8 RGB [N, S, S, 3] in, probabilities float32 [N, C] out."""

    opset: int
    input: str = "patches"
    output: str = "probabilities"


def sha256(path: Path) -> str:
    """SHA-256 of a file in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_card(folder: Path) -> tuple[ModelCard, dict[str, Any]]:
    """The card of a bundle and all its facts; HistoError where it is none or of a later format."""
    if not folder.is_dir():
        raise HistoError(f"no bundle {folder}")
    path = folder / CARD
    facts = read_json(path)
    if not isinstance(facts, dict) or not isinstance(facts.get("files"), dict):
        raise HistoError(f"{path} is not the card of a bundle (histo export RUN writes one)")
    if facts.get("format") != FORMAT:
        raise HistoError(
            f"{path} is of format {facts.get('format')!r}; this histo reads {FORMAT} (update histo)"
        )
    return parse_card(facts, path), facts


def parse_card(facts: dict[str, Any], path: Path) -> ModelCard:
    """The model's part of a card, its types and bounds checked."""
    try:
        needed = {f.name for f in fields(ModelCard) if f.default is MISSING}
        known = {f.name for f in fields(ModelCard) if f.name in facts}
        card = ModelCard(**{name: facts[name] for name in needed | known})
        sides = [card.patch_size, card.head, *(x for x in (card.crop, card.size) if x is not None)]
        good = (
            bool(re.fullmatch(r"[\w.\-/]{1,100}", card.arch))
            and len(card.vocab) == len(set(card.vocab)) >= 2
            and all(isinstance(name, str) for name in card.vocab)
            and all(type(side) is int and 1 <= side <= 8192 for side in sides)
            and all(
                len(x) == 3 and all(isinstance(v, float) for v in x) for x in (card.mean, card.std)
            )
            and min(card.std) > 0
            and type(card.models) is int
            and 1 <= card.models <= 100
            and isinstance(card.temperature, float)
            and 0.01 <= card.temperature <= 100
            and isinstance(card.threshold, float)
            and 0 <= card.threshold <= 1.1
        )
    except (KeyError, TypeError):
        good = False
    if not good:
        raise HistoError(f"{path} is damaged: a value is missing or out of bounds")
    return card


def check_files(folder: Path, facts: dict[str, Any]) -> None:
    """Refuse a bundle of which any file that is there is not the one its card vouches for."""
    for name in (WEIGHTS, ONNX, LEARNER, TRAINED):
        path = folder / name
        if path.exists() and sha256(path) != facts["files"].get(name):
            raise HistoError(f"{path} is not the file its card vouches for (SHA-256)")


def short_digests(digests: Sequence[str]) -> NDArray[np.uint64]:
    """The first 8 bytes of SHA-1s in hex: of a million patches, two agree by chance once in 1e7."""
    return np.array([int(digest[:16], 16) for digest in digests], np.uint64)


def read_trained(folder: Path) -> NDArray[np.uint64] | None:
    """What `trained.npy` of a bundle holds; None where the bundle has none."""
    _, facts = read_card(folder)
    if TRAINED not in facts["files"]:
        return None
    try:
        found = np.load(io.BytesIO(vouched(folder, TRAINED, facts)), allow_pickle=False)
    except (ValueError, EOFError):
        raise HistoError(f"{folder / TRAINED} is damaged") from None
    return np.asarray(found, np.uint64)


def vouched(folder: Path, name: str, facts: dict[str, Any]) -> bytes:
    """The bytes of a bundle's file, once the whole bundle is known to be what its card says."""
    check_files(folder, facts)
    try:
        data = (folder / name).read_bytes()
    except OSError:
        raise HistoError(f"{folder} has no readable {name}") from None
    if hashlib.sha256(data).hexdigest() != facts["files"].get(name):  # changed since
        raise HistoError(f"{folder / name} is not the file its card vouches for (SHA-256)")
    return data
