"""histo beside stock fastai, timm's train.py and ultralytics: the AUC that a given time of training buys.

    python benchmarks/training_rivals.py DATA FOLDER --weights FOLDER --out RESULTS.jsonl
        [--timm PYTHON --timm-script train.py] [--ultralytics PYTHON] [--fastai PYTHON]
        [--network NAME …] [--seconds 30,60,120] [--seeds 1]
    python benchmarks/training_rivals.py --table --out RESULTS.jsonl

DATA is a folder in Kaggle's layout; FOLDER gets the same split for all, as PNG files without
compression. Each tool trains in processes of its own, by its defaults and once tuned, in as many
patches as its rate allows in so many seconds of training: the rate is measured first, and again
in each training. Validation, start-up and decoding ahead are not in those seconds. Schedules
are whole: an epoch is made as long as needed, by fewer patches or by links to some of them twice.
Each training appends a line to RESULTS.jsonl at once; what is there is not run again.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from sklearn.metrics import roc_auc_score

from training_rival_tools import Job

TRIAL = 480
"""Patches of an epoch when a rate is measured first."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A tool with a network; `frozen` epochs of the head alone come first."""

    tool: str
    network: str
    weights: str
    tuned: bool = False
    frozen: int = 0

    @property
    def name(self) -> str:
        """As it is called in the table."""
        return f"{self.tool}, tuned" if self.tuned else self.tool


LITE0 = ("tf_efficientnet_lite0", "tf_efficientnet_lite0-imagenet.safetensors")
SQUEEZENET = ("squeezenet1_1", "squeezenet1_1-imagenet.safetensors")
YOLO = ("yolo26n-cls", "")  # its pretrained weights are a download: random ones
ENTRIES = (
    Entry("histo", *LITE0),
    Entry("fastai", *LITE0, frozen=1),
    Entry("fastai", *LITE0, tuned=True, frozen=1),
    Entry("timm", *LITE0),
    Entry("timm", *LITE0, tuned=True),
    Entry("histo", *SQUEEZENET, frozen=1),
    Entry("ultralytics", *SQUEEZENET),
    Entry("ultralytics", *SQUEEZENET, tuned=True),
    Entry("ultralytics", *YOLO),
    Entry("ultralytics", *YOLO, tuned=True),
)


