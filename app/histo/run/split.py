"""How a run's patches were split into train and valid, and what leaks between the two."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from histo.screen import counted

Kind = Literal["random", "grouped", "column", "folders", "unseen", "unknown"]
"""Over patches; by group; as a column of the label CSV says; by folders called train and valid; patches
new to the model; not known."""


@dataclass(frozen=True)
class Leak:
    """What is in both train and valid: how many groups and patches, and the first of each."""

    groups: int = 0
    patches: int = 0
    unit: str = "group"
    """what a group is: slide, patient, hospital"""
    first_groups: tuple[str, ...] = ()
    first_patches: tuple[str, ...] = ()
    of: int = 0
    """patches evaluated on, of which `patches` are among those that the bundle was trained on"""
    near: int = 0
    """patches evaluated on that nearly equal one of those"""

    def __bool__(self) -> bool:
        return bool(self.groups or self.patches or self.near)

    def __str__(self) -> str:
        """What leaks, as text; empty if nothing does."""
        found = []
        if self.of:
            return "; ".join(self._of_bundle())
        if self.groups:
            some = ", ".join(self.first_groups)
            found.append(f"{counted(self.groups, self.unit)} on both sides, as {some}")
        if self.patches:
            some = ", ".join(self.first_patches)
            found.append(
                f"{counted(self.patches, 'patch')} with equals on the other side, as {some}"
            )
        return "; ".join(found)

    def _of_bundle(self) -> list[str]:
        """What patches evaluated on share with those that the bundle was trained on."""
        found = []
        if self.patches or not self:
            found.append(
                f"{self.patches:,} of {self.of:,} patches are among those the model was trained or "
                "chosen on"
            )
        if self.near:
            found.append(
                f"{self.near:,} of {self.of:,} patches nearly equal one of those the model was trained "
                "or chosen on (turned, re-saved or resized)"
            )
        if self.groups:
            some, are = ", ".join(self.first_groups), "is" if self.groups == 1 else "are"
            found.append(
                f"{counted(self.groups, self.unit)} of the training {are} here too, as {some}"
            )
        return found


@dataclass(frozen=True)
class Split:
    """How patches were split into train and valid.

    `column` is the column of the groups (kind `grouped`) or the one that says train or valid (kind
    `column`). With `folds`, each patch is in valid once, for one of so many models.
    """

    kind: Kind
    column: str = ""
    groups: int = 0
    """the number of groups, if patches were split by group"""
    folds: int = 0
    leak: Leak = Leak()
    near_of: int = 0
    """kind `unseen`: with how many patches of the training near-duplicates were looked for"""
    trained: int = 0
    """kind `unseen`: how many patches the model was trained or chosen on"""

    def as_dict(self) -> dict[str, Any]:
        """The split as plain JSON values."""
        return asdict(self)

    @classmethod
    def read(cls, value: Any, leak: Any = "") -> Split:
        """The split of a run's config.json; runs before 0.2 describe it by a sentence."""
        if isinstance(value, dict):
            fields = {**value, "leak": Leak(**_tuples(value.get("leak") or {}))}
            return _checked(cls(**fields))
        return _read_sentence(str(value or ""), str(leak or ""))


def _checked(split: Split) -> Split:
    """The split; TypeError where a value of it is of another type, as in a file that was edited."""
    leak = split.leak
    counts = (split.groups, split.folds, split.near_of, split.trained)
    numbers = (*counts, leak.groups, leak.patches, leak.of, leak.near)
    texts = (split.column, leak.unit, *leak.first_groups, *leak.first_patches)
    if (
        split.kind not in get_args(Kind)
        or not all(type(n) is int and n >= 0 for n in numbers)
        or not all(isinstance(text, str) for text in texts)
    ):
        raise TypeError("not a split")
    return split


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}


def _read_sentence(sentence: str, leak: str) -> Split:
    """A split and its leak, from the sentence that histo 0.1 wrote."""
    folds, _, rest = sentence.rpartition(" folds, ")
    starts: dict[str, Kind] = {
        "random": "random",
        "by ": "grouped",
        "as the column ": "column",
        "none of these patches": "unseen",
    }
    start, kind = next(
        ((start, kind) for start, kind in starts.items() if rest.startswith(start)), ("", "unknown")
    )
    name = rest.removeprefix(start).partition(":")[0].removesuffix(" says")
    column = name if kind in ("grouped", "column") else ""
    groups = _first_number(rest) if kind == "grouped" else 0
    return Split(kind, column, groups, _first_number(folds), _read_leak(leak))


def _read_leak(sentence: str) -> Leak:
    numbers = [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", sentence)]
    if "are among those" in sentence:
        return Leak(patches=numbers[0], of=numbers[1])
    if not sentence:
        return Leak()
    return Leak(patches=numbers[0], first_patches=(sentence.partition(", as ")[2],))


def _first_number(text: str) -> int:
    found = re.search(r"\d[\d,]*", text)
    return int(found[0].replace(",", "")) if found else 0
