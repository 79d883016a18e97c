"""The files of a bundle, each hashed once, when the bundle is opened, and checked against its card."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.config import ModelCard
from histo.errors import HistoError
from histo.files.digests import sha256
from histo.files.limits import MODEL_BYTES, check_regular, read_bytes
from histo.model.card import (
    CARD,
    FILES,
    TRAINED,
    TRAINED_GROUPS,
    TRAINED_NEAR,
    bundle_path,
    parse_near,
    parse_trained,
    read_card,
)


@dataclass(frozen=True)
class BundleFiles:
    """A bundle whose files have the size and SHA-256 that its card names."""

    folder: Path
    card: ModelCard
    facts: dict[str, Any]
    """everything in the card"""
    stamps: dict[str, tuple[int, int, int]]
    """of each file that was checked"""

    @classmethod
    def open(cls, folder: Path) -> BundleFiles:
        """Read the card and check every file that is there; HistoError if one does not match."""
        card, facts = read_card(folder)
        stamps = {}
        for name in FILES:
            path = bundle_path(folder, name)
            if path.exists():
                stamps[name] = _checked(path, name, facts)
        return cls(folder, card, facts, stamps)

    def __contains__(self, name: str) -> bool:
        return name in self.stamps

    def read(self, name: str) -> bytes:
        """The bytes of a checked file; HistoError if it has changed since."""
        path = bundle_path(self.folder, name)
        if name not in self:
            raise HistoError(f"{self.folder} has no {name}")
        try:
            data = read_bytes(path, MODEL_BYTES)
        except OSError:
            raise HistoError(f"{self.folder} has no readable {name}") from None
        if _stamp(path.stat()) != self.stamps[name]:
            raise HistoError(f"{path} has changed while it was opened")
        return data

    def trained_on(self) -> NDArray[np.uint64] | None:
        """Short digests of the patches behind the model; None if the bundle has none."""
        if TRAINED not in self.facts["files"]:
            return None
        return parse_trained(self.read(TRAINED), bundle_path(self.folder, TRAINED))

    def trained_near(self, length: int) -> NDArray[np.uint8] | None:
        """Hashes of those patches by which near-duplicates are found; None if the bundle has none."""
        if TRAINED_NEAR not in self.facts["files"]:
            return None
        return parse_near(self.read(TRAINED_NEAR), bundle_path(self.folder, TRAINED_NEAR), length)

    def trained_groups(self) -> NDArray[np.uint64] | None:
        """Digests of the slides or patients behind the model; None if the bundle has none."""
        if TRAINED_GROUPS not in self.facts["files"]:
            return None
        return parse_trained(self.read(TRAINED_GROUPS), bundle_path(self.folder, TRAINED_GROUPS))

    def fingerprint(self) -> str:
        """SHA-256 of the card, which names those of all other files."""
        return sha256(self.folder / CARD)


def _checked(path: Path, name: str, facts: dict[str, Any]) -> tuple[int, int, int]:
    """The stamp of a file, once it matches its card."""
    kind = path.stat()
    check_regular(kind, path)
    MODEL_BYTES.check(kind.st_size, str(path))
    expected = facts.get("bytes", {}).get(name, kind.st_size)
    if kind.st_size != expected:
        raise HistoError(f"{path} has {kind.st_size:,} bytes; its card says {expected:,}")
    if sha256(path) != facts["files"].get(name):
        raise HistoError(f"{path} is not the file that its card names (SHA-256)")
    return _stamp(kind)


def _stamp(kind: os.stat_result) -> tuple[int, int, int]:
    return kind.st_ino, kind.st_size, kind.st_mtime_ns
