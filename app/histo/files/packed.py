"""Patches that lie in one ZIP file a folder instead of in files of their own: FOLDER/patches.zip.

Every command takes FOLDER/NAME.png for the member NAME.png, so that nothing else changes. Members are
stored as they are, not compressed, with one time for all, as `histo cut` writes them; any other
ZIP file of that name is not looked into.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, NamedTuple

from histo.errors import HistoError
from histo.files.digests import sha256
from histo.files.limits import IMAGE_BYTES, NAME, ROWS, check_regular
from histo.files.writing import naming

PACK = "patches.zip"
HEADER = 30
"""Bytes of a member's own header before its name, which ends with two lengths."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every member, so that the same patches are the same bytes."""
MEMBER, END, END64, LOCATOR64 = b"PK\1\2", b"PK\5\6", b"PK\6\6", b"PK\6\7"
"""What an entry of the list of members begins with, and the records after it."""
TAIL = 1 << 17
"""Bytes at the end of a ZIP file in which its end is looked for: a remark has 64 KB at most."""
OPEN = 64
"""Tables of contents that are kept: that of 100,000 patches takes some 20 MB."""

Stamp = tuple[int, int, int, int]
"""Size in bytes, mtime and ctime in ns, and inode of a file."""


class Member(NamedTuple):
    """Where a patch lies in its ZIP file."""

    offset: int
    """of its header"""
    size: int
    crc: int


def packed_names(folder: Path) -> list[str]:
    """The names of the patches in a folder's ZIP file; HistoError where it is damaged."""
    pack = folder / PACK
    state = pack.stat()
    return list(_contents(pack, state.st_mtime_ns, state.st_size))


def find_member(path: Path) -> Member | None:
    """Where a patch that is no file of its own lies; None where there is none of that name."""
    pack = path.parent / PACK
    try:
        state = pack.stat()
    except OSError:
        return None
    return _contents(pack, state.st_mtime_ns, state.st_size).get(path.name)


@lru_cache(OPEN)
def _contents(pack: Path, _changed: int, _size: int) -> dict[str, Member]:
    """The patches of a ZIP file by name."""
    try:
        check_regular(pack.stat(), pack)
        with pack.open("rb") as file:
            ROWS.check(_count(file, pack.stat().st_size), str(pack))
            with zipfile.ZipFile(file) as members:
                found = members.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error):
        raise HistoError(f"{pack} is damaged") from None
    if not all(_is_ours(one) for one in found):  # an archive of somebody's that lies there
        return {}
    return {one.filename: Member(one.header_offset, one.file_size, one.CRC) for one in found}


def _count(file: IO[bytes], size: int) -> int:
    """How many members a ZIP file lists, at most; ValueError where its end cannot be found.

    `zipfile` alone takes memory for as many as there are.
    """
    start = max(0, size - TAIL)
    file.seek(start)
    tail = file.read(TAIL)
    plain = tail[-22:-18] == END and tail[-2:] == b"\0\0"
    at = len(tail) - 22 if plain else tail.rfind(END)
    listed = int.from_bytes(tail[at + 12 : at + 16], "little") if 0 <= at <= len(tail) - 22 else -1
    end = start + at
    if at >= 76 and tail[at - 20 : at - 16] == LOCATOR64:
        listed = int.from_bytes(tail[at - 36 : at - 28], "little")
        end -= 76
        if tail[at - 76 : at - 72] != END64:
            listed = -1
    if not 0 <= listed <= end:
        raise ValueError("its list of members is not there")
    if listed > ROWS.value * (HEADER + NAME):
        return listed // HEADER
    file.seek(end - listed)
    return file.read(listed).count(MEMBER)


def _is_ours(one: zipfile.ZipInfo) -> bool:
    """Whether a member is as `Packer` writes it."""
    stored = one.compress_type == zipfile.ZIP_STORED
    return stored and one.date_time == EPOCH and "/" not in one.filename


def read_member(path: Path) -> bytes | None:
    """The bytes of a patch that lies in its folder's ZIP file; None where it does not.

    Opens the file each time: processes that share an open one would move each other's place in it.
    """
    member = find_member(path)
    if member is None:
        return None
    pack = path.parent / PACK
    IMAGE_BYTES.check(member.size, str(path))
    try:
        with pack.open("rb") as file:
            file.seek(member.offset)
            name, extra = struct.unpack("<HH", file.read(HEADER)[-4:])
            file.seek(name + extra, os.SEEK_CUR)
            data = file.read(member.size)
    except (OSError, struct.error) as error:
        raise HistoError(f"{pack} cannot be read ({error})") from None
    if zlib.crc32(data) != member.crc:
        raise HistoError(f"{path}: this patch of {pack} is damaged")
    return data


def digest_of(path: Path) -> str:
    """SHA-256 of a patch, in a file of its own or in its folder's ZIP file."""
    data = None if path.is_file() else read_member(path)
    return sha256(path) if data is None else hashlib.sha256(data).hexdigest()


def stamp_of(path: Path) -> Stamp:
    """Size, mtime, ctime and inode of a file, or of the ZIP file that it is in; HistoError for neither.

    `mv`, `cp -p`, `rsync -t` and `unzip` keep or set the mtime, and nobody can set a ctime: two files
    renamed to each other's names differ in ctime and inode alone.
    """
    try:
        info = path.stat()
    except OSError as error:
        if (member := find_member(path)) is not None:
            info = (path.parent / PACK).stat()
            return member.size, info.st_mtime_ns, info.st_ctime_ns, _signed(info.st_ino)
        raise HistoError(f"{path} cannot be read: {error.strerror}") from None
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns, _signed(info.st_ino)


def _signed(number: int) -> int:
    """A number of 64 bits as int64 holds it: some file systems use all of an inode's bits."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


class Packer:
    """Writes patches into a ZIP file, one after the other."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file

    def add(self, name: str, data: bytes) -> None:
        """Append a patch."""
        self._file.writestr(zipfile.ZipInfo(name, EPOCH), data)


@contextmanager
def packing(folder: Path) -> Iterator[Packer]:
    """Write the ZIP file of a folder, which counts only where the caller says so."""
    path = folder / PACK
    with naming(path), zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        yield Packer(file)
