"""Any bytes are a patch or a HistoError: `just fuzz decoder SECONDS`, by atheris and libFuzzer.

A traceback, more than 2 GB, or more than 20 seconds stops it, with the bytes in a file `crash-…`.
Python alone is instrumented; what OpenCV does with the bytes is judged by its result.
"""

from __future__ import annotations

import io
import sys
import zlib
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["histo.data", "histo.files", "histo.errors", "PIL"]):
    from histo.data.decode import cv2, decode_patch
    from histo.errors import HistoError
    from histo.files.limits import IMAGE_PIXELS

import numpy as np
import tifffile
from PIL import Image

CORPUS = Path(__file__).parent / "corpus" / "decoder"
LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles": {"tile": (16, 16), "compression": "lzw", "predictor": True},
    "strips": {"rowsperstrip": 3, "compression": "lzw"},
    "packed": {"bitspersample": 4},
    "big_end": {"byteorder": ">", "compression": "zlib", "predictor": True},
    "jpeg2000": {"compression": "jpeg2000"},
    "png": {"compression": "png"},
    "webp": {"compression": "webp"},
    "jpegxl": {"compression": "jpegxl"},
    "lerc": {"compression": "lerc"},
}
FLAGS = ("-max_len=20000", "-rss_limit_mb=2000", "-timeout=20")


def seeds() -> dict[str, bytes]:
    """Small images of every kind that histo reads, by name."""
    rgb = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    colour, grey = Image.fromarray(rgb), Image.fromarray(rgb[..., 0])
    rgba = Image.fromarray(np.dstack([rgb, rgb[..., 0]]))
    made = {}
    for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        made[f"{name}.tif"] = _saved(colour, "TIFF", compression=name)
    for name, image in (("rgba", rgba), ("grey", grey), ("palette", colour.quantize(16))):
        made[f"{name}.tif"] = _saved(image, "TIFF")
        made[f"{name}.png"] = _saved(image, "PNG")
    made["bits.tif"] = _saved(grey.convert("1"), "TIFF", compression="group4")
    made["big.tif"] = _saved(colour, "TIFF", big_tiff=True)
    made["two.tif"] = cv2.imencodemulti(".tif", [rgb, rgb[:10]])[1].tobytes()
    made["moving.png"] = _saved(colour, "PNG", save_all=True, append_images=[colour.rotate(90)])
    deep = rgb.astype(np.uint16) * 257
    for suffix in (".tif", ".png"):
        made[f"deep{suffix}"] = cv2.imencode(suffix, deep)[1].tobytes()
    made["plain.jpg"] = _saved(colour, "JPEG")
    made["scans.jpg"] = _saved(colour, "JPEG", progressive=True)
    made["grey.jpg"] = _saved(grey, "JPEG")
    for name in ("lzma", "zstd"):
        made[f"{name}.tif"] = _saved(colour, "TIFF", compression=name)
    for name, options in LAYOUTS.items():
        file = io.BytesIO()
        tifffile.imwrite(file, rgb, photometric="rgb", metadata=None, **options)
        made[f"{name}.tif"] = file.getvalue()
    file = io.BytesIO()
    tifffile.imwrite(file, np.moveaxis(deep, -1, 0), photometric="rgb", planarconfig="separate")
    made["planes.tif"] = file.getvalue()
    made["ycbcr.tif"] = _saved(colour.convert("YCbCr"), "TIFF")
    made["inks.tif"] = _saved(colour.convert("CMYK"), "TIFF")
    for suffix in ("bmp", "webp"):
        made[f"plain.{suffix}"] = _saved(colour, suffix)
    made["palette.bmp"] = _saved(colour.quantize(16), "BMP")
    made["lossless.webp"] = _saved(rgba, "WEBP", lossless=True)
    made["cmyk.jpg"] = _saved(colour.convert("CMYK"), "JPEG")
    return made


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """A change of bytes; the checksums of every second PNG are mended, else libpng reads no further."""
    changed = bytearray(atheris.Mutate(data, most))
    at = 8
    while seed % 2 and changed[:4] == b"\x89PNG" and at + 12 <= len(changed):
        end = at + 8 + int.from_bytes(changed[at : at + 4], "big")
        if end + 4 <= len(changed):
            changed[end : end + 4] = zlib.crc32(changed[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(changed)


def decode(data: bytes) -> None:
    """One input."""
    try:
        pixels = decode_patch(data, Path("patch"))
    except HistoError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert 0 < pixels.shape[0] * pixels.shape[1] <= IMAGE_PIXELS.value


if __name__ == "__main__":
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, data in seeds().items():
        (CORPUS / name).write_bytes(data)
    atheris.Setup([sys.argv[0], str(CORPUS), *FLAGS, *sys.argv[1:]], decode, custom_mutator=mutate)
    atheris.Fuzz()
