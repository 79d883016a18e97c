"""Peak memory and seconds of store, training and prediction as the data grows.

Every size is a folder of real files: hard links to as many synthetic patches as were drawn, each
under a name of its own, so that 220,000 patches of 96 px take the disk of a few thousand.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time

from common import Bench, Tables, card_of
from histo.data.labels import read_labels
from histo.model.bundle import write_bundle
from histo.model.network import make_model

STORE = """
import sys
from pathlib import Path
from histo.data.patch_files import PatchIndex
from histo.data.store import open_store
from histo.pixels.fit import Fit
from histo.screen import Screen
folder = Path(sys.argv[1])
open_store(PatchIndex(folder / "train").paths, folder / ".histo", Fit(), Screen(quiet=True))
"""


def growth(bench: Bench, sizes: list[int], arch: str) -> Tables:
    """One table of seconds and one of MB, for each size."""
    found: Tables = {}
    source = sorted((bench.folder / "train").iterdir())
    labels = {row.id: row.label for row in read_labels(bench.folder / "train_labels.csv")}
    bundle = bench.folder / "bundle-growth"
    write_bundle(bundle, make_model(card_of(arch)), card_of(arch), {})
    for size in sizes:
        folder = bench.folder / f"growth-{size}"
        room = 2 * size * 96 * 96 * 3
        if shutil.disk_usage(bench.folder).free < room:
            print(f"{size:,} patches: left out, {room / 1e9:.1f} GB are not free")
            continue
        images = folder / "train"
        images.mkdir(parents=True)
        with (folder / "train_labels.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["id", "label"])
            for n in range(size):
                patch = source[n % len(source)]
                os.link(patch, images / f"{n:07d}{patch.suffix}")
                table.writerow([f"{n:07d}", labels[patch.stem]])
        run, out = folder / "run", folder / "p.csv"
        histo = [sys.executable, "-m", "histo"]
        where = ["--arch", arch, "--weights", "none", "--epochs", "1", "--out", str(run)]
        commands = {
            "store": [sys.executable, "-c", STORE, str(folder)],
            "train, one epoch": [*histo, "train", str(folder), *where],
            "predict": [*histo, "predict", str(bundle), str(images), "--out", str(out)],
        }
        for name, command in commands.items():
            seconds, memory = measure(command)
            found.setdefault(f"{name}, seconds", {})[f"{size:,} patches"] = [seconds]
            found.setdefault(f"{name}, peak MB", {})[f"{size:,} patches"] = [memory]
            print(f"{size:,} patches, {name}: {seconds:.0f} s, {memory:,.0f} MB", flush=True)
        shutil.rmtree(folder)
    return found


WATCHER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss)
sys.exit(status != 0)
"""
"""Starts a process from a small one: a child's peak counts from that of the process that forked."""


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds and peak resident memory in MB of a process."""
    start = time.perf_counter()
    watcher = [sys.executable, "-S", "-c", WATCHER, *command]
    done = subprocess.run(watcher, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - start, int(done.stdout) / 1024
