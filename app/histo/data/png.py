"""A PNG looked through chunk by chunk before OpenCV's libpng is let near it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from histo.data.header import PNG, check_pixels, damaged

DECODED = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
"""The chunks that make the colours; of others, libpng complains on stderr, and animates."""
HEADER = 13
"""How many bytes a header has."""


def sound_png(data: bytes, path: Path) -> bytes:
    """The PNG without the chunks that are not pixels; HistoError where a chunk is not whole.

    A chunk must lie within the file, for OpenCV makes room for what it promises, and agree with
    its checksum, for libpng names no file where it does not.
    """
    at, name, others = len(PNG), b"", False
    kept: list[bytes | memoryview] = [PNG]
    view = memoryview(data)
    while name != b"IEND":
        if at + 12 > len(data):
            raise damaged(path, "its end is missing")
        size, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + size
        if end > len(data):
            raise damaged(path, "a chunk reaches beyond its end")
        if name in DECODED:
            if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
                raise damaged(path, f"the checksum of its chunk {name.decode()} is wrong")
            kept.append(view[at:end])
        else:
            others = True
        if at == len(PNG):
            _check_first(name, size, data, path)
        at = end
    return b"".join(kept) if others else data


def _check_first(name: bytes, size: int, data: bytes, path: Path) -> None:
    """Refuse what does not begin with a whole header, and too many pixels."""
    if name != b"IHDR" or size != HEADER:
        raise damaged(path, "its header is missing")
    width, height = struct.unpack_from(">II", data, len(PNG) + 8)
    check_pixels(width, height, path)