@dataclass(frozen=True)
class Bench:
    """Where everything is."""

    folder: Path
    weights: Path
    out: Path
    pythons: dict[str, Path]
    script: Path | None

    def rows(self) -> list[Row]:
        """The trainings done."""
        text = self.out.read_text() if self.out.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def add(self, row: Row) -> None:
        """Keep a training."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with self.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


# ------------------------------------------------------------------- patches


def write_split(data: Path, folder: Path) -> None:
    """train/CLASS/ID.png and val/CLASS/ID.png: histo's own split by seed 0.

    Pillow, which timm and fastai read with, is fastest with PNG that is not compressed, of the
    formats that all take.
    """
    from common import Data

    patches = Data.read(data)
    beside = folder.with_suffix(".part")
    for path, label, valid in zip(patches.paths, patches.labels, patches.valid, strict=True):
        file = beside / ("val" if valid else "train") / str(label) / f"{path.stem}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("RGB").save(file, compress_level=0)
    beside.rename(folder)


def link_patches(split: Path, folder: Path, count: int, seed: int) -> None:
    """All validation patches, and `count` to train on: some of them, or some of them twice or more."""
    files = sorted(split.glob("train/*/*.png"))
    order = np.random.default_rng(seed).permutation(len(files))
    chosen = [(files[order[n % len(files)]], n // len(files)) for n in range(count)]
    links = [(file, f"{file.stem}-{time}.png" if time else file.name) for file, time in chosen]
    links += [(file, file.name) for file in sorted(split.glob("val/*/*.png"))]
    rows = []
    for file, name in links:
        side, label = file.parts[-3:-1]
        to = folder / side / label / name
        to.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, to)
        rows.append((f"{side}/{label}/{name}", label, side))
    with (folder / "labels.csv").open("w", newline="") as table:
        csv.writer(table).writerows([("id", "label", "split"), *rows])


# ------------------------------------------------------------------- trainings


def train(bench: Bench, entry: Entry, budget: int, seed: int, epochs: int, patches: int) -> Row:
    """A training in a process and a folder of its own; its row, with rates and AUC."""
    own = bench.folder / "run"
    shutil.rmtree(own, ignore_errors=True)
    link_patches(bench.folder / "split", own / "data", patches, seed)
    weights = str(bench.weights / entry.weights) if entry.weights else ""
    script = str(bench.script or "")
    job = Job(
        *(entry.tool, entry.tuned, entry.network, weights, str(own / "data"), str(own)),
        *(epochs, seed, script),
    )
    (own / "job.json").write_text(json.dumps(asdict(job)))
    tools = Path(__file__).with_name("training_rival_tools.py")
    begun = time.perf_counter()
    with (bench.folder / "log.txt").open("w") as log:
        command = [str(bench.pythons[entry.tool]), str(tools), str(own / "job.json")]
        done = subprocess.run(
            command, stdout=log, stderr=log, env=environment(entry), check=False, cwd=own
        )
    if done.returncode:
        raise SystemExit((bench.folder / "log.txt").read_text()[-3000:])
    process = time.perf_counter() - begun
    found = json.loads((own / "result.json").read_text())
    row = asdict(entry) | {"seconds_given": budget, "seed": seed, "epochs": epochs}
    row |= {"patches": patches, **found, **rates(entry, found["spent"])}
    row |= {"auc": auc(own), "process_seconds": round(process, 1)}
    row |= {"date": time.strftime("%Y-%m-%d %H:%M"), "cores": os.cpu_count()}
    row |= {"machine": f"{platform.system()} {platform.machine()}"}
    shutil.rmtree(own)
    return row


def environment(entry: Entry) -> dict[str, str]:
    """No limit on threads, so that each tool takes its own; no network; histo's source for histo."""
    left_out = {"OMP_NUM_THREADS"} | ({"PYTHONPATH"} if entry.tool != "histo" else set())
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"HF_HUB_OFFLINE": "1"}


def rates(entry: Entry, spent: list[tuple[int, float]]) -> dict[str, float]:
    """Seconds of training, and patches a second of the frozen epochs and of the others."""
    parts = {"frozen_rate": spent[: entry.frozen], "rate": spent[entry.frozen :]}
    found = {
        name: sum(n for n, _ in part) / sum(s for _, s in part)
        for name, part in parts.items()
        if part
    }
    return {"seconds": round(sum(s for _, s in spent), 2)} | {
        k: round(v, 1) for k, v in found.items()
    }


def auc(folder: Path) -> float:
    """Of the validation patches, from the predictions that the tool's process left."""
    with (folder / "predictions.csv").open(newline="") as table:
        scores = {name: float(score) for name, score in csv.reader(table)}
    files = sorted((folder / "data").glob("val/*/*.png"))
    assert len(files) == len(scores)
    labels = [int(file.parent.name) for file in files]
    return round(float(roc_auc_score(labels, [scores[file.stem] for file in files])), 4)


def plan(row: Row, seconds: int, whole: int) -> tuple[int, int]:
    """How many epochs, of how many patches, take so many seconds at the rates of an earlier row.

    An epoch is as close to `whole` patches as it can be.
    """
    head = row["frozen"] / row["frozen_rate"] if row["frozen"] else 0.0
    room = (seconds - startup(row) - head * whole) * row["rate"] / whole
    epochs = max(1, round(room))
    return epochs, int((seconds - startup(row)) / (head + epochs / row["rate"]))


def startup(row: Row) -> float:
    """Seconds that the first epoch took longer than the later ones, if it was not another kind."""
    (patches, first), rest = row["spent"][0], row["spent"][1:]
    if row["frozen"] or not rest:
        return 0.0
    later = sum(s for _, s in rest) / sum(n for n, _ in rest)
    return max(0.0, float(first - patches * later))


