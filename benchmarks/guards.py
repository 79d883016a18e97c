"""What the guards of docs/security.md cost: the same work with each of them switched off in turn.

    python -W ignore benchmarks/guards.py [--small 4000] [--large 200000] [--rounds 3] [--out FILE]

The start of a training (up to its first batch), a prediction and a check, of small patches, so that
what is done for each patch weighs most. A process that has imported all forks one child for each piece
of work; guards are switched off in the child alone, by patching: histo has no option for it. Seconds
are those of the processor, user and system; the share is that of the whole command, its imports
included. With many patches all guards are switched off together, and prediction and check done once; at
the start of a training they are left on and timed, as some 0.3 of 11 seconds are less than the noise.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "tests" / "golden" / "bundle-2"
SIDE = 48
"""px, as that bundle takes them"""
ON, OFF = "with all guards", "without any"
Patches = Mapping[str, Callable[..., Any]]
Seconds = dict[str, list[float]]


def nothing(*_: Any, **__: Any) -> None:
    """A guard that is switched off."""


def read_all(path: Path, limit: object) -> bytes:
    """The bytes of a file, whatever it is."""
    return Path(path).read_bytes()


def unchecked(path: Path, name: str, facts: object) -> tuple[int, int, int]:
    """The stamp of a bundle's file, without its SHA-256 and size."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def at_once(bounded: Any, calls: Sequence[Callable[[], Any]], *_: Any) -> list[Any]:
    """Calls in this thread, and not in some that can be left behind."""
    return [call() for call in calls]


def blank_hashes(store: Any) -> Any:
    """No hashes of the patches' look."""
    from histo.data.similar import LENGTH, MOST

    return np.zeros((min(len(store), MOST), LENGTH), np.uint8)


READING = {"histo.data.decode:read_bytes": read_all}
START = "start of train"
GUARDS: dict[str, dict[str, Patches]] = {
    START: {
        "sample and notes of the store": {
            "histo.data.store:proven_rows": lambda path, index, rows, *_: rows,
            "histo.data.store:note": nothing,
        },
        "near-duplicates of the two sides": {"histo.data.dataset:say_near": nothing},
        "hashes of the patches' look": {"histo.training.recording:hashes_of": blank_hashes},
        "note of the run": {"histo.training.single:note_run": nothing},
    },
    "predict": {
        "outputs are no inputs": {"histo.commands.predict:check_outputs": nothing},
        "seals of the bundle": {"histo.model.bundle_files:_checked": unchecked},
        "bounds of the model": {"histo.model.bounded:Bounded._do": at_once},
        "files are files, within bounds": READING,
    },
    "check": {
        "outputs are no inputs": {"histo.commands.check:check_outputs": nothing},
        "files are files, within bounds": READING,
    },
}


def found_at(place: str) -> tuple[Any, str]:
    """What holds a guard, and its name in it; an error where histo no longer has such a guard."""
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *inner, name = path.split(".")
    for part in inner:
        owner = getattr(owner, part)
    getattr(owner, name)
    return owner, name


def switch_off(patches: Patches) -> None:
    """Put replacements in place."""
    for place, other in patches.items():
        setattr(*found_at(place), other)


def add_up(patches: Patches) -> list[float]:
    """A list to which each of these guards, left in place, will add the seconds that it took."""
    seconds: list[float] = []

    def timed(guard: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            before = time.process_time()
            try:
                return guard(*given, **named)
            finally:
                seconds.append(time.process_time() - before)

        return call

    for place in patches:
        owner, name = found_at(place)
        setattr(owner, name, timed(getattr(owner, name)))
    return seconds


def alternatives(work: str, each: bool) -> dict[str, Patches]:
    """All guards, none, and each switched off alone."""
    guards = GUARDS[work]
    none = {place: other for patches in guards.values() for place, other in patches.items()}
    alone = {f"without: {name}": patches for name, patches in guards.items()}
    return {ON: {}, OFF: none, **(alone if each else {})}


class Begun(BaseException):
    """The first batch of a training would be next."""


def do(work: str, data: Path, out: Path) -> None:
    """One piece of work, as its command does it."""
    import histo
    from histo.training import recipe

    if work == "check":
        histo.check(data, out=out / "checked")
    elif work == "predict":
        histo.predict(BUNDLE, data / "train", out=out / "p.csv", device="cpu")
    else:

        def begun(*_: Any) -> None:
            raise Begun

        recipe.fit = begun  # type: ignore[assignment]
        try:
            histo.train(
                *(data,), arch="squeezenet1_1", weights="none", precision="fp32", device="cpu",
                out=out / "run",
            )  # fmt: skip
        except Begun:
            return
        raise AssertionError("the training has not begun")


def seconds_of(
    work: str, patches: Patches, data: Path, summed: Patches | None = None
) -> tuple[float, float]:
    """Seconds of the processor that a child needs for a piece of work; of them in the `summed` guards."""
    out = Path(tempfile.mkdtemp(dir=data.parent))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            switch_off(patches)
            inside = add_up(summed or {})
            before = os.times()
            do(work, data, out)
            now = os.times()
            whole = now.user + now.system - before.user - before.system
            (out / "seconds").write_text(f"{whole} {sum(inside)}")
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"{work} failed, see above")
    whole, within = map(float, (out / "seconds").read_text().split())
    shutil.rmtree(out)
    return whole, within


