"""Groups (slides, patients, hospitals): the table that names them, and the group of each patch."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from histo.data.columns import id_column, plain_name, read_header, read_rows
from histo.data.ids import IdLookup, check_id
from histo.errors import HistoError

GROUP_COLUMNS = ("slide", "patient", "group", "wsi", "hospital", "case", "slideid", "patientid")


def read_groups(given: str, ids: str) -> tuple[str, IdLookup]:
    """The group (slide, patient, hospital) of each id, from `CSV[:column]`, and its column's name.

    Without a column: the first called slide, patient, group, wsi …; else the only one beside the id.
    `ids` is the name of the column of ids. Ids are taken with or without suffix.
    """
    table, column = table_of(given)
    column = column or _group_column(table, ids)
    groups = IdLookup()
    for line, (name, group) in read_rows(table, [id_column(ids), column]):
        where = f"{table.name}, line {line}"
        patch = check_id(name, where)
        if not group:
            raise HistoError(f"{where}: the {column} of {name} is blank")
        before = groups.add(patch, sys.intern(group))
        if before != group:
            raise HistoError(f"{where}: id {name} is of {group}, but before of {before}")
    return column, groups


def table_of(given: str) -> tuple[Path, str]:
    """The file and the column of `CSV[:column]`; no column where none is given."""
    table, column = Path(given), ""
    if not table.is_file() and ":" in given:
        place, _, column = given.rpartition(":")
        table = Path(place)
    if not table.exists():
        raise HistoError(f"no CSV {table} of groups", "{groups} takes CSV[:COLUMN]")
    return table, column


def _group_column(table: Path, ids: str) -> str:
    """The column of a groups table that names the group, where the user did not."""
    header = read_header(table)
    names = {plain_name(name): name for name in reversed(header)}
    known = [names[name] for name in GROUP_COLUMNS if names.get(name, ids) != ids]
    others = [name for name in header if name and name != ids]
    if known or len(others) == 1:
        return (known or others)[0]
    raise HistoError(
        f"{table.name}: which column names the group is not clear: it has {', '.join(header[:20])}",
        f"give {{groups}} {table}:COLUMN",
    )


def group_of(groups: IdLookup, name: str, table: str, what: str = "patch") -> str:
    """The group of an id; HistoError where the table does not name it."""
    found = groups.get(name)
    if found is None:
        raise HistoError(f"{table} names no group for the {what} {name}")
    return found


def groups_of(
    given: str, ids: Iterable[str], column: str = "id", what: str = "patch"
) -> tuple[str, list[str]]:
    """What a group is called, and the group of each id, from `CSV[:column]`, as `read_groups`.

    `what` is of what these are the ids, for errors.
    """
    unit, known = read_groups(given, column)
    return unit, [group_of(known, name, given, what) for name in ids]
