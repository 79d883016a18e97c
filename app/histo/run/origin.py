"""Which runs this user has started: only their settings say where histo writes and what it sends.

A run folder may be a stranger's, unpacked from an archive, so its owner says nothing. What this user's
histo has started is noted in the user's own cache folder, as stores are (data/store_trust.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from histo.files.notes import key_of, read_note, write_note

PLACES = ("data", "labels", "images", "store", "no_store", "tracker")
"""Settings that say what is read, where the store is written, and where figures are sent."""
RUNS = "runs"
"""The kind of the notes."""


def state_of(record: Mapping[str, Any]) -> str:
    """What a note holds: the SHA-256 of the places that a config.json names."""
    named = {name: entry["value"] for name, entry in record.items() if name in PLACES}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def note_run(run: Path, record: Mapping[str, Any]) -> None:
    """Remember a run by its settings; without a cache folder it passes for another's."""
    write_note(RUNS, key_of(run), state_of(record))


def is_mine(run: Path, record: Mapping[str, Any]) -> bool:
    """Whether this user has started this run, with the places that it names now."""
    with suppress(KeyError, TypeError, ValueError):
        return read_note(RUNS, key_of(run)) == state_of(record)
    return False
