"""The objects of an HDF5 file that histo reads: the links of the root group, and one dataset's header."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from histo.data.hdf5_parts import (
    BLOCKS,
    DATASPACE,
    DATATYPE,
    EXTERNAL,
    FILTERS,
    HEADER_BYTES,
    LAYOUT,
    LINK,
    LINK_INFO,
    NOWHERE,
    SYMBOLS,
    Hdf5Bytes,
    Hdf5DamageError,
    Message,
    messages_of,
    number_in,
    root_of,
    unread,
)
from histo.errors import HistoError

DEFLATE, SHUFFLE, FLETCHER32 = 1, 2, 3


@dataclass(frozen=True)
class Dataset:
    """Where and how a dataset is stored."""

    shape: tuple[int, ...]
    address: int
    """of the pixels; of the root of the tree of chunks where there are chunks"""
    chunk: tuple[int, ...] = ()
    filters: tuple[int, ...] = ()
    """in the order in which they were applied"""


def find_dataset(data: Hdf5Bytes, path: Path, key: str, row: tuple[int, ...]) -> Dataset:
    """The header of a dataset in the root group, uint8 [N, *row]."""
    links = _links(data, path, root_of(data, path))
    if key not in links:
        raise HistoError(
            f"{path} has no dataset {key!r}: it has {', '.join(sorted(links)[:20]) or 'nothing'}"
        )
    found = links[key]
    if isinstance(found, str):
        raise HistoError(f"{path} is refused: its {key!r} is {found}, not pixels in this file")
    messages = {message.kind: message for message in messages_of(data, found)}
    if LAYOUT not in messages or DATASPACE not in messages or DATATYPE not in messages:
        raise HistoError(f"{path} has no dataset {key!r}: it has a group of that name")
    if EXTERNAL in messages:
        raise HistoError(f"{path} is refused: the pixels of its {key!r} are in other files")
    if any(messages[kind].shared for kind in (LAYOUT, DATASPACE, DATATYPE)):
        raise unread(path, "a shared header message")
    shape = _shape(messages[DATASPACE].body)
    kind = _type(messages[DATATYPE].body)
    if kind != "uint8" or shape[1:] != row or not shape[0]:
        wanted = ", ".join(map(str, row))
        raise HistoError(f"{path}: {key!r} is {kind} {list(shape)}, not uint8 [N, {wanted}]")
    filters = _filters(messages[FILTERS], path) if FILTERS in messages else ()
    return _layout(messages[LAYOUT].body, shape, filters, path)


def _links(data: Hdf5Bytes, path: Path, group: int) -> dict[str, int | str]:
    """The address of each object of a group by name, or what the name is instead."""
    found: dict[str, int | str] = {}
    for message in messages_of(data, group):
        if message.kind == LINK:
            found |= [_link(message.body)]
        elif message.kind == SYMBOLS:
            tree, heap = number_in(message.body, 0), number_in(message.body, 8)
            found |= _symbols(data, tree, heap)
        elif message.kind == LINK_INFO:
            at = 2 + 8 * (message.body[1] & 1) if len(message.body) > 1 else 2
            if number_in(message.body, at) != NOWHERE:
                raise unread(path, "a group of many objects")
    return found


def _link(body: bytes) -> tuple[str, int | str]:
    """The name of a link, and where or what it is."""
    flags, at, kind = number_in(body, 1, 1), 2, 0
    if flags & 8:
        kind, at = number_in(body, at, 1), at + 1
    at += 8 * (flags >> 2 & 1) + (flags >> 4 & 1)
    width = 1 << (flags & 3)
    length, at = number_in(body, at, width), at + width
    name = body[at : at + length].decode("utf-8", "replace")
    if kind == 0:
        return name, number_in(body, at + length)
    kinds = {1: "a soft link", 64: "an external link"}
    return name, kinds.get(kind, "a link of another kind")


def _symbols(data: Hdf5Bytes, tree: int, heap: int) -> dict[str, int | str]:
    """The links of a group of the old kind: a B-tree of symbol nodes, and a heap of names."""
    if data.read(heap, 4) != b"HEAP":
        raise Hdf5DamageError("the names of a group are damaged")
    size, place = data.number(heap + 8), data.number(heap + 24)
    if size > HEADER_BYTES:
        raise Hdf5DamageError("the names of a group have no end")
    names = data.read(place, size)
    found: dict[str, int | str] = {}
    for node in _symbol_nodes(data, tree):
        for n in range(data.number(node + 6, 2)):
            entry = data.read(node + 8 + 40 * n, 40)
            at = number_in(entry, 0)
            name = names[at : max(names.find(b"\0", at), at)].decode("utf-8", "replace")
            soft = number_in(entry, 16, 4) == 2
            found[name] = "a soft link" if soft else number_in(entry, 8)
    return found


def _symbol_nodes(data: Hdf5Bytes, tree: int) -> Iterator[int]:
    """The addresses of the symbol nodes of a group's B-tree."""
    pending, seen = [(tree, -1)], set[int]()
    while pending:
        node, level = pending.pop()
        if node in seen or len(seen) > BLOCKS:
            raise Hdf5DamageError("the names of a group have no end")
        seen.add(node)
        head = data.read(node, 24)
        if level == 0:
            if head[:4] != b"SNOD":
                raise Hdf5DamageError("the names of a group are damaged")
            yield node
            continue
        if head[:5] != b"TREE\0" or (level > 0 and head[5] != level - 1):
            raise Hdf5DamageError("the names of a group are damaged")
        children = range(number_in(head, 6, 2))
        pending += [(data.number(node + 32 + 16 * n), head[5]) for n in children]


