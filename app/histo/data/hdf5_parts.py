"""The parts that an HDF5 file is made of: its superblock, and the messages of an object's header."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from histo.errors import HistoError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
NOWHERE = 0xFFFF_FFFF_FFFF_FFFF
DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL, LAYOUT, FILTERS, CONTINUED, SYMBOLS = (
    *(0x1, 0x2, 0x3, 0x6, 0x7, 0x8, 0xB, 0x10, 0x11),
)
"""Types of header messages."""
HEADER_BYTES = 1 << 20
"""Of the messages of one object, with attributes; and of the names of a group."""
BLOCKS = 1000
"""Blocks of a header, nodes of a group's tree."""
NEWER = "h5repack -j 0 -k 1 IN OUT writes it as histo reads it"


class Hdf5DamageError(ValueError):
    """Bytes that are no HDF5, or a damaged file of it."""


@dataclass(frozen=True)
class Hdf5Bytes:
    """The bytes of an open file: nothing beyond its end is asked for."""

    file: BinaryIO
    size: int

    def check(self, at: int, count: int) -> None:
        """Hdf5DamageError where the file does not reach so far."""
        if at < 0 or count < 0 or at + count > self.size:
            raise Hdf5DamageError("it ends too soon")

    def read(self, at: int, count: int) -> bytes:
        """So many bytes from a place."""
        self.check(at, count)
        self.file.seek(at)
        parts, left = [], count
        while left:  # a network file system may return less than was asked for
            parts.append(self.file.read(left))
            if not parts[-1]:
                raise Hdf5DamageError("it was cut short while it was read")
            left -= len(parts[-1])
        return b"".join(parts)

    def number(self, at: int, count: int = 8) -> int:
        """A little-endian number."""
        return int.from_bytes(self.read(at, count), "little")


@dataclass(frozen=True)
class Message:
    """A message of an object's header."""

    kind: int
    shared: bool
    """kept elsewhere in the file"""
    body: bytes


def unread(path: Path, what: str) -> HistoError:
    """The error for what the format allows and histo does not read."""
    return HistoError(f"{path} has {what}, which histo does not read ({NEWER})")


def root_of(data: Hdf5Bytes, path: Path) -> int:
    """The address of the root group's header."""
    head = data.read(0, min(data.size, 100)).ljust(100, b"\0")
    if head[:8] != SIGNATURE:
        raise Hdf5DamageError("it does not begin as HDF5 does")
    version = head[8]
    old = version <= 1
    start = {0: 24, 1: 28, 2: 12, 3: 12}.get(version)
    if start is None:
        raise unread(path, f"a superblock of version {version}")
    if (head[13:15] if old else head[9:11]) != b"\x08\x08":
        raise unread(path, "addresses of another size than 8 bytes")
    base, _, third, fourth = (number_in(head, start + 8 * n) for n in range(4))
    end = third
    if base:
        raise unread(path, "a block before its own start")
    if end > data.size:
        raise Hdf5DamageError("it ends too soon")
    if not old:
        return fourth
    if fourth != NOWHERE:
        raise HistoError(f"{path} is refused: a driver keeps its data in other files")
    return number_in(head, start + 40)


def number_in(body: bytes, at: int, count: int = 8) -> int:
    """A little-endian number of a message; Hdf5DamageError where the message is too short."""
    if at + count > len(body):
        raise Hdf5DamageError("a header is cut short")
    return int.from_bytes(body[at : at + count], "little")


def messages_of(data: Hdf5Bytes, address: int) -> Iterator[Message]:
    """The messages of the header of an object, of its continuations too."""
    new = data.read(address, 4) == b"OHDR"
    if new:
        flags = data.number(address + 5, 1)
        at = address + 6 + 16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1)
        width = 1 << (flags & 3)
        pending = [(at + width, data.number(at, width))]
        head = 6 if flags & 4 else 4
    else:
        if data.number(address, 1) != 1:
            raise Hdf5DamageError("the header of an object is damaged")
        pending, head = [(address + 16, data.number(address + 8, 4))], 8
    seen: set[int] = set()
    total = 0
    while pending:
        at, size = pending.pop(0)
        total += size
        if at in seen or len(seen) > BLOCKS or total > HEADER_BYTES:
            raise Hdf5DamageError("the header of an object has no end")
        seen.add(at)
        block, place = data.read(at, size), 0
        while place + head <= len(block):
            kind, length, flags = _message_head(block, place, new)
            body = block[place + head : place + head + length]
            if len(body) < length:
                raise Hdf5DamageError("the header of an object is damaged")
            place += head + length
            if kind == CONTINUED:
                start, length = number_in(body, 0), number_in(body, 8)
                # a later version has a signature before and a checksum behind
                pending.append((start + 4, length - 8) if new else (start, length))
            else:
                yield Message(kind, bool(flags & 2), body)


def _message_head(block: bytes, at: int, new: bool) -> tuple[int, int, int]:
    """Type, length and flags of a message."""
    if new:
        return block[at], number_in(block, at + 1, 2), block[at + 3]
    return number_in(block, at, 2), number_in(block, at + 2, 2), block[at + 4]
