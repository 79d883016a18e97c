"""Ids of patches: paths below the images folder, with or without the suffix of an image file."""

from __future__ import annotations

import re
import unicodedata

from histo.errors import HistoError

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".webp")


def stem_of(name: str) -> str:
    """An id without the suffix of an image file."""
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in SUFFIXES else name


def check_id(name: str, where: str) -> str:
    r"""An id as a path with slashes: `./a.png` is `a.png`, and `8863\1\x.png` is `8863/1/x.png`.

    Raises HistoError where it is blank, absolute, or leads out of the images folder.
    """
    if not name:
        raise HistoError(f"{where}: the id is blank")
    if not ("/" in name or "\\" in name or "\0" in name or name in (".", "..")):
        return name
    path = name.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    absolute = path.startswith("/") or re.match(r"[A-Za-z]:/", path)
    if absolute or "\0" in name or ".." in parts or not parts:
        raise HistoError(
            f"{where}: the id {name!r} is not a path below the images folder",
            "write paths relative to {images}",
        )
    return "/".join(parts)


def looks_like_formula(name: str) -> bool:
    """Whether a spreadsheet would take a cell for a formula, which may fetch and send: `=`, `+`, `-`, `@`.

    Numbers such as -1 are none.
    """
    if not name.startswith(("=", "+", "-", "@", "\t", "\r")):
        return False
    return re.fullmatch(r"[+-]?\d+(\.\d+)?", name) is None


def similar_key(name: str) -> str:
    """What an id has in common with a misspelling: no folder, suffix, case or leading zeros."""
    base = stem_of(unicodedata.normalize("NFC", name).rpartition("/")[2])
    return re.sub(r"(?<!\d)0+(?=\d)", "", base.casefold())


class IdLookup:
    """Values by id; an id with a suffix and the same one without are the same patch.

    `a.png` and `a.tif` are two patches where both are listed.
    """

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._with_suffix: dict[str, str] = {}
        """the listed id by its stem; empty where several have that stem"""

    def __len__(self) -> int:
        return len(self._values)

    def add(self, name: str, value: str) -> str:
        """Set the value of an id; returns the value that stays, which is the first one."""
        stem = stem_of(name)
        if stem == name:
            same = self._with_suffix.get(name, "")
        else:
            same = stem
            listed = self._with_suffix.setdefault(stem, name)
            if listed != name:
                self._with_suffix[stem] = ""
        if same in self._values and self._values[same] != value:
            return self._values[same]
        return self._values.setdefault(name, value)

    def get(self, name: str) -> str | None:
        """The value of an id, or None."""
        found = self._values.get(name)
        if found is not None:
            return found
        stem = stem_of(name)
        found = self._values.get(stem)
        return self._values.get(self._with_suffix.get(stem, "")) if found is None else found
