"""Synthetic H&E-like patches for the demo and the tests: drawn from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.data.decode import cv2, pixel_sha1
from histo.files.tables import csv_writer
from histo.files.writing import write_bytes, written
from histo.pixels.fit import Pixels
from histo.screen import Screen

ZOOM = 2
"""Patches are drawn twice as large and shrunk, so that edges are soft."""


def synthetic_patches(count: int, seed: int, side: int = 96) -> Iterator[tuple[Pixels, int]]:
    """`count` patches uint8 [side, side, 3], RGB, and labels, alternating 0 and 1.

    Stroma with fibres and lymphocytes in all. In positive patches a nest of large, irregular,
    pale tumour nuclei reaches the centre 32x32 px; in a third of the negative ones such a nest
    lies at the border only, and lymphocytes make up for the colour.
    """
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        yield _draw(rng, number % 2, side), number % 2


def _draw(rng: np.random.Generator, label: int, side: int) -> Pixels:
    size = side * ZOOM
    eosin = np.array([226, 172, 204]) + rng.normal(0, [9, 13, 9])
    blue = np.array([104, 66, 146]) + rng.normal(0, [12, 12, 12])
    canvas = _stroma(rng, size, eosin)
    crowd = int(rng.integers(4, 12) if label else rng.integers(9, 22))
    for _ in range(crowd * side * side // 9216 + 1):
        _lymphocyte(canvas, rng, rng.uniform(0, size, 2), blue)
    if label:
        _nest(canvas, rng, size / 2 + rng.uniform(-14, 14, 2) * ZOOM, blue, int(rng.integers(4, 9)))
    elif rng.random() < 1 / 3:
        angle = rng.uniform(0, 2 * np.pi)
        _nest(canvas, rng, size / 2 + 0.62 * size * _ray(angle), blue, int(rng.integers(2, 5)))
    small = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    noisy = small.astype(np.float32) * rng.uniform(0.93, 1.05) + rng.normal(0, 3, small.shape)
    return np.asarray(np.clip(noisy, 0, 255), dtype=np.uint8)


def _ray(angle: float) -> NDArray[np.float64]:
    return np.array([np.cos(angle), np.sin(angle)])


def _stroma(rng: np.random.Generator, size: int, colour: NDArray[Any]) -> Pixels:
    """A pink ground that varies slowly, with wavy collagen fibres along one direction."""
    coarse = rng.normal(0, 1, (6, 6, 1)).astype(np.float32)
    wave = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]
    canvas = np.clip(colour + wave * [7, 11, 7], 0, 255).astype(np.uint8)
    along = rng.uniform(0, np.pi)
    t = np.linspace(-0.8, 0.8, 40)[:, None] * size
    for _ in range(int(rng.integers(14, 26))):
        offset = rng.uniform(-0.7, 0.7) * size
        bend = np.sin(t / size * rng.uniform(3, 9) + rng.uniform(0, 6)) * rng.uniform(2, 7) * ZOOM
        line = size / 2 + t * _ray(along) + (offset + bend) * _ray(along + np.pi / 2)
        shade = np.clip(colour + rng.normal(0, 1) * np.array([10, 18, 10]), 0, 255)
        _curve(canvas, line, shade, int(rng.integers(1, 4)) * ZOOM // 2 + 1)
    return canvas


def _curve(canvas: Pixels, points: NDArray[Any], colour: NDArray[Any], width: int) -> None:
    cv2.polylines(canvas, [points.astype(np.int32)], False, colour.tolist(), width, cv2.LINE_AA)


def _blob(
    canvas: Pixels, centre: NDArray[Any], radii: NDArray[Any], colour: NDArray[Any], rim: float
) -> None:
    """A filled closed outline, given by its radius at equal angles, with a darker rim."""
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    outline = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    points = [outline.astype(np.int32)]
    cv2.fillPoly(canvas, points, np.clip(colour, 0, 255).tolist(), cv2.LINE_AA)
    edge = np.clip(colour * rim, 0, 255).tolist()
    cv2.polylines(canvas, points, True, edge, ZOOM, cv2.LINE_AA)


def _radii(rng: np.random.Generator, mean: float, rough: float) -> NDArray[np.float64]:
    """A smooth closed outline: a few random waves around a circle, stretched."""
    angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    bumps = sum(
        rng.normal(0, rough / k) * np.cos(k * angles + rng.uniform(0, 6)) for k in (2, 3, 4, 5)
    )
    return np.asarray(mean * np.clip(1 + bumps, 0.5, 1.7))


def _lymphocyte(
    canvas: Pixels, rng: np.random.Generator, centre: NDArray[Any], blue: NDArray[Any]
) -> None:
    """Small, round, dark and even."""
    _blob(canvas, centre, _radii(rng, rng.uniform(3.0, 4.4) * ZOOM, 0.05), blue * 0.8, 0.85)


def _nest(
    canvas: Pixels, rng: np.random.Generator, centre: NDArray[Any], blue: NDArray[Any], count: int
) -> None:
    """Large, irregular nuclei around a point: pale chromatin, dark rim, a nucleolus or two."""
    for n in range(count):
        away = 0.0 if n == 0 else rng.uniform(9, 22) * ZOOM
        middle = centre + away * _ray(rng.uniform(0, 2 * np.pi))
        mean = rng.uniform(6.5, 10.5) * ZOOM
        pale = blue * 0.55 + np.array([215, 175, 215]) * 0.45 + rng.normal(0, 8)
        _blob(canvas, middle, _radii(rng, mean, 0.16), pale, 0.62)
        for _ in range(int(rng.integers(5, 10))):
            speck = middle + rng.normal(0, mean / 3, 2)
            _blob(canvas, speck, _radii(rng, rng.uniform(0.7, 1.4) * ZOOM, 0.1), pale * 0.85, 0.9)
        for _ in range(int(rng.integers(1, 3))):
            dot = middle + rng.normal(0, mean / 4, 2)
            _blob(canvas, dot, _radii(rng, rng.uniform(1.2, 2.1) * ZOOM, 0.1), blue * 0.6, 0.9)


def write_dataset(
    folder: Path, count: int, seed: int, screen: Screen, *, side: int = 96, labels: bool = True
) -> Path:
    """Write synthetic patches in Kaggle's layout: train/ID.tif and train_labels.csv.

    With `labels=False` they are test patches: test/ID.tif and test_labels.csv, to judge with.
    """
    name = "train" if labels else "test"
    (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    patches = synthetic_patches(count, seed, side)
    for pixels, label in screen.track(patches, f"drawing {name} patches", count):
        patch_id = pixel_sha1(pixels)
        good, data = cv2.imencode(".tif", np.ascontiguousarray(pixels[..., ::-1]))
        assert good
        write_bytes(folder / name / f"{patch_id}.tif", data.tobytes())
        rows.append((patch_id, label))
    rows.sort(key=lambda row: hashlib.sha256(row[0].encode()).digest())
    with written(folder / f"{name}_labels.csv", "w") as file:
        table = csv_writer(file)
        table.writerow(["id", "label"])
        table.writerows(rows)
    return folder
