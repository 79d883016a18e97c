"""What this user's histo remembers, in the user's own cache folder, where no stranger's file can say it."""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path

from histo.files.writing import written

NOTES = 1000
"""Notes of a kind that are kept, the last ones."""


def key_of(path: Path) -> bytes:
    """What a note about a file or folder is found by: its place, links resolved."""
    return os.fsencode(path.resolve())


def read_note(kind: str, key: bytes) -> str | None:
    """What is noted under a key, if this user noted it; else None."""
    path = _place(kind, key)
    with suppress(OSError, UnicodeDecodeError):
        facts = path.lstat()
        mine = not hasattr(os, "geteuid") or facts.st_uid == os.geteuid()
        if mine and stat.S_ISREG(facts.st_mode):
            return path.read_text()
    return None


def write_note(kind: str, key: bytes, text: str, most: int | None = NOTES) -> None:
    """Remember it; nothing happens where no cache can be written. Of a kind, the last `most` are kept."""
    with suppress(OSError):
        path = _place(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written(path, "w") as file:
            file.write(text)
        if most is not None:
            every = sorted(path.parent.iterdir(), key=lambda p: p.stat().st_mtime_ns)
            for old in every[:-most]:
                if old != path:  # a clock that was set back makes the new one the oldest
                    old.unlink(missing_ok=True)


def _place(kind: str, key: bytes) -> Path:
    import platformdirs

    return platformdirs.user_cache_path("histo") / kind / hashlib.sha256(key).hexdigest()[:32]
