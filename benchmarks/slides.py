"""Tiles a second of `histo map` over a slide, in turns with TIAToolbox and LazySlide.

    python benchmarks/slides.py PATCHES FOLDER [--tiles 9312] [--rounds 3] [--turn TILES]
        [--bundle BUNDLE] [--tiatoolbox PYTHON] [--lazyslide PYTHON] [--out JSON]

PATCHES is a folder in Kaggle's layout (train/*.tif of 96 px), from which a slide of twice the
resolution is laid, each patch as often as needed. BUNDLE is one of ResNet18 at 96 px: histo is
measured with the fastest engine that its card vouches for, besides fp32. Each tool runs in processes of its own; --tiatoolbox
and --lazyslide name the Pythons of environments that have them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from slide_rivals import cpu_seconds

SIDE, MARGIN, SCALE, MPP = 96, 4, 2, 0.972
PACKAGES = ("onnxruntime", "openslide-python", "openslide-bin", "numpy", "torch")


def write_slide(patches: Path, path: Path, tiles: int) -> Path:
    """A mosaic of about so many patches in a margin of glass, as a pyramid of JPEG tiles."""
    import cv2
    import numpy as np
    import tifffile

    files = sorted((patches / "train").glob("*.tif"))
    columns = round(tiles**0.5)
    rows = tiles // columns
    shape = ((rows + 2 * MARGIN) * SIDE * SCALE, (columns + 2 * MARGIN) * SIDE * SCALE, 3)
    canvas = np.full(shape, 243, np.uint8)
    step = SIDE * SCALE
    for n in range(rows * columns):
        patch = cv2.imread(str(files[n % len(files)]))
        assert patch is not None
        y, x = (n // columns + MARGIN) * step, (n % columns + MARGIN) * step
        large = cv2.resize(patch[..., ::-1], (step, step), interpolation=cv2.INTER_CUBIC)
        canvas[y : y + step, x : x + step] = large
    level, density = canvas, 1e4 * SCALE / MPP
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        while True:
            tiff.write(
                level,
                tile=(256, 256),
                compression="jpeg",
                compressionargs={"level": 92, "outcolorspace": "rgb"},
                photometric="rgb",
                resolution=(density, density),
                resolutionunit="CENTIMETER",
                subfiletype=int(level is not canvas),
                metadata=None,
            )
            if min(level.shape[:2]) < 1024:
                return path
            half = (level.shape[1] // 2, level.shape[0] // 2)
            level, density = cv2.resize(level, half, interpolation=cv2.INTER_AREA), density / 2


def write_model(folder: Path) -> Path:
    """A bundle of ResNet18, weights at random: they cost no time."""
    import torch

    from histo.config import ModelCard
    from histo.model.bundle import write_bundle
    from histo.model.network import make_model

    torch.manual_seed(0)
    mean, sd = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    names = ["normal", "tumour"]
    card = ModelCard("resnet18", names, SIDE, None, None, mean, sd, positive="tumour", mpp=MPP)
    write_bundle(folder, make_model(card), card, {}, pickled=False)
    return folder


def histo(bundle: Path, slide: Path, precision: str) -> dict[str, Any]:
    """The whole of `histo map`, in this process: every file written, the page too."""
    from histo.slides.slide_files import find_slides

    began = time.perf_counter()
    from histo.commands.map import map_to
    from histo.model.predictor import open_bundle
    from histo.screen import Screen

    find_slides([slide])
    engine = open_bundle(bundle, "cpu", precision).engine.name
    imports = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        began, used = time.perf_counter(), cpu_seconds()
        out = Path(folder) / "maps"
        map_to(bundle, [slide], out, Screen(quiet=True), precision=precision)
        seconds, cpu = time.perf_counter() - began, cpu_seconds() - used
        row = json.loads((out / slide.stem / "slide.json").read_text())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    took = {"seconds": seconds, "cpu_seconds": cpu, "imports": imports}
    return {"tiles": row["tiles"], "engine": engine, **took, "peak_mb": peak}


def parts(bundle: Path, slide: Path, tiles: int) -> dict[str, Any]:
    """Of one process: tiles read and computed, computed alone, and read alone, in turns of `tiles`.

    Each by the second and by the CPU second, which a machine with other work leaves comparable.
    """
    import numpy as np

    from histo.model.predictor import open_bundle
    from histo.screen import Screen
    from histo.slides.grid import in_blocks, make_grid
    from histo.slides.journal import Journal
    from histo.slides.reader import open_slide
    from histo.slides.tile_predictions import predict_tiles
    from histo.slides.tissue import find_tissue
    from histo.slides.tissue_tiles import tissue_tiles

    predictor = open_bundle(bundle, "cpu")
    batch = np.random.default_rng(0).integers(0, 256, (64, SIDE, SIDE, 3), dtype=np.uint8)
    predictor.predict(batch)
    with open_slide(slide) as opened:
        grid = make_grid(opened.end, opened.bounds, MPP / opened.mpp, SIDE)
        tissue = find_tissue(opened)
        places = in_blocks(grid, tissue_tiles(grid, tissue.mask, tissue.pixel))[:tiles]

        def over(predict: Any) -> None:
            with tempfile.TemporaryDirectory() as folder, Screen(quiet=True).bar("", 0) as advance:
                journal = Journal(Path(folder), "k", 2)
                predict_tiles(opened, grid, places, predict, journal, 64, advance)

        def alone() -> None:
            for start in range(0, len(places), len(batch)):
                predictor.predict(batch[: len(places) - start])

        works: dict[str, Callable[[], None]] = {
            "alone": alone,
            "map": lambda: over(lambda tiles: predictor.predict(tiles).probabilities),
            "reading": lambda: over(lambda tiles: np.zeros((len(tiles), 2))),
        }
        rounds = []
        for _ in range(5):
            rates = {}
            for name, work in works.items():
                began, used = time.perf_counter(), time.process_time()
                work()
                seconds, cpu = time.perf_counter() - began, time.process_time() - used
                rates[name] = {"seconds": len(places) / seconds, "cpu_seconds": len(places) / cpu}
            rounds.append(rates)
    shares = {
        clock: median(one["map"][clock] / one["alone"][clock] for one in rounds)
        for clock in ("seconds", "cpu_seconds")
    }
    return {"rounds": rounds, "share_of_the_model_alone": shares}


def first_tile(bundle: Path, slide: Path) -> float:
    """Seconds from the start of a process to its first batch of probabilities."""
    code = (
        "import sys, time\n"
        "from histo.slides import journal\n"
        "def add(self, rows): print(time.time(), flush=True); sys.exit()\n"
        "journal.Journal.add = add\n"
        "from histo.cli import main\n"
        "main()\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        words = [str(bundle), str(slide), "--out", f"{folder}/maps"]
        command = [sys.executable, "-c", code, "map", *words]
        began = time.time()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(next(line for line in done.stdout.splitlines() if line[:1].isdigit())) - began


def ran(*words: object) -> dict[str, Any]:
    """A process that prints JSON in its last line."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    """Parse, make what is needed, measure in turns, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("patches", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiles", type=int, default=9312)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turn", type=int, help="tiles of a turn of the parts")
    parser.add_argument("--tiatoolbox", type=Path)
    parser.add_argument("--lazyslide", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--what", default="")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    slide = asked.folder / f"mosaic-{asked.tiles}.tiff"
    bundle = asked.folder / "resnet18"
    if asked.what in ("fp32", "auto"):
        print(json.dumps(histo(asked.bundle or bundle, slide, asked.what)))
        return
    if asked.what == "parts":
        print(json.dumps(parts(bundle, slide, asked.turn or asked.tiles)))
        return
    asked.folder.mkdir(parents=True, exist_ok=True)
    if not slide.is_file():
        write_slide(asked.patches, slide, asked.tiles)
    if not bundle.is_dir():
        write_model(bundle)
    measure(asked, slide, bundle)


def measure(asked: argparse.Namespace, slide: Path, bundle: Path) -> None:
    """All tools in turns, then the parts of histo; say it and write it."""
    again = [sys.executable, __file__, asked.patches, asked.folder, "--tiles", asked.tiles]
    again += ["--turn", asked.turn] if asked.turn else []
    rivals = Path(__file__).with_name("slide_rivals.py")
    again += ["--bundle", asked.bundle] if asked.bundle else []
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(asked.rounds):
        for precision in ("fp32", "auto") if asked.bundle else ("fp32",):
            row = ran(*again, "--what", precision)
            found.setdefault(f"histo {precision}", []).append(row)
        for name in ("tiatoolbox", "lazyslide"):
            if python := getattr(asked, name):
                found.setdefault(name, []).append(ran(python, rivals, name, slide))
        for name, rows in found.items():
            one = rows[-1]
            rates = [one["tiles"] / one[clock] for clock in ("seconds", "cpu_seconds")]
            print(f"{name}: {rates[0]:.0f} tiles/s, {rates[1]:.0f} a CPU second", flush=True)
    whole = {
        "date": date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in PACKAGES},
        "settings": {
            "arch": "resnet18",
            "side": SIDE,
            "mpp": MPP,
            "scale": SCALE,
            "tiles": asked.tiles,
        },
        "tools": found,
        "parts": ran(*again, "--what", "parts"),
        "first_tile_seconds": [first_tile(bundle, slide) for _ in range(5)],
    }
    print(json.dumps({name: whole[name] for name in ("parts", "first_tile_seconds")}))
    if asked.out:
        asked.out.write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    main()
