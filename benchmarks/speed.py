"""How fast histo is beside stock fastai, the published notebook and the bare machine.

uv run python benchmarks/speed.py [PART …] [--patches N] [--rounds N] [--data DIR --weights FILE]

Parts: loading, training, prediction, startup; quality (needs --data, real patches in Kaggle's
layout, and --weights for the body); growth (takes minutes at its largest size).
checkpoint (what one costs, and of training at one in five minutes); profile (a training step by
operator, in fp32 and bf16).
Without a part: the first four, and quality where --data is given.
Synthetic patches of 96 px are drawn into a temporary folder. Alternatives take turns within a
round, so that a slow minute slows them all; figures are medians over the rounds.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer

import parts as measure
from common import Bench, Tables, write_results
from growth import growth
from histo.model.device import resolve_device
from step_profile import step_profile

PARTS = (
    "loading",
    "training",
    "prediction",
    "startup",
    "quality",
    "growth",
    "checkpoint",
    "profile",
)


def show(tables: Tables) -> None:
    """Medians, each beside the first of its table."""
    for title, rows in tables.items():
        first = median(next(iter(rows.values())))
        print(f"\n{title}")
        for name, values in rows.items():
            value = median(values)
            print(f"  {name:48} {value:12,.3f}   first is {first / value:.2f} times")


def main(
    part: Annotated[list[str] | None, typer.Argument(help=", ".join(PARTS))] = None,
    patches: Annotated[int, typer.Option(min=160, help="Synthetic patches.")] = 640,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    arch: Annotated[list[str], typer.Option()] = ["squeezenet1_1", "resnet50"],  # noqa: B006
    device: str = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile histo's model.")] = False,
    data: Annotated[Path | None, typer.Option(help="Real patches for quality.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Their body's weights.")] = None,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="The notebook's epochs.")] = 20,
    sizes: str = "4000,40000,220000",
    processor: Annotated[
        bool, typer.Option(help="Time by the processor, not the clock: one thread, a busy machine.")
    ] = False,
    out: Path = Path("benchmarks/results/speed.json"),
) -> None:
    """Measure, print a table, write a JSON file."""
    warnings.simplefilter("ignore")
    wanted = part or [*PARTS[:4], *(["quality"] if data else [])]
    if unknown := set(wanted) - set(PARTS):
        raise typer.BadParameter(f"no part {', '.join(unknown)}: there are {', '.join(PARTS)}")
    if "quality" in wanted and data is None:
        raise typer.BadParameter("quality needs --data, a folder of real patches")
    where = resolve_device(device)
    if processor:
        time.perf_counter = time.process_time
        torch.set_num_threads(1)
    tables: Tables = {}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench.make(Path(name), patches, rounds, where)
        if "loading" in wanted:
            tables |= measure.loading(bench)
        for model in arch:
            # a CPU takes ten times as long for a ResNet50
            most = patches // 5 if where.type == "cpu" and model == "resnet50" else patches
            if "training" in wanted:
                tables |= measure.training(bench, model, most, compiled)
            if "checkpoint" in wanted:
                tables |= measure.checkpointing(bench, model)
            if "profile" in wanted:
                tables |= step_profile(bench, model)
            if "prediction" in wanted:
                tables |= measure.prediction(bench, model, most)
        if "startup" in wanted:
            tables |= measure.startup(bench)
        if data and "quality" in wanted:
            tables |= measure.quality(bench, data, arch[0], weights, seeds, epochs)
        if "growth" in wanted:
            tables |= growth(bench, [int(size) for size in sizes.split(",")], arch[0])
    show(tables)
    write_results(
        out,
        where,
        {"patches": patches, "rounds": rounds, "compile": compiled, "seeds": seeds}
        | {"seconds": "of the processor, one thread" if processor else "of the clock"},
        "patches a second where a table's title names no unit; start-up in seconds",
        tables=tables,
    )


if __name__ == "__main__":
    typer.run(main)
