"""Which runs this user has started: only their settings say where histo writes and what it sends.

A run folder may be a stranger's, unpacked from an archive, so its owner says nothing. What this user's
histo has started is noted in the user's own cache folder, as stores are (data/store_trust.py).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from histo.errors import HistoError
from histo.files.limits import check_regular
from histo.files.writing import written

PLACES = ("data", "labels", "images", "store", "no_store", "tracker")
"""Settings that say what is read, where the store is written, and where figures are sent."""
NOTES = 1000
"""Runs that are remembered."""


def note_path(run: Path) -> Path:
    """Where this user's note of a run is."""
    import platformdirs

    name = hashlib.sha256(os.fsencode(run.resolve())).hexdigest()[:32]
    return platformdirs.user_cache_path("histo") / "runs" / name


def state_of(record: Mapping[str, Any]) -> str:
    """What a note holds: the SHA-256 of the places that a config.json names."""
    named = {name: entry["value"] for name, entry in record.items() if name in PLACES}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def note_run(run: Path, record: Mapping[str, Any]) -> None:
    """Remember a run by its settings; without a cache folder it passes for another's."""
    with suppress(OSError):
        path = note_path(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path, "w") as file:
            file.write(state_of(record))
        notes = sorted(path.parent.iterdir(), key=lambda p: p.stat().st_mtime_ns)
        for old in notes[:-NOTES]:
            old.unlink(missing_ok=True)


def is_mine(run: Path, record: Mapping[str, Any]) -> bool:
    """Whether this user has started this run, with the places that it names now."""
    with suppress(OSError, HistoError, KeyError, TypeError, ValueError):
        path = note_path(run)
        facts = path.lstat()
        check_regular(facts, path)
        if not hasattr(os, "geteuid") or facts.st_uid == os.geteuid():
            return path.read_text() == state_of(record)
    return False
