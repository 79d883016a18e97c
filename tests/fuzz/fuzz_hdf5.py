"""Any bytes are an array or a refusal: `just fuzz hdf5 SECONDS`.

A traceback, more than 1 GB or more than 20 seconds stops it, with the bytes in a file `crash-…`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["histo.data"]):
    from histo.data.hdf5 import open_array
    from histo.data.hdf5_parts import Hdf5DamageError
    from histo.errors import HistoError

import h5py
import numpy as np

CORPUS = Path(__file__).parent / "corpus" / "hdf5"
FLAGS = ("-max_len=20000", "-rss_limit_mb=1000", "-timeout=20")
ROW = (4, 4, 3)
HOW: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunks": {"chunks": (2, 4, 2, 3)},
    "packed": {"chunks": (3, 4, 4, 3), "compression": 9, "shuffle": True, "fletcher32": True},
}
FILE = Path(tempfile.mkdtemp()) / "a.h5"


def seeds() -> dict[str, bytes]:
    """Small files of every layout that histo reads, by name."""
    made, pixels = {}, np.random.default_rng(0).integers(0, 9, (7, *ROW), np.uint8)
    for name, how in HOW.items():
        for old in (None, ("v108", "v108")):
            with h5py.File(FILE, "w", libver=old) as file:
                file.attrs["a"] = "b"
                file.create_dataset("x", data=pixels, **how)
            made[f"{name}{'2' if old else '0'}"] = FILE.read_bytes()
    return made


def read(data: bytes) -> None:
    """One input."""
    FILE.write_bytes(data)
    try:
        with open_array(FILE, "x", ROW) as x:
            found = x.read(0, 1000)
    except (HistoError, Hdf5DamageError):
        return
    assert found.dtype == np.uint8
    assert found.shape == (min(x.shape[0], 1000), *ROW)


if __name__ == "__main__":
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, data in seeds().items():
        (CORPUS / name).write_bytes(data)
    atheris.Setup([sys.argv[0], str(CORPUS), *FLAGS, *sys.argv[1:]], read)
    atheris.Fuzz()
