"""docs/serve.jpg: the page of a slide, as `histo serve` shows it.

    histo demo && python docs/make_serve_picture.py histo-demo

The slide is a mosaic of the demo's synthetic test patches, with those of class 1 in a disc. Needs
tifffile, Playwright and a Chromium.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from playwright.sync_api import Page, sync_playwright

TOKEN = "a-token-for-the-picture"
COLUMNS, ROWS, MARGIN, SIDE, MPP = 18, 14, 2, 64, 0.972
"""SIDE is the demo's crop: what its model sees of a patch."""
WIDTH, HEIGHT, QUALITY = 1280, 800, 80


def main() -> None:
    """Make the slide, map it, show it, take the picture."""
    demo = Path(sys.argv[1])
    slide = demo / "slides" / "mosaic.tif"
    slide.parent.mkdir(exist_ok=True)
    write_mosaic(slide, mosaic(demo / "data"))
    histo("map", demo / "run" / "export", slide, "--out", demo / "maps", "--mpp", str(MPP))
    words = [sys.executable, "-m", "histo", "serve", str(demo), "--port", "0", "--no-browser"]
    env = {**os.environ, "HISTO_TOKEN": TOKEN}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as server:
        assert server.stdout
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found
        with sync_playwright() as started:
            chromium = shutil.which("chromium") or shutil.which("chromium-browser")
            browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            take(browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}), found[0])
            browser.close()
        server.terminate()


def histo(*words: str | Path) -> None:
    """A command line of histo."""
    subprocess.run([sys.executable, "-m", "histo", *map(str, words)], check=True)


def mosaic(data: Path) -> NDArray[np.uint8]:
    """The centres of the patches on glass, uint8 [H, W, 3]."""
    with (data / "test_labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    left = {label: [row["id"] for row in rows if row["label"] == label] for label in "01"}
    pixels = np.full(((ROWS + 2 * MARGIN) * SIDE, (COLUMNS + 2 * MARGIN) * SIDE, 3), 243, np.uint8)
    for n in range(ROWS * COLUMNS):
        row, column = divmod(n, COLUMNS)
        inside = (column - 7) ** 2 + (row - 6) ** 2 < 22
        patch = next((data / "test").glob(f"{left['1' if inside else '0'].pop()}.*"))
        y, x = (row + MARGIN) * SIDE, (column + MARGIN) * SIDE
        seen = cv2.imread(str(patch))[..., ::-1]
        edge = (len(seen) - SIDE) // 2
        pixels[y : y + SIDE, x : x + SIDE] = seen[edge : edge + SIDE, edge : edge + SIDE]
    return pixels


def write_mosaic(path: Path, pixels: NDArray[np.uint8]) -> None:
    """A tiled TIFF of three levels with its µm per px."""
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for step in (1, 2, 4):
            shape = pixels.shape[1] // step, pixels.shape[0] // step
            level = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA)
            tiff.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                compression="deflate",
                subfiletype=int(step > 1),
                resolution=(1e4 / MPP / step,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def take(page: Page, address: str) -> None:
    """The page of the slide, with its map over it."""
    page.goto(address)
    page.goto(re.sub(r"/\?.*", "/slides?name=slides/mosaic.tif", address))
    page.locator("canvas.overlay").wait_for(state="attached")
    page.hover("#viewer", position={"x": 330, "y": 300})
    page.wait_for_timeout(2000)  # the tiles fade in
    page.screenshot(path=Path(__file__).parent / "serve.jpg", type="jpeg", quality=QUALITY)


if __name__ == "__main__":
    main()
