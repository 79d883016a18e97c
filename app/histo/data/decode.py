"""One image file to one RGB array, and what the file is known by."""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from histo.data.header import RESAVE, check_pixels, damaged, foreign, kind_of, size_of
from histo.data.jpeg import read_jpeg
from histo.data.opencv import cv2 as cv2  # noqa: PLC0414  (others take it from here)
from histo.data.png import sound_png
from histo.data.tiff import read_tiff
from histo.errors import HistoError
from histo.files.limits import IMAGE_BYTES, IMAGE_PIXELS, read_bytes
from histo.files.packed import read_member
from histo.pixels.fit import Pixels

DECODING = 20
"""Bytes that decoding takes for a pixel, at most."""
SHA1 = re.compile(r"[0-9a-f]{40}")


def read_patch(path: Path) -> Pixels:
    """Decode a TIF, PNG, JPEG, BMP or WebP to RGB: uint8 [H, W, 3].

    The rules, the same in every command:
    - 16-bit samples are scaled by 1/257 and rounded, 10, 12 and 14 bits by theirs, so that full
      range stays full range; 12 bits that lie in 16 stay as dark as they are (`check` notes it);
    - grey is repeated to three channels; a palette is looked up; alpha is dropped (and divided out
      where a TIF says that the colours are multiplied by it); CMYK is converted as Pillow does;
    - a TIF's orientation is applied, an EXIF orientation in a JPEG, PNG or WebP is not: so Pillow
      and fastai read them;
    - of several pages the first is read; grey or palette pages of one size are refused: they may be the
      channels of one picture.
    Raises HistoError, naming the file, for anything else, for damage, and for what is beyond
    histo.limits.
    """
    try:
        return decode_patch(read_image(path), path)
    except MemoryError:
        raise _no_memory(path) from None


def read_image(path: Path) -> bytes:
    """The bytes of an image file, or of one in its folder's patches.zip, bounded.

    Raises HistoError where there is none.
    """
    try:
        return read_bytes(path, IMAGE_BYTES)
    except IsADirectoryError:
        raise HistoError(f"{path} is a folder, not an image") from None
    except FileNotFoundError:
        if (data := read_member(path)) is not None:
            return data
        raise HistoError(f"no image {path}") from None


def decode_patch(data: bytes, path: Path) -> Pixels:
    """The patch in the bytes of a file, as `read_patch` has it; `path` is for its errors."""
    try:
        return _decoded(data, path)
    except MemoryError:
        raise _no_memory(path) from None
    except HistoError:
        if _lacks_memory(data):
            raise _no_memory(path) from None
        raise


def _no_memory(path: Path) -> HistoError:
    return HistoError(f"{path}: there is not enough memory to decode it")


def _lacks_memory(data: bytes) -> bool:
    """Whether an image has no room here: decoders take it for damaged then.

    Such as where a model that runs meanwhile has taken all that it may.
    """
    try:
        kind = kind_of(data)
        if kind == "png" or data[:2] == b"BM" or data[8:12] == b"WEBP":
            size = struct.unpack_from(">II", data, 16) if kind == "png" else size_of(data)
            np.empty(DECODING * min(math.prod(size), IMAGE_PIXELS.value), np.uint8)
    except MemoryError:
        return True
    except struct.error:
        return False
    return False


def _decoded(data: bytes, path: Path) -> Pixels:
    if not data:
        raise HistoError(f"{path} is empty")
    kind = kind_of(data)
    if kind == "tiff":
        return read_tiff(data, path)
    if kind == "png":
        return _read_png(data, path)
    if kind == "jpeg":
        return read_jpeg(data, path)
    if kind:
        return _read_by_pillow(data, path)
    raise foreign(data, path)


def _read_png(data: bytes, path: Path) -> Pixels:
    """A PNG by OpenCV: as RGB at once where it holds that or grey of 8 bits, which is faster."""
    data = sound_png(data, path)
    usual = data[24] == 8 and data[25] in (0, 2)  # depth, and grey or colour
    try:
        how = cv2.IMREAD_COLOR_RGB if usual else cv2.IMREAD_UNCHANGED
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    except cv2.error:
        image = None
    if image is None:
        raise damaged(path, "its pixels do not decode")
    if usual:
        return np.asarray(image, np.uint8)
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=1 / 257)
    grey = image.ndim == 2 or image.shape[2] == 1
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if grey else cv2.COLOR_BGR2RGB))


def _read_by_pillow(data: bytes, path: Path) -> Pixels:
    """A BMP or WebP."""
    from PIL import BmpImagePlugin, WebPImagePlugin

    try:
        check_pixels(*size_of(data), path)
        # not by Image.open, which warns on stderr of sizes that a user may have allowed
        read = BmpImagePlugin.BmpImageFile if data[:2] == b"BM" else WebPImagePlugin.WebPImageFile
        return np.array(read(io.BytesIO(data)).convert("RGB"))
    except HistoError:
        raise
    except Exception as error:  # a decoder can raise anything
        unknown = "unsupported" in str(error).lower()
        if unknown:
            raise HistoError(f"{path} cannot be read: {error}", RESAVE) from None
        raise damaged(path, str(error)) from None


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
