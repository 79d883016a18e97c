"""Kill cuts and maps at random moments, go on with them, and hold their files against an unbroken one's.

    python -m tests.kills_slides FOLDER [--kills 20] [--seed 0] [--commands cut,cut-zip,map]

Each life is a whole command that ends by SIGKILL; a call follows until one ends by itself.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from tests.kills import ended, start
from tests.slides.made import write_slide
from tests.writes_slides import GOLDEN, MPP, SIDE, preload, write_slides

TIMED = ("slide.json", "slides.csv", "lock")
"""Files that hold the seconds it took, or nothing."""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that must not differ."""
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name not in TIMED]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def prepare(folder: Path) -> dict[str, list[str]]:
    """Slides that take a while, their annotations, and the words of each command."""
    write_slides(folder)
    for name, seed in (("s1", 0), ("s2", 1), ("s3", 2)):
        noise = np.random.default_rng(seed).integers(60, 200, (36, 36, 3), dtype=np.uint8)
        pixels = cv2.resize(noise, (12 * SIDE, 12 * SIDE), interpolation=cv2.INTER_LINEAR)
        write_slide(folder / "slides" / f"{name}.tif", pixels, MPP)
    shutil.copy(folder / "notes" / "s1.geojson", folder / "notes" / "s3.geojson")
    notes = ["--annotations", f"{folder / 'notes'}", "--mpp", f"{MPP}", "--size", f"{SIDE}"]
    cut = ["cut", f"{folder / 'slides'}", *notes, "--background", "n", "--stride", f"{SIDE // 2}"]
    mapped = ["map", f"{GOLDEN}", f"{folder / 'slides'}", "--mpp", f"{MPP}", "--hdf5"]
    return {
        "cut": cut,
        "cut-zip": [*cut, "--no-files"],
        "map": [*mapped, "--stride", f"{SIDE // 2}"],
    }


def live(words: list[str], out: Path, within: float) -> int | None:
    """One life of a command: its exit status; None where it was killed after `within` seconds."""
    child = start([*words, "--out", str(out)], out.with_suffix(".log"))
    status = ended(child, within)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    elif status:
        raise SystemExit(f"{words[0]}: exit status {status}: {out.with_suffix('.log').read_text()}")
    return status


def killed_alike(words: list[str], folder: Path, kills: int, rng: random.Random) -> tuple[int, int]:
    """Kill a command `kills` times over several lives; how many ends there were, and how many alike."""
    whole = folder / "whole"
    begun = time.monotonic()
    live(words, whole, 600)
    life, expected = time.monotonic() - begun, contents(whole)
    ends = alike = done = 0
    while done < kills:
        out = folder / f"killed{ends}"
        few = rng.randint(1, 4)  # then one is let go, so that a late kill meets an early one's rest
        for _ in range(few):
            done += live(words, out, rng.uniform(0, life)) is None
        live(words, out, 600)
        ends += 1
        alike += contents(out) == expected
        shutil.rmtree(out)
    return ends, alike


def main() -> None:
    """Parse, run, say a line a command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default="cut,cut-zip,map")
    asked = parser.parse_args()
    preload()
    shutil.rmtree(asked.folder, ignore_errors=True)
    asked.folder.mkdir(parents=True)
    commands, good = prepare(asked.folder), True
    for name in asked.commands.split(","):
        place = asked.folder / name
        place.mkdir()
        rng = random.Random(asked.seed)
        ends, alike = killed_alike(commands[name], place, asked.kills, rng)
        good = good and ends == alike
        print(f"{name}: {asked.kills} kills or more, {alike} of {ends} ends alike", flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
