"""Parts of a table: read, checked against each other, and joined.

A part is a CSV, `table.2-of-4.csv`, and `table.2-of-4.csv.json`, which describes the prediction it
belongs to. `histo.shards.table` writes both.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from histo import __version__
from histo.errors import HistoError
from histo.files.tables import csv_writer
from histo.files.writing import read_json, write_json, written
from histo.screen import counted
from histo.shards.shard import Shard, whole_path

FORMAT = 1
BLOCK = 1 << 20
"""Bytes read at a time."""


@dataclass(frozen=True)
class TableFacts:
    """The bundle, patches and settings that all rows of one table share."""

    command: str
    """predict or evaluate"""
    bundle: str
    """SHA-256 of its card, which holds the digests of its other files"""
    patches: int
    """number of patches over all parts"""
    names: str
    """SHA-256 over the names of all patches in order, with their labels where they have any"""
    columns: list[str]
    batch_size: int
    tta: bool
    raw: bool
    engine: str
    """the inference engine: another one gives other last digits"""
    histo: str = __version__
    skip_bad: bool = False
    """whether patches that cannot be used are left out"""

    @property
    def key(self) -> str:
        """Eight characters that identify these facts."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Part:
    """A part as its JSON describes it: the first `size` bytes, `rows` rows, are flushed to disk."""

    path: Path
    facts: TableFacts
    shard: Shard
    settings: dict[str, Any] = field(default_factory=dict)
    """what `histo merge` needs beside the rows"""
    rows: int = 0
    size: int = 0
    sha256: str = ""
    last: str = ""
    """SHA-256 of the last patch's file: shows that the names still stand for the same patches"""
    stamp: str = ""
    """SHA-256 over size, times and inode of the last patch's file: whether it is the very same file"""
    stamps: str = ""
    """the same over the files of all rows: one that changed, was replaced or renamed since shows"""

    @property
    def json(self) -> Path:
        """The path of the JSON."""
        return _beside(self.path, ".json")

    @property
    def unfinished(self) -> Path:
        """The path of the rows while some are missing."""
        return _beside(self.path, ".part")

    @property
    def block(self) -> slice:
        """The rows of the whole table that are in this part."""
        return self.shard.block(self.facts.patches, self.facts.batch_size)

    @property
    def expected(self) -> int:
        """How many rows it has when finished."""
        return int(self.block.stop - self.block.start)

    @property
    def finished(self) -> bool:
        """Whether every row is written and the table has its final name."""
        named = self.path.is_file() and not self.unfinished.is_file()
        return self.rows == self.expected and named

    def save(self) -> None:
        """Write the JSON, without the path, so that parts can be moved."""
        progress = {name: getattr(self, name) for name in (*PROGRESS_FIELDS, *STAMP_FIELDS)}
        whole = {"shard": self.shard.number, "of": self.shard.of, "settings": self.settings}
        write_json(self.json, {"format": FORMAT, **asdict(self.facts), **whole, **progress})

    @classmethod
    def read(cls, path: Path) -> Part:
        """The part at `path`, from its JSON; HistoError where it is no part."""
        place = _beside(path, ".json")
        known = read_json(place)
        try:
            facts = TableFacts(**{f.name: known[f.name] for f in fields(TableFacts)})
            shard = Shard.parse(f"{known['shard']}/{known['of']}")
            progress = {name: known[name] for name in PROGRESS_FIELDS}
            progress |= {name: known.get(name, "") for name in STAMP_FIELDS}  # added later
            part = cls(path, facts, shard, dict(known["settings"]), **progress)
            numbers = (facts.patches, facts.batch_size - 1, part.rows, part.expected - part.rows)
            good = known["format"] == FORMAT and all(type(n) is int and n >= 0 for n in numbers)
            good = good and _is_sound(part)
        except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError):
            good = False
        if not good:
            raise HistoError(f"{place} does not describe a part of a table")
        return part

    def remove(self) -> None:
        """Remove its files."""
        for path in (self.path, self.unfinished, self.json):
            path.unlink(missing_ok=True)


def _is_sound(part: Part) -> bool:
    """Whether what a part says of itself has the types that joining needs."""
    facts = part.facts
    texts = [facts.bundle, facts.names, facts.engine, facts.histo, part.sha256, part.last]
    texts += [part.stamp, part.stamps]
    return (
        facts.command in ("predict", "evaluate")
        and all(isinstance(text, str) for text in texts)
        and isinstance(facts.columns, list)
        and len(facts.columns) >= 4
        and all(isinstance(name, str) for name in facts.columns)
        and all(type(flag) is bool for flag in (facts.tta, facts.raw, facts.skip_bad))
        and type(part.size) is int
        and part.size >= 0
    )