def _shape(body: bytes) -> tuple[int, ...]:
    """The lengths of a dataspace along its axes."""
    version, rank = number_in(body, 0, 1), number_in(body, 1, 1)
    start = {1: 8, 2: 4}.get(version)
    if start is None:
        raise Hdf5DamageError("a dataspace is damaged")
    return tuple(number_in(body, start + 8 * n) for n in range(rank))


def _type(body: bytes) -> str:
    """The type of an array's items, as numpy calls it."""
    kind, bits, size = number_in(body, 0, 1) & 15, number_in(body, 1, 3), number_in(body, 4, 4)
    if kind == 0:
        whole = number_in(body, 8, 2) == 0 and number_in(body, 10, 2) == 8 * size
        name = "int" if bits & 8 else "uint"
        return f"{name}{8 * size}" if whole else f"{name} of some bits"
    return f"float{8 * size}" if kind == 1 else "of another type"


def _filters(message: Message, path: Path) -> tuple[int, ...]:
    """The filters of a dataset; HistoError for one that is not read: it may load a plugin."""
    body, found = message.body, []
    version, count = number_in(body, 0, 1), number_in(body, 1, 1)
    if message.shared or version not in (1, 2):
        raise unread(path, "a shared list of filters")
    at = 8 if version == 1 else 2
    for _ in range(count):
        kind, named = number_in(body, at, 2), version == 1
        if kind not in (DEFLATE, SHUFFLE, FLETCHER32):
            raise HistoError(
                f"{path} is refused: its pixels went through filter {kind}, and histo knows "
                "deflate, shuffle and Fletcher-32 (h5repack -f GZIP=1 IN OUT)"
            )
        length = number_in(body, at + 2, 2) if named else 0
        at += 8 if named else 6
        values = number_in(body, at - 2, 2)
        at += -(-length // 8) * 8 + 4 * values + 4 * (values % 2 if named else 0)
        found.append(kind)
    return tuple(found)


def _layout(body: bytes, shape: tuple[int, ...], filters: tuple[int, ...], path: Path) -> Dataset:
    """Where the items of a dataset are."""
    version, kind = number_in(body, 0, 1), number_in(body, 1, 1)
    if kind == 3 and version >= 4:
        raise HistoError(f"{path} is refused: it is a virtual dataset, of pixels in other files")
    if version not in (3, 4) or kind == 0:
        raise unread(path, "a dataset of another layout")
    if kind == 1:
        return Dataset(shape, number_in(body, 2))
    if version == 4:
        raise unread(path, "chunks in an index of HDF5 1.10 or later")
    if kind != 2 or number_in(body, 2, 1) != len(shape) + 1:
        raise Hdf5DamageError("its layout is damaged")
    *chunk, item = (number_in(body, 11 + 4 * n, 4) for n in range(len(shape) + 1))
    if item != 1 or 0 in chunk:
        raise Hdf5DamageError("its layout is damaged")
    return Dataset(shape, number_in(body, 3), tuple(chunk), filters)
