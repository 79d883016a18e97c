"""Slides, masks and outlines made to exhaust memory or time: a line each, and little memory."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from tests.slides.made import tissue_slide, write_slide
from tests.slides.test_cut import MPP, SIDE, TUMOUR, feature, ring

BUNDLE = Path(__file__).parents[1] / "golden" / "bundle-2"
MOST_KB = 700_000
"""Peak memory of a command; it takes some 150 MB with a small slide."""
WATCHER = """
import os, subprocess, sys
_, status, usage = os.wait4(subprocess.Popen(sys.argv[1:]).pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""
"""A small process that starts another: a child's peak counts from that of the one that forked."""


def write_tiff(path: Path, size: tuple, tile: tuple, data: bytes, compression: int, samples=1):
    """A BigTIFF of `size` (width, height) all of whose tiles are the same bytes."""
    count = -(-size[0] // tile[0]) * -(-size[1] // tile[1])
    bits = int.from_bytes(struct.pack("<4H", *[8] * samples, *[0] * (4 - samples)), "little")
    photometric = {1: 1, 3: 6 if compression == 7 else 2}[samples]
    per_cm = 10_000 * 2 | 1 << 32  # 0.5 µm per px
    tags = [
        *((256, 4, 1, size[0]), (257, 4, 1, size[1]), (258, 3, samples, bits)),
        *((259, 3, 1, compression), (262, 3, 1, photometric), (277, 3, 1, samples)),
        *((282, 5, 1, per_cm), (283, 5, 1, per_cm), (296, 3, 1, 3)),
        *((322, 4, 1, tile[0]), (323, 4, 1, tile[1])),
    ]
    places = 16 + 8 + 20 * (len(tags) + 2) + 8
    sizes, at = places + 8 * count, places + 16 * count
    tags.append((324, 16, count, places if count > 1 else at))
    tags.append((325, 16, count, sizes if count > 1 else len(data)))
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(tags)))
        for tag in tags:
            file.write(struct.pack("<HHQQ", *tag))
        file.write(bytes(8) + np.full(count, at, "<u8").tobytes())
        file.write(np.full(count, len(data), "<u8").tobytes() + data)


def deflated(size: int) -> bytes:
    """So many zeros, a multiple of 16 MB: one block, again and again."""
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = made.compress(bytes(1 << 24)) + made.flush(zlib.Z_FULL_FLUSH)
    end = b"\x03\x00" + struct.pack(">I", (size % 65521) << 16 | 1)
    return b"\x78\xda" + block * (size >> 24) + end


def write_png(path: Path, width: int, height: int) -> None:
    """A grey PNG that says it is so large, and holds a thousand px."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))))


JPEG = imagecodecs.jpeg_encode(np.full((512, 512, 3), 200, np.uint8))
VALUES = (np.arange(144 * 144, dtype=np.uint16) % 10_000).reshape(144, 144)
MASKS = {
    "vast.tif": lambda p: write_tiff(p, (200_000, 200_000), (65_520, 65_520), deflated(0), 8),
    "tile.tif": lambda p: write_tiff(p, (512, 512), (60_000, 60_000), deflated(3 << 30), 8),
    "bomb.tif": lambda p: write_tiff(p, (512, 512), (512, 512), deflated(1 << 30), 8),
    "lossy.tif": lambda p: write_tiff(p, (512, 512), (512, 512), JPEG, 7, 3),
    "values.tif": lambda p: tifffile.imwrite(p, VALUES),
    "vast.png": lambda p: write_png(p, 200_000, 200_000),
    "widest.png": lambda p: write_png(p, 2**31 - 1, 2**31 - 1),
}
SLIDES = {
    "a million px a side": ((1_000_000, 1_000_000), (4096, 4096), "its smallest level"),
    "long": ((2_000_000_000, 4096), (4096, 4096), "its smallest level"),
    "of one tile": ((60_000, 60_000), (60_000, 60_000), "each tile"),
}


def ended(words: list) -> str:
    """What a command says that lists its only slide as left out; in bounded memory."""
    command = [sys.executable, "-m", "histo", *map(str, words)]
    watcher = [sys.executable, "-S", "-c", WATCHER, *command]
    done = subprocess.run(watcher, capture_output=True, text=True, check=False)
    status, peak = map(int, done.stdout.splitlines()[-1].split())
    assert status in (1, 3), done.stderr
    assert "Traceback" not in done.stderr
    assert peak <= MOST_KB * (1024 if sys.platform == "darwin" else 1)
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_that_unpacks_to_gigabytes_is_refused(name, tmp_path):
    """So is one whose values are no classes, or were changed by its compression."""
    slide = write_slide(tmp_path / "s1.tif", tissue_slide(12 * SIDE, 12 * SIDE), MPP)
    (tmp_path / "notes").mkdir()
    mask = tmp_path / "notes" / f"s1{Path(name).suffix}"
    MASKS[name](mask)
    words = ["cut", slide, "--annotations", tmp_path / "notes", "--out", tmp_path / "d"]
    said = ended([*words, "--mpp", MPP, "--size", SIDE])
    assert any(line.startswith(f"s1: {mask}") for line in said.splitlines()), said


@pytest.mark.parametrize("name", SLIDES)
def test_a_slide_of_absurd_size_is_refused(name, tmp_path):
    """By `map` and by `cut`, before its pixels are read."""
    size, tile, why = SLIDES[name]
    grey = np.full((min(tile[1], 4096), min(tile[0], 4096), 3), 200, np.uint8)
    slide = tmp_path / "s1.tif"
    write_tiff(slide, size, tile, imagecodecs.jpeg_encode(grey, level=50), 7, 3)
    said = ended(["map", BUNDLE, slide, "--out", tmp_path / "maps", "--mpp", MPP])
    assert f"s1: {slide}: {why}: more than" in said
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "s1.geojson").write_text(json.dumps([feature(ring(*TUMOUR))]))
    words = ["cut", slide, "--annotations", tmp_path / "notes", "--out", tmp_path / "d"]
    assert f"s1: {slide}: {why}: more than" in ended([*words, "--mpp", MPP])


def test_a_stride_of_a_pixel_on_a_large_slide_is_refused(tmp_path):
    """4 * 10^8 tiles are more than fit into memory."""
    slide = tmp_path / "s1.tif"
    write_tiff(slide, (20_000, 20_000), (512, 512), JPEG, 7, 3)
    said = ended(["map", BUNDLE, slide, "--out", tmp_path / "maps", "--mpp", MPP, "--stride", 1])
    assert "places: more than 20,000,000 tiles" in said


def test_outlines_out_of_range_are_refused_by_every_command(tmp_path):
    """As annotations and as tissue."""
    slide = write_slide(tmp_path / "s1.tif", tissue_slide(12 * SIDE, 12 * SIDE), MPP)
    (tmp_path / "notes").mkdir()
    drawn = json.dumps([feature([[0, 0], [1e300, 0], [1e300, 1e300], [0, 0]])])
    (tmp_path / "notes" / "s1.geojson").write_text(drawn)
    words = ["cut", slide, "--annotations", tmp_path / "notes", "--out", tmp_path / "d"]
    assert "s1.geojson is not GeoJSON" in ended([*words, "--mpp", MPP, "--size", SIDE])
    words = ["map", BUNDLE, slide, "--out", tmp_path / "maps", "--mpp", MPP]
    assert "s1.geojson is not GeoJSON" in ended([*words, "--tissue", tmp_path / "notes"])
