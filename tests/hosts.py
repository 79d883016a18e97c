"""Two hosts, each a network namespace of this machine: one training on both, and the line cut.

    sudo python -m tests.hosts FOLDER

Linux only, as root: `ip netns` makes the hosts and the line between them, `torchrun --nnodes 2`
starts a process on each. In the second training the line is cut within an epoch; one host then goes on alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from histo.data.synth import write_dataset
from histo.screen import Screen
from tests.conftest import rows_of
from tests.launched import MINUTE, PATCHES, PLAIN, TRAIN

HOSTS = ("histo-a", "histo-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = "29571"


def ip(*words: str) -> None:
    """One `ip` command."""
    subprocess.run(["ip", *words], check=True)


def connect() -> None:
    """Make both hosts and the line between them."""
    ip("link", "add", "veth-a", "type", "veth", "peer", "name", "veth-b")
    for host, address in zip(HOSTS, ADDRESSES, strict=True):
        ip("netns", "add", host)
        ip("link", "set", f"veth-{host[-1]}", "netns", host)
        ip("-n", host, "addr", "add", f"{address}/24", "dev", f"veth-{host[-1]}")
        ip("-n", host, "link", "set", f"veth-{host[-1]}", "up")
        ip("-n", host, "link", "set", "lo", "up")


def disconnect() -> None:
    """Remove the hosts, and the line with them."""
    for host in HOSTS:
        subprocess.run(["ip", "netns", "del", host], check=False, stderr=subprocess.DEVNULL)


def start(number: int, words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """One host's torchrun."""
    host, line = HOSTS[number], f"veth-{HOSTS[number][-1]}"
    launcher = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run"]
    launcher += ["--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(number)]
    launcher += ["--master-addr", ADDRESSES[0], "--master-port", PORT, "-m", "histo", *words]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": line, "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(
            ["ip", "netns", "exec", host, *launcher], env=environment, stdout=file, stderr=file
        )


def lines_of(log: Path) -> list[str]:
    """The lines in which histo says what is wrong."""
    return [line for line in log.read_text().splitlines() if line.startswith("error")]


def table_size(run: Path) -> int:
    """How many patches a run's table has; 0 where there is no table."""
    return len(rows_of(run / "predictions.csv")) if (run / "predictions.csv").is_file() else 0


def on_both(folder: Path, name: str, *options: str) -> tuple[Path, list[subprocess.Popen[bytes]]]:
    """Start a training on both hosts: its run folder and the launchers."""
    run = folder / name
    words = ["train", str(folder / "data"), "--out", str(run), *TRAIN, *PLAIN, *options]
    return run, [start(number, words, folder / f"{name}-{number}.log") for number in range(2)]


def main() -> None:
    """Both trainings; exits 1 where one does not end as it should."""
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_dataset(folder / "data", PATCHES, 0, Screen(quiet=True))
    disconnect()
    connect()
    try:
        run, hosts = on_both(folder, "whole")
        whole = [host.wait(600) for host in hosts]
        print("to the end:", whole, table_size(run), "patches in the table")

        cut, hosts = on_both(folder, "cut", "--checkpoint-minutes", "0", "--epochs", "4")
        while not (cut / "checkpoint" / "last.safetensors").is_file():
            time.sleep(0.05)
        ip("-n", HOSTS[1], "link", "set", "veth-b", "down")
        begun = time.monotonic()
        statuses, seconds = [], []
        for host in hosts:
            statuses.append(host.wait(10 * MINUTE))
            seconds.append(time.monotonic() - begun)
        said = [lines_of(folder / f"cut-{number}.log") for number in range(2)]
        print("cut:", statuses, [f"{s:.0f} s" for s in seconds], said)
    finally:
        disconnect()
    resume = [sys.executable, "-W", "ignore", "-m", "histo", "train", "--resume", str(cut)]
    alone = subprocess.run(resume, check=False, stdout=subprocess.DEVNULL).returncode
    print("alone to the end:", alone, table_size(cut), "patches in the table")
    right = whole == [0, 0] and statuses == [1, 1] and max(seconds) < MINUTE and alone == 0
    sys.exit(0 if right and all(len(lines) == 1 for lines in said) else 1)


if __name__ == "__main__":
    main()
