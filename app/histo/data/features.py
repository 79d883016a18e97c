"""Features of patches, kept beside the store: computed once for each body, patch and view.

They lie in a folder for each body (by the digest of its weights) and way of preparing patches, in parts
that are written whole. A part is read only where this user's histo has written it: features that came
with the data could make any head of them.
"""

from __future__ import annotations

import hashlib
import io
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histo.errors import HistoError
from histo.files.arrays import parse_arrays
from histo.files.limits import MB, Limit, check_regular, read_bytes
from histo.files.notes import key_of, read_note, write_note
from histo.files.writing import written

FORMAT = 1
FEATURES = "features"
"""The kind of the notes of parts; without them features are computed anew at each start."""
PART_BYTES = 128 * MB
"""Features that wait to be written together, at most."""
MOST = Limit("HISTO_MAX_FEATURE_BYTES", 1024 * MB, "bytes")
"""Of one part."""
Keys = NDArray[np.bytes_]
"""The SHA-1 of a patch in hex, and the digit of a view: S41."""
Values = NDArray[np.float32]


def keys_of(sha1: Keys, view: int) -> Keys:
    """The keys [N] of a view (0 to 7) of patches with these SHA-1s [N]."""
    return np.char.add(sha1.astype("S40"), str(view).encode()).astype("S41")


class KnownFeatures:
    """The features that are known of one body: float32 [F] by key."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._keys: list[Keys] = []
        self._values: list[Values] = []
        for path in sorted(folder.glob("*.npz")) if folder else ():
            self._keep(*(read_part(path) or (np.empty(0, "S41"), np.empty((0, 0), np.float32))))

    def find(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Part and row [N] of each key; part -1 where its features are not known."""
        part, row = np.full(len(keys), -1), np.zeros(len(keys), np.int64)
        for number, there in enumerate(self._keys):
            at = np.searchsorted(there, keys).clip(max=len(there) - 1)
            same = there[at] == keys
            part[same], row[same] = number, at[same]
        return part, row

    def missing(self, keys: Keys) -> NDArray[np.bool_]:
        """Which of the keys [N] are not known."""
        return self.find(keys)[0] < 0

    def take(self, keys: Keys) -> Values:
        """The features [N, F] of keys that are all known."""
        part, row = self.find(keys)
        found = np.empty((len(keys), self._values[0].shape[1]), np.float32)
        for number, values in enumerate(self._values):
            mine = part == number
            found[mine] = values[row[mine]]
        return found

    def add(self, keys: Keys, values: Values) -> None:
        """Keep features [N, F]: in a part of their own, or in memory where there is no folder."""
        self._keep(keys, values)
        if self.folder is not None:
            write_part(self.folder / f"{os.urandom(6).hex()}.npz", keys, values)

    def _keep(self, keys: Keys, values: Values) -> None:
        if len(keys) and all(values.shape[1] == known.shape[1] for known in self._values):
            order = np.argsort(keys, kind="stable")
            self._keys.append(keys[order])
            self._values.append(values[order])


_IN_MEMORY: dict[str, KnownFeatures] = {}
"""Without a store they are kept until the process ends, so that folds share them."""


def open_features(store: Path | None, name: str) -> KnownFeatures:
    """The features that the store has under this name; without a store those in memory."""
    if store is None:
        return _IN_MEMORY.setdefault(name, KnownFeatures())
    folder = store / f"features-{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HistoError(
            f"no features can be kept in {store}: {error.strerror}",
            "give another {store} folder",
            "{no_store} keeps them in memory",
        ) from None
    return KnownFeatures(folder)


def write_part(path: Path, keys: Keys, values: Values) -> None:
    """Note that this user's histo writes these features, and write them.

    The note comes first: killed between the two, no part stays that is never read.
    """
    packed = io.BytesIO()
    np.savez(packed, format=FORMAT, keys=keys, features=values)
    write_note(FEATURES, key_of(path), _digest(packed.getbuffer()), most=None)
    with written(path) as file:
        file.write(packed.getbuffer())


def read_part(path: Path) -> tuple[Keys, Values] | None:
    """Keys [N] and features [N, F] of a part; None where it is damaged or not this user's."""
    with suppress(OSError, ValueError, KeyError, TypeError, HistoError):
        check_regular(path.lstat(), path)
        data = read_bytes(path, MOST)
        if read_note(FEATURES, key_of(path)) != _digest(data):
            return None
        found = parse_arrays(data, len(data))
        keys, values = found["keys"], found["features"]
        good = values.dtype == np.float32 and values.ndim == 2 and keys.shape == values.shape[:1]
        if good and keys.dtype == "S41" and int(found["format"]) == FORMAT:
            return keys, values
    return None


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