def measure(bench: Bench, entries: list[Entry], seconds: list[int], seeds: int) -> None:
    """Every training that is not there, the tools in turns."""
    whole = len(list((bench.folder / "split").glob("train/*/*.png")))
    for seed in range(seeds):
        for budget in seconds:
            for entry in entries:
                mine = [r for r in bench.rows() if r.items() >= asdict(entry).items()]
                if (seed, budget) in {(row["seed"], row["seconds_given"]) for row in mine}:
                    continue
                if not mine:
                    mine.append(train(bench, entry, 0, 0, 2, TRIAL))
                    bench.add(mine[0])
                epochs, patches = plan(mine[-1], budget, whole)
                row = train(bench, entry, budget, seed, epochs, patches)
                bench.add(row)
                print(
                    f"{entry.network}, {entry.name}, {budget} s, seed {seed}: {epochs} epochs of "
                    f"{patches:,} patches in {row['seconds']:.1f} s ({row['process_seconds']:.0f} s "
                    f"in all), {row['rate']:.0f} patches/s, AUC {row['auc']:.4f}",
                    flush=True,
                )


# ------------------------------------------------------------------- table


def lines(rows: list[Row]) -> Iterator[str]:
    """A Markdown table: medians over the seeds."""
    rows = [row for row in rows if row["seconds_given"]]
    budgets = sorted({row["seconds_given"] for row in rows})
    heads = [f"AUC in {n} s" for n in budgets] + ["seconds taken", "whole processes, s"]
    yield f"| network | tool | patches/s | {' | '.join(heads)} |"
    yield f"|---|---|{'---:|' * (len(heads) + 1)}"
    for entry in ENTRIES:
        mine = [row for row in rows if row.items() >= asdict(entry).items()]
        if not mine:
            continue
        by = {n: [row for row in mine if row["seconds_given"] == n] for n in budgets}
        cells = [f"{median(row['auc'] for row in own):.3f}" if own else "" for own in by.values()]
        for key in ("seconds", "process_seconds"):
            each = [f"{median(r[key] for r in own):.0f}" if own else "-" for own in by.values()]
            cells.append(", ".join(each))
        rate = median(row["rate"] for row in mine)
        which = f"{entry.name} ({mine[-1]['versions'][entry.tool]})"
        yield f"| {entry.network} | {which} | {rate:.0f} | {' | '.join(cells)} |"


def main(
    data: Annotated[Path | None, typer.Argument()] = None,
    folder: Annotated[Path | None, typer.Argument()] = None,
    out: Annotated[Path, typer.Option(help="JSON lines; goes on where it stopped.")] = Path(
        "benchmarks/results/training-rivals.jsonl"
    ),
    weights: Annotated[Path | None, typer.Option(help="Folder of the bodies' weights.")] = None,
    timm: Annotated[Path | None, typer.Option(help="The Python of its environment.")] = None,
    timm_script: Annotated[Path | None, typer.Option(help="train.py of its repository.")] = None,
    ultralytics: Annotated[Path | None, typer.Option()] = None,
    fastai: Annotated[Path, typer.Option()] = Path(sys.executable),
    network: Annotated[list[str] | None, typer.Option(help="Only these.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only these tools: `timm`, or `timm, tuned`.")
    ] = None,
    seconds: str = "30,60,120",
    seeds: Annotated[int, typer.Option(min=1)] = 1,
    table: Annotated[bool, typer.Option("--table", help="Only print what is there.")] = False,
) -> None:
    """Measure what is missing; print a table."""
    pythons = {"histo": Path(sys.executable), "fastai": fastai}
    pythons |= {"timm": timm} if timm and timm_script else {}
    pythons |= {"ultralytics": ultralytics} if ultralytics else {}
    if not table:
        if not (data and folder and weights):
            raise typer.BadParameter("give DATA, FOLDER and --weights, or --table")
        folder = folder.resolve()
        if not (folder / "split").is_dir():
            write_split(data, folder / "split")
        script = timm_script.resolve() if timm_script else None
        bench = Bench(folder, weights.resolve(), out, pythons, script)
        entries = [
            entry
            for entry in ENTRIES
            if entry.tool in pythons
            and entry.network in (network or [entry.network])
            and (not only or {entry.tool, entry.name} & {*only})
        ]
        measure(bench, entries, [int(each) for each in seconds.split(",")], seeds)
    rows = Bench(Path(), Path(), out, {}, None).rows()
    print("\n".join(lines(rows)))


if __name__ == "__main__":
    typer.run(main)
