"""How many of some labels flipped on purpose `histo review` finds, against ranking by loss alone."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np


def flipped(labels: list[str], share: float, seed: int) -> list[int]:
    """Rows drawn by the seed, `share` per cent of all."""
    count = round(len(labels) * share / 100)
    return sorted(np.random.default_rng(seed).choice(len(labels), count, replace=False).tolist())


def write_flipped(source: Path, out: Path, share: float, seed: int) -> set[str]:
    """Copy a CSV of ids and two labels with some labels flipped; returns the ids of those."""
    with source.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    vocab = sorted({row["label"] for row in rows})
    chosen = flipped([row["label"] for row in rows], share, seed)
    for row in (rows[n] for n in chosen):
        row["label"] = vocab[1 - vocab.index(row["label"])]
    with out.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerows([["id", "label"], *([row["id"], row["label"]] for row in rows)])
    return {rows[n]["id"] for n in chosen}
