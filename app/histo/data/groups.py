"""Groups (slides, patients, hospitals): the table that names them, and the group of each patch."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from histo.data.labels import _read_table, check_id, read_rows
from histo.data.patch_files import stem_of
from histo.errors import HistoError

GROUP_COLUMNS = ("slide", "patient", "group", "wsi", "hospital")


def read_groups(given: str, id_column: str) -> tuple[str, dict[str, str]]:
    """The group (slide, patient, hospital) of each id, from `CSV[:column]`, and its column's name.

    Without a column: the one called slide, patient, group or wsi; else the only one beside the id.
    Ids are taken with or without suffix.
    """
    table, column = Path(given), ""
    if not table.is_file() and ":" in given:
        place, _, column = given.rpartition(":")
        table = Path(place)
    if not column:
        column = _group_column(table, id_column)
    groups: dict[str, str] = {}
    for line, (name, group) in read_rows(table, [id_column, column]):
        where = f"{table.name}, line {line}"
        check_id(name, where)
        if not group:
            raise HistoError(f"{where}: the {column} of {name} is blank")
        stem = stem_of(name)
        if groups.setdefault(stem, sys.intern(group)) != group:
            raise HistoError(f"{where}: id {name} is of {group}, but before of {groups[stem]}")
    return column, groups


def _group_column(table: Path, id_column: str) -> str:
    """The column of a groups table that names the group, where the user did not."""
    header = [name.strip() for name in next(_read_table(table), (0, []))[1]]
    known = [name for name in GROUP_COLUMNS if name in header]
    others = [name for name in header if name != id_column]
    if known or len(others) == 1:
        return (known or others)[0]
    raise HistoError(
        f"{table.name}: which column names the group is not clear: it has {', '.join(header[:20])}",
        f"give {{groups}} {table}:COLUMN",
    )


def group_of(groups: dict[str, str], name: str, table: str) -> str:
    """The group of an id; HistoError where the table does not name it."""
    found = groups.get(stem_of(name))
    if found is None:
        raise HistoError(f"{table} names no group for the patch {name}")
    return found


def groups_of(given: str, ids: Iterable[str], id_column: str = "id") -> tuple[str, list[str]]:
    """What a group is called, and the group of each id, from `CSV[:column]`, as `read_groups`."""
    column, known = read_groups(given, id_column)
    return column, [group_of(known, name, given) for name in ids]
