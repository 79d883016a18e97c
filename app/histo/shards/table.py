"""A table written batch by batch, which continues where it stopped after a kill.

While `table.csv` is being written there are `table.csv.part`, its rows so far, and `table.csv.json`,
which describes them and says how many have been flushed to disk.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from histo.errors import HistoError
from histo.files.locks import locked
from histo.files.packed import digest_of, stamp_of
from histo.files.writing import naming
from histo.screen import Screen
from histo.shards.parts import Part, blocks, csv_bytes

SAVE_SECONDS = 5.0
"""How often rows are flushed: at most this much work is lost to a kill, and the current batch."""


class PartWriter:
    """A part being written: `rows` rows are there, `add` adds the next."""

    def __init__(self, part: Part, files: Sequence[Path]) -> None:
        self.part, self._files = part, files
        self._digest, self._saved = hashlib.sha256(), -SAVE_SECONDS
        self._stamps = hashlib.sha256()
        self._file: IO[bytes] | None = None
        self._resume()
        self.rows, self._size = self.part.rows, self.part.size

    def _resume(self) -> None:
        """Continue from the rows of an earlier process, if they are of the same work and unchanged."""
        with suppress(HistoError, OSError):
            left = Part.read(self.part.path)
            if left.unfinished.is_symlink():  # what it leads to is not histo's to write to
                return
            if (left.facts, left.shard) != (self.part.facts, self.part.shard) or not left.rows:
                return
            if left.last != digest_of(self._files[left.rows - 1]):
                return
            stamps = hashlib.sha256(_stamps(self._files[: left.rows]))
            same_place = left.stamp == _digest(_stamps(self._files[left.rows - 1 : left.rows]))
            if same_place and left.stamps != stamps.hexdigest():
                return  # files were changed or swapped; a copy of all of them elsewhere is believed
            digest = hashlib.sha256()
            with (left.path if left.finished else left.unfinished).open("rb") as file:
                for data in blocks(file, left.size):
                    digest.update(data)
            if digest.hexdigest() == left.sha256:
                self.part = replace(left, settings=self.part.settings)
                self._digest, self._stamps = digest, stamps

    def open(self, file: IO[bytes]) -> None:
        """Continue in `file` after the rows that were flushed; later bytes are cut off."""
        self._file = file
        file.truncate(self._size)
        file.seek(self._size)
        if not self._size:
            self._put(csv_bytes([self.part.facts.columns]))

    def add(self, rows: Sequence[Sequence[str]]) -> None:
        """Add the rows of the next batch."""
        self._put(csv_bytes(rows))
        self._stamps.update(_stamps(self._files[self.rows : self.rows + len(rows)]))
        self.rows += len(rows)
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._digest.update(data)
        self._size += len(data)

    def save(self) -> None:
        """Flush the rows so far, then record them in the JSON."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        last = digest_of(self._files[self.rows - 1]) if self.rows else ""
        stamp = _digest(_stamps(self._files[self.rows - 1 : self.rows])) if self.rows else ""
        self.part = replace(
            self.part,
            rows=self.rows,
            size=self._size,
            sha256=self._digest.hexdigest(),
            last=last,
            stamp=stamp,
            stamps=self._stamps.hexdigest(),
        )
        self.part.save()
        self._saved = time.monotonic()


def _stamps(files: Sequence[Path]) -> bytes:
    """What tells that one of these files has changed, been replaced or renamed: a line for each."""
    found = []
    for path in files:
        try:
            found.append(f"{stamp_of(path)}\n")
        except HistoError:  # it was read, and is gone
            found.append("gone\n")
    return "".join(found).encode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def open_table(part: Part, files: Sequence[Path], screen: Screen) -> Iterator[PartWriter]:
    """The table of `part`, a row for each of `files`; it gets its name after its last row.

    After an error or a kill the rows so far stay, and the next call continues from them.
    """
    with _lock_table(part.path):
        table = PartWriter(part, files)
        if table.rows:
            done = f"{table.rows:,} of {len(files):,} patches of {part.path} are done already"
            screen.say(done + (": continuing" if table.rows < len(files) else ""))
        elif part.json.is_file():
            screen.say(
                f"{part.json} belongs to another prediction, or to files that have changed: starting over"
            )
        if table.rows and table.part.finished:
            yield table
            return
        try:
            if not table.rows:
                part.unfinished.unlink(missing_ok=True)  # a link would lead to another file
            how, place = "r+b" if table.rows else "xb", part.unfinished
            with naming(part.path), place.open(how) as file:
                table.open(file)
                try:
                    yield table
                finally:
                    if table.rows or not files:
                        table.save()
            part.unfinished.replace(part.path)
        finally:
            if not table.rows and files:
                part.unfinished.unlink(missing_ok=True)
                part.json.unlink(missing_ok=True)


@contextmanager
def _lock_table(path: Path) -> Iterator[None]:
    """Hold the lock of a table: only one process may write it."""
    lock = path.with_name(f"{path.name}.lock")
    with locked(lock, f"another process is writing {path}"):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes it on release
                lock.unlink()
