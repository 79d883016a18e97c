"""The arrays of an .npz of unknown origin, none of them larger than its file says."""

from __future__ import annotations

import io
import lzma
import math
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


DAMAGED = (
    *(EOFError, OSError, RuntimeError, NotImplementedError, ValueError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
"""What `zipfile` and the unpackers that it asks raise of a ZIP that is damaged, or made to look whole."""


def parse_arrays(data: bytes, most: int) -> dict[str, NDArray[Any]]:
    """The arrays by name; ValueError where they are damaged, or more than `most` bytes unpacked.

    numpy alone makes room for what the header of an array promises, and unpacks without a bound.
    """
    import numpy as np

    found = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            if sum(member.file_size for member in members.infolist()) > most:
                raise ValueError(f"it unpacks to more than {most:,} bytes")
            for member in members.infolist():
                file = io.BytesIO(members.read(member))
                shape, by_column, dtype = _read_header(file, member.filename)
                rest = file.getbuffer()[file.tell() :]
                if dtype.hasobject or by_column or math.prod(shape) * dtype.itemsize != len(rest):
                    raise ValueError(f"{member.filename} has another size than it says")
                name = member.filename.removesuffix(".npy")
                found[name] = np.frombuffer(rest, dtype).reshape(shape)
    except DAMAGED as error:
        own = type(error) is ValueError
        raise ValueError(str(error) if own else "it is damaged") from None
    return found


def _read_header(file: IO[bytes], name: str) -> tuple[Any, bool, Any]:
    """Shape, order and dtype of an array."""
    import numpy as np

    try:
        if np.lib.format.read_magic(file) == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
    except Exception:  # numpy evaluates the header as Python: it can raise anything
        raise ValueError(f"{name} is damaged") from None
    raise ValueError(f"{name} is of another format")
