"""The write-walk (tests/writes.py) of the commands that read whole slides, and of shares.

python -m tests.writes_slides FOLDER [--commands cut,map] [--faults kill,full,broken,readonly] [--every 1]
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from histo.data.synth import write_dataset
from histo.screen import Screen
from tests.slides.made import tissue_slide, write_slide
from tests.writes import Command, asked_of, must, walk_all

GOLDEN = Path(__file__).parent / "golden" / "bundle-2"
"""Patches of 48 px, classes normal and tumour."""
SIDE, MPP = 48, 0.5


def preload() -> None:
    """Import what the children use, and nothing that starts threads."""
    import cv2
    import onnxruntime  # noqa: F401
    import openslide  # noqa: F401
    import pandas  # noqa: F401
    import shapely  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import tifffile  # noqa: F401

    cv2.setNumThreads(1)


def write_slides(folder: Path) -> None:
    """Two slides of textured tissue, with an annotation each."""
    (folder / "notes").mkdir(parents=True)
    (folder / "slides").mkdir()
    for name, seed in (("s1", 0), ("s2", 1)):
        pixels = tissue_slide(8 * SIDE, 8 * SIDE)
        noise = np.random.default_rng(seed).integers(-40, 40, pixels.shape)
        inside = pixels[..., 1] < 200
        pixels[inside] = (pixels + noise).clip(0, 255)[inside].astype(np.uint8)
        write_slide(folder / "slides" / f"{name}.tif", pixels, MPP)
        low, high = 2 * SIDE, 4 * SIDE
        ring = [[low, low], [high, low], [high, high], [low, high], [low, low]]
        drawn = {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"classification": {"name": "Tumor"}},
        }
        (folder / "notes" / f"{name}.geojson").write_text(json.dumps([drawn]))


def prepare(folder: Path) -> list[Command]:
    """The bases and the commands that are tried on them."""
    slides, patches = folder / "base-slides", folder / "base-patches"
    write_slides(slides)
    patches.mkdir()
    write_dataset(patches / "data", 24, 5, Screen(quiet=True), side=SIDE)
    labels = patches / "data" / "train_labels.csv"
    named = labels.read_text().replace(",0\n", ",normal\n").replace(",1\n", ",tumour\n")
    labels.write_text(named)  # as the bundle names them
    for base in (slides, patches):
        shutil.copytree(GOLDEN, base / "bundle")
    cut = ["cut", "slides", "--annotations", "notes", "--out", "data", "--background", "normal"]
    cut += ["--mpp", str(MPP), "--size", str(SIDE)]
    maps = ["map", "bundle", "slides", "--out", "maps", "--mpp", str(MPP), "--hdf5"]
    changed, mapped, shares = (folder / f"base-{name}" for name in ("changed", "mapped", "shares"))
    for base in (changed, mapped, shares):
        shutil.copytree(slides, base)
    must(cut, changed)
    drawn = (changed / "notes" / "s1.geojson").read_text()
    (changed / "notes" / "s1.geojson").write_text(drawn.replace(str(4 * SIDE), str(5 * SIDE)))
    must(maps, mapped)
    for number in "12":
        must([*maps, "--shard", f"{number}/2"], shares)
    predict = ["predict", "bundle", "data/train", "--out", "p.csv", "--shard", "1/2"]
    judged = ["evaluate", "bundle", "data", "--out", "judged", "--positive", "tumour"]
    return [
        Command("cut", cut, slides),
        Command("cut of changed annotations", cut, changed),
        Command("map", maps, slides),
        Command("map again", maps, mapped),
        Command("map --shard", [*maps, "--shard", "1/2"], slides),
        Command("merge of maps", ["merge", "maps"], shares),
        Command("predict --shard", predict, patches),
        Command("evaluate --shard", [*judged, "--shard", "1/2"], patches),
    ]


def main() -> None:
    """Parse, prepare, walk."""
    asked = asked_of()
    preload()
    walk_all(asked, prepare(asked.folder), lambda _: None)


if __name__ == "__main__":
    main()
