"""`histo serve` under load, against `histo predict` of the same patches, in turns.

    python benchmarks/serving.py BUNDLE PATCHES FOLDER [--files 1 8 32] [--out JSON]

Clients on the loopback, in this process, so on the same cores: each keeps a connection and sends a
request (`POST /api/predict` with some files) as soon as the one before is answered; after a 429 it
waits as Retry-After says. The servers are processes of `histo serve`, started as a user starts them.
FOLDER holds links to the patches, under as many names as there are predictions. Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from common import CPU, write_results
from load_client import Client, Load, bodies, sent_by

TOKEN = "a-token-of-the-benchmark"
TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
EVERY = 1.0
"""Seconds between two looks at the memory."""
FEW = 64
"""Patches whose prediction is mostly the start of a process."""

MANY = 400
"""Clients, more than the server's queue has places."""


@dataclass
class Server:
    """A running `histo serve`."""

    process: subprocess.Popen[str]
    port: int
    memory: list[float] = field(default_factory=list)
    """resident MB, every second"""

    def cpu(self) -> float:
        """CPU seconds of the process until now."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    async def watch(self) -> None:
        """Look at the memory until this is cancelled."""
        while True:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
            self.memory.append(round(pages * PAGE / 1e6, 1))
            await asyncio.sleep(EVERY)


def main() -> None:
    """Parse, measure in turns, write."""
    asked = parsed()
    folder = Path(asked.folder)
    patches = link_patches(Path(asked.patches), folder / "patches", asked.predictions)
    link_patches(Path(asked.patches), folder / "few", FEW)
    served = folder / "served"
    shutil.copytree(asked.bundle, served / "bundle", dirs_exist_ok=True)
    found: dict[str, Any] = {"predict": [], "serve": [], "ratio": {}}
    for turn in range(asked.rounds):
        found["predict"].append(predict(asked, folder / "patches", folder / "few"))
        for files in asked.files:
            found["serve"].append(serve_once(asked, served, patches, files))
            print(turn, found["predict"][-1], found["serve"][-1], sep="\n", flush=True)
    alone = median(each["patches_per_second"] for each in found["predict"])
    for files in asked.files:
        rows = [each for each in found["serve"] if each["files"] == files]
        rate = median(each["patches_per_second"] for each in rows)
        found["ratio"][str(files)] = round(rate / alone, 3)
    found["more_clients_than_places"] = serve_once(asked, served, patches, 8, MANY)
    found["sigterm"] = sigterm(asked, served, patches)
    if asked.minutes:
        found["long"] = serve_long(asked, served, patches)
    print(json.dumps({key: found[key] for key in ("ratio", "sigterm")}))
    places = {"bundle", "patches", "folder", "out"}  # of the machine
    settings = {key: str(value) for key, value in vars(asked).items() if key not in places}
    units = "patches and requests a second, seconds, resident MB"
    write_results(Path(asked.out), CPU, settings, units, **found)


def parsed() -> argparse.Namespace:
    """What is measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("patches", help="a folder of patches, taken again and again")
    parser.add_argument("folder", help="where links, tables and the served folder go")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--predictions", type=int, default=10_000)
    parser.add_argument("--files", type=int, nargs="+", default=[1, 8, 32], help="of one request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--minutes", type=float, default=0, help="of load, for the memory")
    parser.add_argument("--out", default="benchmarks/results/serving-cpu.json")
    return parser.parse_args()


def link_patches(source: Path, folder: Path, count: int) -> list[Path]:
    """As many names of the patches of a folder as are to be predicted."""
    files = sorted(path for path in source.rglob("*.*") if path.suffix != ".csv")
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for n in range(count):
        path = folder / f"{n:06d}{files[n % len(files)].suffix}"
        if not path.exists():
            path.symlink_to(files[n % len(files)].resolve())
        found.append(path)
    return found


def predict(asked: argparse.Namespace, many: Path, few: Path) -> dict[str, float]:
    """Patches a second of `histo predict`, with its start and without it."""
    whole, cpu = timed_predict(asked, many)
    start, start_cpu = timed_predict(asked, few)
    count = asked.predictions - FEW
    return {
        "patches_per_second": round(count / max(0.001, whole - start), 1),
        "with_start": round(asked.predictions / whole, 1),
        "cpu_seconds": round(cpu - start_cpu, 2),
        "seconds": round(whole, 2),
    }


