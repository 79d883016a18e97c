"""How long 1,000 slides take on 8 GPUs by `histo map`'s sharing, simulated: no slide is read.

    python benchmarks/slide_sharing.py [--rate 5000] [--read 3200] [--cores 8]

Process I of N maps every N-th slide of the list. Slides have 2,000 to 60,000 tiles (log-normal, median
12,000), which is what slides of 20 to 600 mm² of tissue have at 93 µm a tile.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

SLIDES, GPUS, ROUNDS = 1000, 8, 200
START, SLIDE = 2.0, 1.5
"""Seconds of a process before its first tile, and of each slide beside its tiles: mask, page, files."""


def seconds_each(tiles: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """Seconds of each slide at `rate` tiles a second."""
    return np.asarray(SLIDE + tiles / rate, np.float64)


def in_turns(seconds: NDArray[np.float64]) -> float:
    """Every N-th slide: the seconds until the last process is done."""
    return START + float(max(seconds[n::GPUS].sum() for n in range(GPUS)))


def as_they_come_free(seconds: NDArray[np.float64]) -> float:
    """The next slide to whoever is free: a queue, which histo does not have."""
    free = np.zeros(GPUS)
    for one in seconds:
        free[free.argmin()] += one
    return START + float(free.max())


def main() -> None:
    """Parse, simulate, say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=5000, help="tiles a second of a GPU")
    parser.add_argument("--read", type=float, default=3200, help="tiles a second that a core reads")
    parser.add_argument("--cores", type=float, default=8, help="cores for each GPU")
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    rate = min(asked.rate, asked.read * asked.cores)
    rows = []
    for _ in range(ROUNDS):
        tiles = np.clip(rng.lognormal(np.log(12_000), 0.8, SLIDES), 2000, 60_000)
        seconds = seconds_each(tiles, rate)
        best = START + seconds.sum() / GPUS
        computing = float(tiles.sum() / rate / GPUS)
        rows.append([in_turns(seconds) / best, as_they_come_free(seconds) / best, computing, best])
    turns, queue, computing, best = np.array(rows).T
    print(
        f"{rate:,.0f} tiles/s a GPU: {best.mean():.0f} s at best, {computing.mean():.0f} s of it tiles"
    )
    print(f"every 8th slide: {turns.mean():.3f} of that (worst of {ROUNDS}: {turns.max():.3f})")
    print(f"a queue:         {queue.mean():.3f} of that (worst of {ROUNDS}: {queue.max():.3f})")
    print(f"reading keeps up to {asked.read * asked.cores:,.0f} tiles/s with {asked.cores:g} cores")


if __name__ == "__main__":
    main()
