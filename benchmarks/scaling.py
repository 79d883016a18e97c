"""What several processes gain on one machine, and where the rest goes.

uv run python benchmarks/scaling.py [--processes 2] [--arch resnet50] [--patches 320] [--rounds 3]

Each process has one thread on a CPU, or one GPU. A batch is --batch-size patches for each process,
so that each has as much to do however many there are. In turn:

* one process;
* several that know nothing of each other: what they lose is memory, caches and clock;
* several that train one model: what they lose beyond that is the exchange of gradients and the
  waiting for the slowest.

The simulation draws each batch's load and step from those that one process showed, lets every
process wait for the slowest, adds the exchange, and is held against the measured figure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import torch.distributed as dist
import typer

from common import QUIET, Bench, Data, write_results
from histo.data.synth import write_dataset
from histo.distributed import ranks
from histo.model.device import resolve_device
from histo.training.batch_norm import SMALL_SHARE, share_batch_norm
from histo.training.callbacks import Watch
from histo.training.data_parallel import DataParallel
from histo.training.recorder import METRICS
from rivals import wait

Facts = dict[str, Any]


def train(folder: Path, arch: str, batch_size: int, device: torch.device) -> Facts:
    """The part of one process in an epoch, after one to warm up: seconds, and those of each batch."""
    bench, world = Bench(folder, Data.read(folder), 1, device), ranks.world_size()
    learn = bench.learner(bench.data, arch, None, batch_size=batch_size * world)
    if world > 1 and batch_size < SMALL_SHARE:
        share_batch_norm(learn.model)
    dls = learn.dls
    seconds: list[float] = []

    def keep(learn: Any, epoch: Any) -> None:
        learn.recorder.report(dict.fromkeys(METRICS, 0.0))
        seconds.append(epoch.train_seconds)

    learn.add_cb(Watch(lambda: None, keep))
    if world > 1:
        learn.add_cb(DataParallel())
    learn.fit(2, 1e-4)
    loads = timed(iter(dls.train))
    return {
        "patches": dls.train.n,
        "seconds": seconds[-1],
        "loads": loads,
        "steps": [seconds[-1] / len(loads) - load for load in loads],
        "exchange": exchange(sum(p.numel() for p in learn.model.parameters()), device),
    }


def timed(batches: Any) -> list[float]:
    """The seconds that each batch takes to come."""
    found, start = [], time.perf_counter()
    for _ in batches:
        found.append(time.perf_counter() - start)
        start = time.perf_counter()
    return found


def exchange(count: int, device: torch.device) -> float:
    """The seconds of one sum of gradients over all processes, in the buckets that DDP makes."""
    if ranks.world_size() == 1:
        return 0.0
    parts = torch.split(torch.zeros(count, device=device), 25 * 2**20 // 4)
    found = []
    for _ in range(5):
        ranks.barrier()
        start = time.perf_counter()
        for part in parts:
            dist.all_reduce(part)
        wait(device)
        found.append(time.perf_counter() - start)
    return median(found)


def child(folder: Path, arch: str, batch_size: int, device: str, out: Path) -> None:
    """One process: what it found goes into a file."""
    where = resolve_device(device)
    if where.type == "cpu":
        torch.set_num_threads(1)
    with ranks.process_group():
        facts = train(folder, arch, batch_size, where)
    out.with_suffix(f".{ranks.rank()}").write_text(json.dumps(facts))


def run(words: list[str], out: Path, world: int, apart: int = 1) -> list[Facts]:
    """`apart` launches of `world` processes each, at once."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    command = [sys.executable, "-W", "ignore", *(launcher if world > 1 else []), __file__, *words]
    outs = [out.with_name(f"{out.name}-{number}.json") for number in range(apart)]
    there = torch.cuda.device_count()
    each = [
        {**environment, "CUDA_VISIBLE_DEVICES": str(n)} if there and apart > 1 else environment
        for n in range(apart)
    ]
    started = [
        subprocess.Popen([*command, "--child", str(path)], env=own, stderr=subprocess.DEVNULL)
        for path, own in zip(outs, each, strict=True)
    ]
    if any(process.wait() for process in started):
        raise SystemExit("a process failed")
    return [
        json.loads(path.with_suffix(f".{rank}").read_text())
        for path in outs
        for rank in range(world)
    ]


def simulate(one: Facts, world: int, exchanged: float, slower: float, seed: int = 0) -> float:
    """Seconds of an epoch of `world` processes: each batch is as slow as the slowest share."""
    draw = np.random.default_rng(seed)
    count = len(one["loads"])
    loads = draw.choice(one["loads"], (count, world))
    steps = draw.choice(one["steps"], (count, world))
    return float(((loads + steps) * slower).max(1).sum() + count * exchanged)


def main(
    processes: int = 2,
    arch: str = "resnet50",
    patches: Annotated[int, typer.Option(help="For each process.")] = 320,
    batch_size: Annotated[int, typer.Option(help="For each process.")] = 32,
    rounds: int = 3,
    device: str = "auto",
    out: Path = Path("benchmarks/results/scaling.json"),
    child_out: Annotated[Path | None, typer.Option("--child", hidden=True)] = None,
    folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure, print, write a JSON file."""
    if child_out and folder:
        child(folder, arch, batch_size, device, child_out)
        return
    rows: dict[str, list[float]] = {"one": [], "apart": [], "together": [], "simulated": []}
    exchanges = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for world in (1, processes):
            write_dataset(place / str(world), patches * world * 5 // 4, 0, QUIET)
        for number in range(rounds):

            def go(key: str, world: int, apart: int = 1, number: int = number) -> list[Facts]:
                data = str(place / str(world))
                words = ["--folder", data, "--arch", arch, "--device", device]
                words += ["--batch-size", str(batch_size)]
                found = run(words, place / f"{key}-{number}", world, apart)
                whole = sum(f["patches"] for f in found) / (world if world > 1 else 1)
                rows[key].append(whole / max(f["seconds"] for f in found))
                return found

            one = go("one", 1)[0]
            go("apart", 1, processes)
            both = go("together", processes)
            exchanges.append(max(f["exchange"] for f in both))
            slower = processes * rows["one"][-1] / rows["apart"][-1]
            seconds = simulate(one, processes, exchanges[-1], slower)
            rows["simulated"].append(both[0]["patches"] / seconds)
    names = {
        "one": "one process",
        "apart": f"{processes} processes that know nothing of each other",
        "together": f"{processes} processes that train one model",
        "simulated": f"{processes} processes, simulated",
    }
    for key, values in rows.items():
        rate = median(values)
        print(
            f"  {names[key]:48} {rate:10,.1f} patches/s {rate / median(rows['one']):6.2f} times one"
        )
    print(f"  one exchange of gradients: {median(exchanges):.3f} s")
    write_results(
        out,
        resolve_device(device),
        {"arch": arch, "processes": processes, "batch_size": batch_size, "patches": patches},
        "patches a second; seconds for one exchange",
        patches_per_second=rows,
        exchange=exchanges,
    )


if __name__ == "__main__":
    typer.run(main)