PROGRESS_FIELDS = ("rows", "size", "sha256", "last")
STAMP_FIELDS = ("stamp", "stamps")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def part_line(share: Shard, table: Path, count: int) -> str:
    """Where a part is, and the command that joins it to the others."""
    then = f"when all {share.of} are there: histo merge {share.pattern(table)}"
    return f"part: {share.path(table)} ({counted(count, 'patch')}; {then})"


def fingerprint(names: Iterable[str]) -> str:
    """SHA-256 over names in their order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def csv_bytes(rows: Iterable[Sequence[str]]) -> bytes:
    """Rows as CSV, encoded."""
    text = io.StringIO()
    csv_writer(text).writerows(rows)
    return text.getvalue().encode()


def blocks(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The next `size` bytes of a file, or as many as there are, a block at a time."""
    while data := file.read(min(BLOCK, size)):
        yield data
        size -= len(data)


def open_parts(given: Sequence[Path]) -> list[Part]:
    """All parts of one table, in order, from files or folders of them.

    Raises HistoError that names a part that is missing, unfinished, given twice or of another table.
    """
    parts = sorted((_open(path) for path in _files(given)), key=lambda part: part.shard)
    first = parts[0]
    seen: dict[int, Part] = {}
    for part in parts:
        _check_same(first, part)
        twin = seen.setdefault(part.shard.number, part)
        if twin is not part:
            raise HistoError(f"{twin.path} and {part.path} are both part {part.shard}")
    for number in range(1, first.shard.of + 1):
        if number not in seen:
            raise HistoError(_missing(first, Shard(number, first.shard.of)))
    return parts


def _files(given: Sequence[Path]) -> list[Path]:
    found = []
    for path in given:
        inside = sorted(path.glob("*.*-of-*.csv")) if path.is_dir() else [path]
        if not inside:
            raise HistoError(f"{path} holds no parts, such as predictions.1-of-4.csv")
        found += [one for one in inside if one.suffix != ".json"]
    if not found:
        raise HistoError("no parts were given (the .csv files, not only their .json)")
    return list(dict.fromkeys(found))


def _open(path: Path) -> Part:
    if path.suffix == ".part":
        path = path.with_suffix("")
    elif not path.is_file():
        raise HistoError(f"no file {path}")
    if not _beside(path, ".json").is_file():
        raise HistoError(f"{path} is no part: {path.name}.json is not beside it")
    part = Part.read(path)
    if not part.finished:
        raise HistoError(_unfinished(part))
    return part


def _unfinished(part: Part) -> str:
    return (
        f"{part.path} is not finished: {part.rows:,} of {part.expected:,} patches (run the same "
        f"histo {part.facts.command} for share {part.shard} again: it continues)"
    )


def _missing(first: Part, shard: Shard) -> str:
    """The message for a part that was not given."""
    path = shard.path(whole_path(first.path))
    if path.is_file():
        return f"part {shard} was not given: {path}"
    if _beside(path, ".json").is_file():
        return _unfinished(Part.read(path))
    return f"part {shard} is missing: no {path} (histo {first.facts.command} of share {shard} makes it)"


def _check_same(first: Part, part: Part) -> None:
    ours, theirs = ({"of": p.shard.of, **asdict(p.facts)} for p in (part, first))
    if ours["engine"] != theirs["engine"] and ours["bundle"] == theirs["bundle"]:
        raise HistoError(
            f"{part.path} and {first.path} are not of one table: they are by {part.facts.engine} and "
            f"by {first.facts.engine}",
            "predict all shares in fp32",
        )
    for name, value in ours.items():
        if value != theirs[name]:
            raise HistoError(
                f"{part.path} and {first.path} are not of one table: {name} is "
                f"{str(value)[:40]} and {str(theirs[name])[:40]}"
            )


def joined_bytes(parts: Sequence[Part]) -> Iterator[bytes]:
    """The bytes of the whole table; HistoError where a part has changed since it was written."""
    for number, part in enumerate(parts):
        header, digest = csv_bytes([part.facts.columns]), hashlib.sha256()
        with part.path.open("rb") as file:
            for head in blocks(file, len(header)):
                digest.update(head)
                if number == 0:
                    yield head
            for data in blocks(file, part.size):
                digest.update(data)
                yield data
        if digest.hexdigest() != part.sha256:
            raise HistoError(f"{part.path} is not as it was written (SHA-256): make it again")


def join(parts: Sequence[Part], out: Path) -> int:
    """Write the whole table, complete or not at all; returns how many rows it has."""
    with written(out) as file:
        file.writelines(joined_bytes(parts))
    return sum(part.rows for part in parts)
