"""One image file to one RGB array, by OpenCV, and what the file is known by."""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from histo.data.header import check_header
from histo.errors import HistoError
from histo.files.limits import IMAGE_BYTES, IMAGE_PIXELS, read_bytes
from histo.pixels.fit import Pixels

# OpenCV reads both once, while it is imported, and would fill stderr with patients' file names.
_for_opencv = {IMAGE_PIXELS.name: str(IMAGE_PIXELS.default), "OPENCV_LOG_LEVEL": "SILENT"}
_for_opencv = {name: value for name, value in _for_opencv.items() if name not in os.environ}
os.environ.update(_for_opencv)
try:
    import cv2 as cv2  # noqa: PLC0414  (others take it from here, its limits set)
except ImportError as error:  # a machine without libGL
    raise HistoError(
        f"OpenCV does not load: {error} (install libgl1 and libglib2.0-0, or opencv-python-headless)"
    ) from None
finally:
    for _name in _for_opencv:
        del os.environ[_name]

SHA1 = re.compile(r"[0-9a-f]{40}")


def read_patch(path: Path) -> Pixels:
    """Decode a TIF, PNG or JPEG to RGB: uint8 [H, W, 3].

    The rule: 16-bit samples are scaled by 1/257 and rounded, so that full range stays full range;
    grey is repeated to three channels; a palette is looked up; alpha is dropped, as Pillow and
    fastai do; the first page of several is read; an EXIF rotation is ignored.
    Raises HistoError, naming the file, for anything else, and for what is beyond histo.limits.
    """
    try:
        data = read_bytes(path, IMAGE_BYTES)
    except IsADirectoryError:
        raise HistoError(f"{path} is a folder, not an image") from None
    except FileNotFoundError:
        raise HistoError(f"no image {path}") from None
    return decode_patch(data, path)


def decode_patch(data: bytes, path: Path) -> Pixels:
    """The patch in the bytes of a file, as `read_patch` has it; `path` is for its errors."""
    if not data:
        raise HistoError(f"{path} is empty")
    check_header(data, path)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if "MAX_IMAGE" in str(error):
            raise HistoError(
                f"{path} is larger than {IMAGE_PIXELS.value} pixels "
                f"(cut it into patches, or set {IMAGE_PIXELS.name})"
            ) from None
        image = None
    if image is None or (data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-4096:]):
        raise HistoError(f"{path} is truncated or damaged")
    if image.ndim == 3 and image.shape[2] == 4 and data[:2] in (b"II", b"MM"):
        return _without_alpha(data, path)
    return _to_rgb(image, path)


def _without_alpha(data: bytes, path: Path) -> Pixels:
    """The colours of a TIF with alpha: libtiff multiplies them by it, Pillow lets them be."""
    from PIL import Image

    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    except Exception:  # libtiff has read it; what Pillow makes of it can be anything
        raise HistoError(f"{path} has an alpha channel that cannot be read") from None


def _to_rgb(image: Any, path: Path) -> Pixels:
    """OpenCV's grey, BGR or BGRA of 8 or 16 bits to RGB of 8 bits."""
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=1 / 257)
    if image.dtype != np.uint8:
        raise HistoError(
            f"{path} holds {image.dtype} samples; only 8- and 16-bit images can be read"
        )
    grey = image.ndim == 2 or image.shape[2] == 1
    rgb: Pixels = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if grey else cv2.COLOR_BGR2RGB)
    return rgb


def thumbnail_jpeg(pixels: Pixels, side: int = 192) -> bytes:
    """A patch as a JPEG for people to look at, of `side` px at most."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    if scale < 1:
        fit = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = np.asarray(cv2.resize(pixels, fit, interpolation=cv2.INTER_AREA), np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
    return bytes(cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), quality)[1])


def pixel_sha1(pixels: Pixels) -> str:
    """SHA-1 of the RGB bytes in row order: Kaggle's id of a patch."""
    return hashlib.sha1(np.ascontiguousarray(pixels).data, usedforsecurity=False).hexdigest()