def timed_predict(asked: argparse.Namespace, patches: Path) -> tuple[float, float]:
    """Seconds, and CPU seconds, of one `histo predict`."""
    table = Path(asked.folder) / "predictions.csv"
    table.unlink(missing_ok=True)
    words = [*("predict", asked.bundle, str(patches), "--out", str(table)), *how(asked)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "histo", *words], check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def how(asked: argparse.Namespace) -> list[str]:
    """Device and precision, the same for both."""
    return ["--device", "cpu", "--precision", asked.precision]


@contextmanager
def serving(asked: argparse.Namespace, folder: Path) -> Iterator[Server]:
    """`histo serve` in a process of its own, at a free port."""
    words = ["serve", str(folder), "--port", "0", "--no-browser", *how(asked)]
    process = subprocess.Popen(
        [sys.executable, "-m", "histo", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HISTO_TOKEN": TOKEN},
    )
    try:
        assert process.stdout
        line = re.search(r"http://127\.0\.0\.1:(\d+)/\?token=", process.stdout.readline())
        assert line
        yield Server(process, int(line[1]))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def serve_once(
    asked: argparse.Namespace, folder: Path, patches: Sequence[Path], files: int, clients: int = 0
) -> dict[str, Any]:
    """All predictions once, by requests of so many files."""
    sending = bodies(patches, files)
    with serving(asked, folder) as server:
        found = asyncio.run(under_load(server, clients or asked.clients, sending, 0))
    return {"files": files, "clients": clients or asked.clients, **found}


def serve_long(asked: argparse.Namespace, folder: Path, patches: Sequence[Path]) -> dict[str, Any]:
    """The same load for minutes: the memory at intervals."""
    sending = bodies(patches, 8)
    with serving(asked, folder) as server:
        found = asyncio.run(under_load(server, asked.clients, sending, 60 * asked.minutes))
    return {"minutes": asked.minutes, **found}


async def under_load(
    server: Server, clients: int, sending: Sequence[bytes], seconds: float
) -> dict[str, Any]:
    """Send all requests once, or again and again for some seconds."""
    first = await sent_by(1, server.port, TOKEN, sending[:1], 0)  # opens the model
    assert first.patches
    watching, cpu = asyncio.create_task(server.watch()), server.cpu()
    own = time.process_time()
    load = await sent_by(clients, server.port, TOKEN, sending, seconds)
    cpu, own = server.cpu() - cpu, time.process_time() - own
    watching.cancel()
    return {
        **figures(load),
        "cpu_seconds": round(cpu, 2),
        "client_cpu_seconds": round(own, 2),
        "memory": thinned(server.memory),
    }


def figures(load: Load) -> dict[str, Any]:
    """Rates, and how long the answered requests took."""
    ends = quantiles(load.seconds, n=100) if len(load.seconds) > 1 else [0.0] * 99
    return {
        "patches": load.patches,
        "requests": len(load.seconds),
        "patches_per_second": round(load.patches / load.wall, 1),
        "requests_per_second": round(len(load.seconds) / load.wall, 1),
        "p50": round(ends[49], 3),
        "p99": round(ends[98], 3),
        "status_429": load.refused,
        "failed": dict(load.failed),
    }


def thinned(values: Sequence[float], most: int = 30) -> list[float]:
    """Some of the values, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(n * (len(values) - 1) / (most - 1))] for n in range(most)]


def sigterm(asked: argparse.Namespace, folder: Path, patches: Sequence[Path]) -> dict[str, Any]:
    """SIGTERM while a request of every client is under way: how many of them are answered."""
    sending = bodies(patches, 8)[: asked.clients]
    with serving(asked, folder) as server:
        return asyncio.run(ended(server, sending))


async def ended(server: Server, sending: Sequence[bytes]) -> dict[str, Any]:
    """Send all, wait until the server has begun with all of them, end it, and count the answers."""
    await sent_by(1, server.port, TOKEN, sending[:1], 0)
    asking, looking = Load(), Client(server.port, TOKEN)
    clients = [Client(server.port, TOKEN) for _ in sending]
    tasks = [asyncio.create_task(c.ask(b, asking)) for c, b in zip(clients, sending, strict=True)]
    while (inside := await looking.waiting()) + len(asking.seconds) < len(sending):
        await asyncio.sleep(0.02)
    before, start = len(asking.seconds), time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*tasks)
    status = await asyncio.to_thread(server.process.wait, 90)
    return {
        "requests": len(sending),
        "answered_before": before,
        "under_way": inside,
        "answered": len(asking.seconds),
        "lost": dict(asking.failed),
        "seconds_to_end": round(time.perf_counter() - start, 2),
        "exit_status": status,
    }


if __name__ == "__main__":
    main()
