"""Any bytes are a card, weights or a list of hashes, or a HistoError: `just fuzz card SECONDS`.

The first byte says which of the three files of a bundle the others are. A traceback, more than 1 GB
or more than 20 seconds stops it, with the bytes in a file `crash-…`.
"""

from __future__ import annotations

import io
import json
import random
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["histo", "json"]):
    from histo.config import ModelCard
    from histo.errors import HistoError
    from histo.files.limits import CLASSES, is_name
    from histo.model.card import CARD, FORMAT, WEIGHTS, parse_trained, read_card
    from histo.model.weights import check_shapes, read_weights

import numpy as np
import torch
from safetensors.torch import save

CORPUS = Path(__file__).parent / "corpus" / "card"
FLAGS = ("-max_len=4096", "-rss_limit_mb=1000", "-timeout=20")
SHAPES = {"0.weight": (2, 3), "0.bias": (2,)}
FOLDER = Path(tempfile.mkdtemp())


def seeds() -> dict[str, bytes]:
    """A sound file of each of the three kinds, by name."""
    card = ModelCard("squeezenet1_1", ["0", "1"], 48, None, 32, [0.5] * 3, [0.25] * 3)
    files = dict.fromkeys((WEIGHTS, "model.onnx"), "0" * 64)
    facts = {"format": FORMAT, **asdict(card), "files": files, "bytes": {WEIGHTS: 1234}}
    weights = save({name: torch.zeros(shape) for name, shape in SHAPES.items()})
    trained = io.BytesIO()
    np.save(trained, np.arange(4, dtype=np.uint64))
    return {
        "card": b"\0" + json.dumps(facts).encode(),
        "weights": b"\1" + weights,
        "trained": b"\2" + trained.getvalue(),
    }


def read(data: bytes) -> None:
    """One input."""
    kind, data = data[:1], data[1:]
    try:
        if kind == b"\1":
            (FOLDER / WEIGHTS).write_bytes(data)
            check_shapes(FOLDER / WEIGHTS, SHAPES)
            assert {
                name: tuple(t.shape) for name, t in read_weights(FOLDER / WEIGHTS).items()
            } == SHAPES
        elif kind == b"\2":
            assert 8 * len(parse_trained(data, FOLDER / "trained.npy")) < len(data)
        else:
            (FOLDER / CARD).write_bytes(data)
            check(*read_card(FOLDER))
    except HistoError:
        return


HOSTILE = (
    *(None, True, -1, 0, 2**63, 10**400, 1e308, float("nan"), float("inf")),
    *("", "..", "/etc/passwd", "\ud800", "\x1b[2J", "a" * 300, [], {}, [[]], ["a", "a"], [0.5] * 3),
)


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """A change of bytes, or in every second card of a value."""
    rng = random.Random(seed)
    if data[:1] == b"\0" and rng.random() < 0.5:
        with suppress(ValueError, RecursionError):
            facts = json.loads(data[1:])
            if isinstance(facts, dict) and facts:
                facts[rng.choice(sorted(facts))] = rng.choice(HOSTILE)
                return b"\0" + json.dumps(facts).encode()[: most - 1]
    return bytes(atheris.Mutate(data, most))


def check(card: ModelCard, facts: dict[str, object]) -> None:
    """What holds for every card that is believed."""
    assert facts["format"] == FORMAT
    assert 2 <= len(card.vocab) <= CLASSES.value
    assert all(map(is_name, card.vocab))
    assert "/" not in card.arch
    assert all(0 < s < 1e3 and abs(m) < 1e3 for s, m in zip(card.std, card.mean, strict=True))
    assert 1 <= card.patch_size <= 8192


if __name__ == "__main__":
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, data in seeds().items():
        (CORPUS / name).write_bytes(data)
    atheris.Setup([sys.argv[0], str(CORPUS), *FLAGS, *sys.argv[1:]], read, custom_mutator=mutate)
    atheris.Fuzz()
