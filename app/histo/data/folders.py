"""Labels, groups and split as a tree of folders names them: CLASS/, PATIENT/CLASS/, train/CLASS/.

Levels are counted from 1, at the images folder's own folders. A level whose folders are called train,
valid or test is the split; one with a single name says nothing. Of what is left, one level is the
class; of two, the class is the one with few names and the group the one with many.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histo.data.labels import SPLITS, Row, check_class_names
from histo.data.patch_files import PatchFiles
from histo.errors import HistoError
from histo.screen import Screen, counted

FOLDER_SPLITS = {**SPLITS, "training": "train", "test": "test", "testing": "test"}
MANY = 10
"""Where each inner folder lies in one outer folder only, the inner ones are groups (CLASS/PATIENT)
if there are so many times more of them; else they may be classes of a kind (COLON/BENIGN)."""
NO_GROUPS = "none"


@dataclass(frozen=True)
class FolderLabels:
    """The patches of a tree and a row for each; `unit` is what a group is, empty without groups."""

    rows: list[Row]
    paths: PatchFiles
    unit: str = ""


@dataclass(frozen=True)
class Rule:
    """How to read a value from a relative path: a level of folders, or a regular expression."""

    level: int = 0
    pattern: re.Pattern[str] | None = None
    unit: str = "folder"

    @classmethod
    def parse(cls, given: str, setting: str) -> Rule:
        """`2` is the second level from the top; anything else is a regular expression."""
        if given.isascii() and given.isdecimal():
            return cls(int(given))
        try:
            pattern = re.compile(given)
        except re.error as error:
            raise HistoError(
                f"{given!r} is no regular expression: {error}",
                f"{{{setting}}} takes a level of folders, counted from 1, or a regular expression",
            ) from None
        return cls(pattern=pattern, unit=next(iter(pattern.groupindex), "group"))

    def read(self, name: str) -> str | None:
        """The value in a relative path, or None: a level, the first group of the match, or all of it."""
        if self.pattern is None:
            parts = name.split("/")
            return parts[self.level - 1] if 0 < self.level < len(parts) else None
        match = self.pattern.search(name)
        if match is None:
            return None
        return match[1] if self.pattern.groups else match[0]

    def values(self, names: Sequence[str], setting: str) -> list[str]:
        """The value of each path; HistoError that names the first without one."""
        found = []
        for name in names:
            value = self.read(name)
            if not value:
                what = self.pattern.pattern if self.pattern else f"folder of level {self.level}"
                raise HistoError(f"{name} has no {what}", f"give another {{{setting}}}")
            found.append(sys.intern(unicodedata.normalize("NFC", value)))
        return found


def read_folders(
    paths: PatchFiles, label_from: str | None, group_from: str | None, screen: Screen
) -> FolderLabels:
    """Label, split and group of every patch of a tree, as `label_from` and `group_from` say or found.

    Raises HistoError where it is not clear which level is the class.
    """
    levels = levels_of(paths) if paths else []
    split = next((n for n, names in enumerate(levels, 1) if _is_split(names)), 0)
    label, group = rules_of(paths, levels, split, label_from, group_from)
    labels = label.values(paths.names, "label_from")
    groups = group.values(paths.names, "group_from") if group else [""] * len(paths)
    sides = [
        FOLDER_SPLITS[name.split("/")[split - 1].lower()] if split else "" for name in paths.names
    ]
    first = {name: paths.names[at] for at, name in reversed(list(enumerate(labels)))}
    check_class_names(first, str(paths.folder))
    say_levels(paths, label, group, split, screen)
    columns = zip(paths.names, labels, sides, groups, strict=True)
    rows = [Row(name, value, 0, side, unit) for name, value, side, unit in columns]
    return FolderLabels(rows, paths, group.unit if group else "")


def names_classes(paths: PatchFiles) -> bool:
    """Whether patches lie in folders that could be classes: more than one, and not train and test."""
    outer = Counter(name.partition("/")[0] for name in paths.names if "/" in name)
    inner = Counter(name.rpartition("/")[0] for name in paths.names if "/" in name)
    return len(inner) > 1 and not (_is_split(outer) and len(inner) == len(outer))


def groups_from_paths(given: str | None, paths: PatchFiles) -> tuple[str, list[str] | None]:
    """What a group is and the group of each file, from their paths; None where none is asked for."""
    if given is None or given == NO_GROUPS:
        return "", None
    rule = Rule.parse(given, "group_from")
    return rule.unit, rule.values(paths.names, "group_from")


def levels_of(paths: PatchFiles) -> list[Counter[str]]:
    """The folder names of each level, with their patches; levels that not all patches have are left off."""
    depth = min(name.count("/") for name in paths.names)
    return [Counter(name.split("/", n + 1)[n] for name in paths.names) for n in range(depth)]


def _is_split(names: Counter[str]) -> bool:
    sides = {FOLDER_SPLITS.get(name.lower()) for name in names}
    return None not in sides and len(sides) > 1


def rules_of(
    paths: PatchFiles,
    levels: list[Counter[str]],
    split: int,
    label_from: str | None,
    group_from: str | None,
) -> tuple[Rule, Rule | None]:
    """How to read the label and, where there are groups, the group."""
    telling = [n for n, names in enumerate(levels, 1) if len(names) > 1 and n != split]
    group = Rule.parse(group_from, "group_from") if group_from not in (None, NO_GROUPS) else None
    if label_from is not None:
        label = Rule.parse(label_from, "label_from")
        rest = [n for n in telling if n != label.level]
        if group_from is None and label.level in telling and len(rest) == 1:
            group = Rule(rest[0]) if _crosses(paths, levels, label.level, rest[0]) else None
        return label, group
    rest = [n for n in telling if group is None or n != group.level]
    if len(rest) == 1:
        return Rule(rest[0]), group
    if len(rest) == 2:
        label_level = _class_level(paths, levels, *rest)
        if label_level:
            if group_from is None:
                group = Rule(rest[0] if label_level == rest[1] else rest[1])
            return Rule(label_level), group
    raise HistoError(
        f"which folders of {paths.folder} are classes is not clear: {describe(levels)}",
        "give {label_from} LEVEL, counted from 1",
        "a label CSV with {labels}",
    )


def _class_level(paths: PatchFiles, levels: list[Counter[str]], outer: int, inner: int) -> int:
    """Which of two levels is the class, 0 where that is not clear."""
    if _crosses(paths, levels, inner, outer):
        return inner
    if _crosses(paths, levels, outer, inner):
        return outer
    nested = len({tuple(_at(name, outer, inner)) for name in paths.names}) == len(levels[inner - 1])
    return outer if nested and len(levels[inner - 1]) >= MANY * len(levels[outer - 1]) else 0


def _crosses(paths: PatchFiles, levels: list[Counter[str]], label: int, group: int) -> bool:
    """Whether there are twice as many groups as classes and a class has several groups, a group several classes."""
    classes, groups = len(levels[label - 1]), len(levels[group - 1])
    pairs = {tuple(_at(name, label, group)) for name in paths.names}
    return 2 * classes <= groups < len(pairs)


def _at(name: str, *levels: int) -> list[str]:
    parts = name.split("/")
    return [parts[level - 1] for level in levels]


def describe(levels: list[Counter[str]]) -> str:
    """The levels of a tree with some of their names, for an error."""
    if not levels:
        return "not all patches lie in a folder"
    return "; ".join(f"level {n}: {some(sorted(names))}" for n, names in enumerate(levels, 1))


def some(names: Sequence[str]) -> str:
    """How many names there are, and the first three."""
    more = ", …" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} ({len(names):,})"


def say_levels(
    paths: PatchFiles, label: Rule, group: Rule | None, split: int, screen: Screen
) -> None:
    """Where class, group and split were found."""

    def said(what: str, rule: Rule) -> str:
        names = some(sorted({rule.read(name) or "" for name in paths.names}))
        place = f"level {rule.level}" if rule.pattern is None else "the path"
        return f"{what} from {place}: {names}"

    parts = [said("classes", label)]
    parts += [said("groups", group)] if group else []
    parts += [said("split", Rule(split))] if split else []
    screen.say(f"{paths.folder}, {counted(len(paths), 'patch')} in folders: {'; '.join(parts)}")


def without_test(found: FolderLabels, path: Path, screen: Screen) -> FolderLabels:
    """The patches that are not in a test folder, for training."""
    kept = [n for n, row in enumerate(found.rows) if row.split != "test"]
    if len(kept) == len(found.rows):
        return found
    left = counted(len(found.rows) - len(kept), "patch")
    screen.say(f"{left} of the test folder of {path} not used for training")
    rows = [found.rows[n] for n in kept]
    return FolderLabels(rows, found.paths.pick(kept), found.unit)
