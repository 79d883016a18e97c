"""Everything of histo that is to be measured on a GPU: one command, under nine minutes, no download.

uv run python benchmarks/gpu.py [--out DIR] [--small]

Each part is measured on synthetic patches and written as soon as it is known, so that neither an
error in one part nor the end of the time loses the others: DIR/gpu-NAME.json, NAME that of the
GPU, DIR/gpu-NAME.md, and the same tables between the marks in README.md beside this file. `--small`
runs every part at its smallest on whatever is here, as the tests do on a CPU.
"""

from __future__ import annotations

import re
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer

import gpu_parts as parts
from common import Bench, Tables, write_results
from gpu_tables import put_between_marks, tables_of
from histo.model.device import describe_device, resolve_device

SECONDS = 480
"""No part starts later than this; the slowest takes less than the minute that is left."""


def measure(sizes: parts.Sizes, bench: Bench) -> dict[str, Callable[[], Tables]]:
    """The parts by name: the most wanted first, as the time may not be enough for all."""
    return {
        "training": lambda: parts.training(bench, sizes),
        "precision": lambda: parts.precisions(bench, sizes),
        "batch sizes": lambda: parts.batch_sizes(bench, sizes),
        "loading": lambda: parts.loading(bench, sizes),
        "resume": lambda: parts.cut_and_resumed(bench, sizes),
        "prediction": lambda: parts.prediction(bench, sizes),
        "compile": lambda: parts.compiled(bench, sizes),
        "recorder": lambda: parts.recorders(sizes),
        "processes": lambda: parts.processes(bench, sizes),
    }


def main(
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("benchmarks/results"),
    device: str = "auto",
    small: Annotated[
        bool, typer.Option("--small", help="Try every part, measure nothing.")
    ] = False,
    part: Annotated[list[str] | None, typer.Option(help="Only this part; may be repeated.")] = None,
    readme: Annotated[Path, typer.Option(help="Where the tables also go.")] = Path(
        "benchmarks/README.md"
    ),
) -> None:
    """Measure, print, write."""
    warnings.simplefilter("ignore")
    began, where = time.monotonic(), resolve_device(device)
    sizes = parts.SMALL if small else parts.FULL
    tables: Tables = {}
    errors: dict[str, str] = {}
    seconds: dict[str, float] = {}
    name = re.sub(r"\W+", "-", name_of(where)).strip("-").lower()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.make(Path(folder), sizes.files, sizes.rounds, where)
        sizes = parts.fitted(bench, sizes)
        for each, work in measure(sizes, bench).items():
            if part and each not in part:
                continue
            start = time.monotonic()
            if start - began > SECONDS:
                errors[each] = "left out: the time was over"
                continue
            try:
                tables |= work()
            except Exception as error:
                traceback.print_exc()
                errors[each] = f"{type(error).__name__}: {error}"[:300]
            seconds[each] = time.monotonic() - start
            print(f"{each}: {seconds[each]:.0f} s{' FAILED' if each in errors else ''}", flush=True)
            write_results(
                out / f"gpu-{name}.json",
                where,
                {"sizes": vars(sizes), "seconds": seconds, "errors": errors},
                "patches a second where a table's title names no unit",
                tables=tables,
            )
            text = tables_of(tables, errors, describe_device(where))
            (out / f"gpu-{name}.md").write_text(text, encoding="utf-8")
    print(text)
    if where.type == "cuda" and not small:
        put_between_marks(readme, text)
    raise typer.Exit(int(bool(errors)))


def name_of(device: torch.device) -> str:
    """The name of the GPU, or the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


if __name__ == "__main__":
    typer.run(main)