def write_patches(folder: Path, count: int) -> Path:
    """Labelled patches of coloured noise, no two alike, as Kaggle lays them out."""
    import cv2

    (folder / "train").mkdir(parents=True)
    rng, plain = np.random.default_rng(0), [cv2.IMWRITE_TIFF_COMPRESSION, 1]
    with (folder / "train_labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "label"])
        for number in range(count):
            coarse = rng.integers(60, 220, (6, 6, 3), np.uint8)
            pixels = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            pixels += rng.integers(0, 20, pixels.shape, np.uint8)
            (folder / "train" / f"{number:07d}.tif").write_bytes(
                cv2.imencode(".tif", pixels, plain)[1].tobytes()
            )
            table.writerow([f"{number:07d}", number % 2])
    return folder


def import_all() -> float:
    """Import what the children use, start no thread; seconds of the processor that it took."""
    before = os.times()
    import cv2
    import fastai.vision.learner  # noqa: F401
    import onnxruntime  # noqa: F401
    import pandas  # noqa: F401
    import torch

    import histo.commands.check
    import histo.commands.predict
    import histo.commands.train
    import histo.data.loaders
    import histo.model.predictor
    import histo.report.figures
    import histo.training.recipe
    import histo.training.single  # noqa: F401

    now = os.times()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    return now.user + now.system - before.user - before.system


def shares(found: Seconds, imports: float) -> dict[str, float]:
    """The part of a whole command, in percent, that each guard takes by the medians."""
    on = median(found[ON])
    return {
        name: round(100 * (on - median(values)) / (imports + on), 2)
        for name, values in found.items()
        if name != ON
    }


def switched_off_in_turn(work: str, data: Path, rounds: int, each: bool) -> Seconds:
    """Seconds with and without guards."""
    found: Seconds = {name: [] for name in alternatives(work, each)}
    for number in range(rounds):
        turn = list(alternatives(work, each).items())
        for name, patches in turn if number % 2 == 0 else reversed(turn):
            found[name].append(seconds_of(work, patches, data)[0])
    return found


def timed_inside(work: str, data: Path, rounds: int) -> Seconds:
    """Seconds with all guards, and those less what is spent in them: nothing varies between the two."""
    every = alternatives(work, False)[OFF]
    found = [seconds_of(work, {}, data, every) for _ in range(rounds)]
    return {ON: [whole for whole, _ in found], OFF: [whole - inside for whole, inside in found]}


def measure(data: Path, count: int, rounds: int, each: bool, imports: float) -> dict[str, Any]:
    """Tables of one number of patches: seconds, and shares."""
    seconds_of(START, {}, data)  # decodes into the store, and reads all files once
    tables: dict[str, Any] = {}
    for work in GUARDS:
        if each or work != START:
            found = switched_off_in_turn(work, data, rounds if each else 1, each)
        else:
            found = timed_inside(work, data, rounds)
        tables[f"{work}, {count:,} patches"] = found
        print(f"{work}, {count:,} patches: {median(found[ON]):.2f} s of the processor")
        for name, share in shares(found, imports).items():
            print(f"    {name:45} {share:6.2f} % less")
        sys.stdout.flush()
    return tables


def main() -> None:
    """Parse, measure, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", type=int, default=4000)
    parser.add_argument("--large", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3, help="of many patches the start alone")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "guards.json")
    asked = parser.parse_args()
    folder, imports = Path(tempfile.mkdtemp(prefix="histo-guards-")), import_all()
    tables: dict[str, Any] = {}
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    begun = time.monotonic()
    try:
        for count, each in ((asked.small, True), (asked.large, False)):
            if count:
                data = write_patches(folder / f"data-{count}", count)
                tables |= measure(data, count, asked.rounds, each, imports)
                shutil.rmtree(data)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write(asked, tables, imports, time.monotonic() - begun)


def write(asked: argparse.Namespace, tables: dict[str, Any], imports: float, took: float) -> None:
    """The tables and shares as JSON."""
    from common import CPU, write_results

    units = "seconds of the processor; shares in percent of a command with its imports"
    facts = {"rounds": asked.rounds, "patch_size": SIDE, "imports": round(imports, 2)}
    found = {name: shares(values, imports) for name, values in tables.items()}
    settings = {**facts, "seconds": round(took)}
    write_results(asked.out, CPU, settings, units, shares=found, tables=tables)


if __name__ == "__main__":
    main()
