"""Several processes of one launch, on this machine, forked from one that has imported all.

    python -m tests.launched FOLDER [--kills 20] [--most 4] [--seed 0]

trains with 1, 2 and 4 processes, kills one of two again and again, and prints the results.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import torch

import histo.commands.train  # all that the processes use, imported before they are forked
import histo.training.single  # noqa: F401
from histo.data.synth import write_dataset
from histo.data.transforms import ToInput
from histo.distributed import ranks
from histo.model import gradcam
from histo.screen import Screen
from histo.training import recipe
from histo.training.callbacks import Watch
from histo.training.prepare import Job
from tests.conftest import rows_of
from tests.kills import ended, start

PATCHES = 203
APART_BY = 1e-6
"""Predictions of several processes, from those of one."""
TRAIN = ("--weights", "none", "--device", "cpu", "--batch-size", "16", "--epochs", "1")
TRAIN += ("--precision", "fp32")
PLAIN = ("--arch", "squeezenet1_1", "--lr", "1e-4")
NORMED = ("--arch", "resnet18", "--lr", "1e-4", "--size", "32")
APART = ("--batch-size", "64")
"""32 patches a process: each normalises by its own"""
MINUTE = 60.0


def exactly() -> None:
    """No dropout, whose masks the shares of a batch do not have in common, and all in float64.

    In float32 the last digit of a small gradient may reverse a whole step of Adam; here several
    processes must agree with one to far more digits than that hides.
    """
    torch.nn.Dropout.forward = lambda self, x: x  # type: ignore[method-assign]
    change, make = ToInput.change, recipe.make_learner

    def make_learner(*given: Any) -> Any:
        learn = make(*given[:4])
        learn.model.double()
        return learn

    recipe.make_learner = make_learner
    gradcam.save_gradcam = lambda *given: None  # works in float32
    ToInput.change = lambda self, patches: change(self, patches).double()  # type: ignore[method-assign]


BEFORE_FIT, AFTER_VALIDATE = Watch.before_fit, Watch.after_validate


def write_losses(file: Path) -> None:
    """Have rank 0 write the losses of all batches of an epoch, before they are dropped."""

    def after_validate(self: Watch) -> None:
        if self.running and ranks.rank() == 0:
            file.write_text(json.dumps([float(loss) for loss in self.losses]))
        AFTER_VALIDATE(self)

    Watch.after_validate = after_validate  # type: ignore[method-assign]


def check_every(batches: int) -> None:
    """Have several processes agree on a pause once in so many batches, as on GPUs."""

    def before_fit(self: Watch) -> None:
        BEFORE_FIT(self)
        self.every = batches

    Watch.before_fit = before_fit  # type: ignore[method-assign]


def launch(words: list[str], world_size: int, logs: Path) -> list[int]:
    """Fork the processes of a launch, each a whole `histo` command line; their process ids."""
    logs.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return [
        start(
            words, logs / f"{rank}.log", variables(rank, world_size, port) if world_size > 1 else {}
        )
        for rank in range(world_size)
    ]


def variables(rank: int, world_size: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets for each of its processes."""
    places = dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(world_size))
    return {**places, **sizes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def ends(children: list[int], within: float) -> list[int]:
    """The exit statuses, negative where a signal ended one; 99 for one that had to be ended here."""
    deadline = time.monotonic() + within
    found = [ended(child, deadline - time.monotonic()) for child in children]
    for child, status in zip(children, found, strict=True):
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return [99 if status is None else status for status in found]


def trained(folder: Path, name: str, world_size: int, *options: str) -> dict[str, object]:
    """One whole training: statuses, losses of all batches, the table, what was printed."""
    run, losses = folder / name, folder / f"{name}.json"
    write_losses(losses)
    words = ["train", str(folder / "data"), "--out", str(run), *TRAIN, *options]
    statuses = ends(launch(words, world_size, folder / f"{name}.logs"), 600)
    logs = [path.read_text() for path in sorted((folder / f"{name}.logs").iterdir())]
    assert not any(statuses), "\n".join(logs)
    table = rows_of(run / "predictions.csv")
    return {
        "statuses": statuses,
        "losses": json.loads(losses.read_text()),
        "ids": [row["id"] for row in table],
        "p": [float(row["p_1"]) for row in table],
        "logs": logs,
    }


def killed(folder: Path, name: str, draw: random.Random) -> dict[str, object]:
    """Two processes, one killed in mid-epoch; then one goes on alone to the end."""
    run, logs = folder / name, folder / f"{name}.logs"
    words = ["train", str(folder / "data"), "--out", str(run), *TRAIN, *PLAIN]
    children = launch([*words, "--checkpoint-minutes", "0"], 2, logs)
    wait_for(run / "checkpoint" / "last.safetensors")
    time.sleep(draw.random())
    victim = draw.randrange(2)
    os.kill(children[victim], signal.SIGKILL)
    start = time.monotonic()
    statuses = ends(children, 2 * MINUTE)
    seconds = time.monotonic() - start
    said = (logs / f"{1 - victim}.log").read_text().splitlines()
    again = launch(["train", "--resume", str(run)], 1, folder / f"{name}.again")
    return {
        "victim": victim,
        "statuses": statuses,
        "seconds": seconds,
        "errors": [line for line in said if line.startswith("error")],
        "resumed": ends(again, 600),
        "p": [float(row["p_1"]) for row in rows_of(run / "predictions.csv")],
    }


def stopped(folder: Path, name: str) -> dict[str, Any]:
    """Two processes that agree on a pause once an epoch, asked to stop by SIGTERM."""
    run, logs = folder / name, folder / f"{name}.logs"
    words = ["train", str(folder / "data"), "--out", str(run), *TRAIN, *PLAIN, "--epochs", "50"]
    check_every(50)
    children = launch(words, 2, logs)
    Watch.before_fit = BEFORE_FIT  # type: ignore[method-assign]
    wait_for(run / "checkpoint" / "last.safetensors")
    for child in children:
        os.kill(child, signal.SIGTERM)
    statuses = ends(children, MINUTE)
    return {"statuses": statuses, "logs": [path.read_text() for path in sorted(logs.iterdir())]}


def wait_for(file: Path) -> None:
    """Return when a file is there."""
    begun = time.monotonic()
    while not file.is_file():
        assert time.monotonic() - begun < 5 * MINUTE, f"no {file.name} came"
        time.sleep(0.01)


def prepare(folder: Path) -> None:
    """The data; one thread a process, however many cores others take."""
    torch.set_num_threads(1)
    write_dataset(folder / "data", PATCHES, 0, Screen(quiet=True))
    exactly()


def main() -> None:
    """All of it, into FOLDER/result.json, and a line for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--most", type=int, default=4, help="processes")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    folder, draw = asked.folder, random.Random(asked.seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    prepare(folder)
    found = {
        f"plain-{n}": trained(folder, f"plain-{n}", n, *PLAIN) for n in (1, 2, 4) if n <= asked.most
    }
    found |= {f"normed-{n}": trained(folder, f"normed-{n}", n, *NORMED) for n in (1, 2)}
    found["apart-2"] = trained(folder, "apart-2", 2, *NORMED, *APART)
    fp32 = Job.validated_in_fp32
    Job.validated_in_fp32 = False  # type: ignore[assignment, method-assign]  # as on a GPU
    found["anew-2"] = trained(folder, "anew-2", 2, *NORMED, *APART)
    Job.validated_in_fp32 = fp32  # type: ignore[method-assign]
    found["stopped"] = stopped(folder, "stopped")
    for number in range(asked.kills):
        found[f"killed-{number}"] = killed(folder, f"killed-{number}", draw)
    (folder / "result.json").write_text(json.dumps(found))
    for name, facts in found.items():
        first = name.partition("-")[0]
        whole = found[{"normed": "normed-1", "anew": "apart-2"}.get(first, "plain-1")]
        apart = max(abs(a - b) for a, b in zip(whole["p"], facts.get("p", whole["p"]), strict=True))
        print(name, facts["statuses"], f"predictions apart by {apart:.1e}", facts.get("errors", ""))
        if apart > APART_BY and first != "apart":  # its batch norm is not that of one process
            raise SystemExit(f"{name}: predictions are not those of one process")


if __name__ == "__main__":
    main()
