"""The probabilities of a slide's tiles, written batch by batch; after a kill the rest is computed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from histo.errors import HistoError
from histo.files.writing import naming, read_json, write_json

SAVE_SECONDS = 5.0
"""How often rows are flushed: at most this much work is lost to a kill."""


class Journal:
    """Rows of probabilities, float64 [N, C]: `rows` are there, `add` appends more."""

    def __init__(self, folder: Path, key: str, classes: int) -> None:
        self._data, self._state = folder / "probabilities.part", folder / "progress.json"
        self._key, self._classes, self.rows = key, classes, 0
        self._saved = time.monotonic()
        self._file: IO[bytes] | None = None
        with suppress(HistoError, OSError, KeyError, TypeError, ValueError):
            known = read_json(self._state)
            rows = int(known["rows"])
            enough = self._data.stat().st_size >= rows * self._width
            if known["key"] == key and rows > 0 and enough and not self._data.is_symlink():
                self.rows = rows

    @property
    def files(self) -> tuple[Path, Path]:
        """Its files."""
        return self._data, self._state

    @property
    def _width(self) -> int:
        """Bytes of a row."""
        return 8 * self._classes

    @contextmanager
    def open(self) -> Iterator[Journal]:
        """Continue after the rows that were flushed; later bytes are cut off."""
        if not self.rows:
            self._data.unlink(missing_ok=True)  # a link would lead to another file
        with naming(self._data), self._data.open("r+b" if self.rows else "xb") as file:
            file.truncate(self.rows * self._width)
            file.seek(self.rows * self._width)
            self._file = file
            try:
                yield self
            finally:
                self._save()
                self._file = None

    def add(self, probabilities: NDArray[np.float64]) -> None:
        """Append the rows of a batch."""
        assert self._file is not None
        self._file.write(np.ascontiguousarray(probabilities, "<f8").tobytes())
        self.rows += len(probabilities)
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self._save()

    def _save(self) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        write_json(self._state, {"key": self._key, "rows": self.rows})
        self._saved = time.monotonic()

    def read(self) -> NDArray[np.float64]:
        """All rows, float64 [N, C]."""
        data = np.fromfile(self._data, "<f8", self.rows * self._classes)
        return np.asarray(data.reshape(-1, self._classes), np.float64)

    def remove(self) -> None:
        """Remove its files."""
        self._data.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)
