"""The arrays of an .npz of unknown origin, none of them larger than its file says."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError(f"{member.filename} is of another format")
                shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
                rest = file.getbuffer()[file.tell() :]
                if dtype.hasobject or by_column or math.prod(shape) * dtype.itemsize != len(rest):
                    raise ValueError(f"{member.filename} has another size than it says")
                name = member.filename.removesuffix(".npy")
                found[name] = np.frombuffer(rest, dtype).reshape(shape)
    except (EOFError, OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        raise ValueError("it is damaged") from None
    return found
