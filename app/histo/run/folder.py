"""The files of a run folder: their names, and how they are written and read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histo.distributed import ranks
from histo.errors import Call, HistoError, Way
from histo.files.aside import folder_aside, sweep
from histo.files.limits import check_folder
from histo.files.locks import locked
from histo.files.tables import csv_writer, read_table
from histo.files.writing import flush_folder, read_json, write_json, written
from histo.run.split import Split

NUMBERS = ("crop", "size", "folds")
KINDS: dict[str, Any] = {
    **dict.fromkeys(("arch", "data"), str),
    **dict.fromkeys(("images", "group_column", "bundle", "weights", "tracker"), str | None),
    **dict.fromkeys(NUMBERS, int | None),
    "threshold": float | int | None,
}
"""The types of settings that reports and bundles are made from."""


def write_split(
    path: Path,
    ids: Sequence[str],
    labels: Sequence[str],
    sides: Sequence[str],
    sha1: Sequence[str],
    groups: Sequence[str] | None,
) -> None:
    """Write `id, label, split, sha1`, and group if there is one, one row per patch."""
    group = [groups] if groups else []
    with written(path, "w") as file:
        rows = csv_writer(file)
        rows.writerow(["id", "label", "split", *(["group"] if group else []), "sha1"])
        rows.writerows(zip(ids, labels, sides, *group, sha1, strict=True))


def exists(out: Path) -> HistoError:
    """The error of a run folder that is there already: a training that was cut can be resumed."""
    run, resume = RunFolder(out), Call("resume it", "train", {"resume": out})
    cut = False
    with suppress(HistoError):
        run.tidy()
        cut = run.config.is_file() and not run.finished and "bundle" not in run.settings()
    ways: tuple[Way, ...] = ("give another {out}",)
    if cut:
        ways += (resume,)
    elif run.predictions.is_file() and not (run.report / "report.html").is_file():
        ways += (f"read it: histo interpret {out}",)
    return HistoError(f"{out} exists, and a run is never overwritten", *ways)


def _last_number(arch: str) -> int:
    """The highest N of the folders runs/ARCH-N; 0 if there are none."""
    taken = [path.name.rpartition("-")[2] for path in Path("runs").glob(f"{arch}-*")]
    return max((int(n) for n in taken if n.isdecimal()), default=0)


@dataclass(frozen=True)
class RunFolder:
    """A run folder, whose files are read or written only on demand."""

    path: Path

    config = property(lambda self: self.path / "config.json")
    environment = property(lambda self: self.path / "environment.json")
    split = property(lambda self: self.path / "split.csv")
    history = property(lambda self: self.path / "history.csv")
    checkpoint = property(lambda self: self.path / "checkpoint")
    last = property(lambda self: self.checkpoint / "last.safetensors")
    near = property(lambda self: self.path / "near.npy")
    predictions = property(lambda self: self.path / "predictions.csv")
    report = property(lambda self: self.path / "report")
    export = property(lambda self: self.path / "export")

    @property
    def finished(self) -> bool:
        """Whether the run has finished, according to its environment.json.

        histo 0.1 did not record it: its runs are finished if they have predictions and no checkpoint.
        """
        if not self.environment.is_file():
            return False
        facts = self.facts()
        if facts["versions"].get("histo") != "0.1.0":
            return "finished" in facts
        return self.predictions.is_file() and not self.last.is_file()

    def mark_finished(self) -> None:
        """Record in environment.json that the run has finished."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        write_json(self.environment, {**read_json(self.environment), "finished": now})

    def tidy(self) -> None:
        """Remove what a process left that was killed, or whose disk failed, once the run had finished."""
        with suppress(OSError):
            if self.finished:
                self.last.unlink(missing_ok=True)
        sweep(self.path)
        sweep(self.checkpoint)

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return any(self.checkpoint.glob("*.safetensors"))

    def fold(self, number: int) -> Path:
        """The run folder of one fold, counted from 0."""
        return self.path / f"fold-{number + 1}"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the run; HistoError if another process has locked it. The lock ends with its process.

        The first process of a launch holds the lock for all.
        """
        if ranks.rank() > 0:
            yield
            return
        busy = f"{self.path} is being trained by another process (wait for it, or stop it)"
        with locked(self.path / "lock", busy):
            yield

    @classmethod
    def create(
        cls, out: Path | None, arch: str, fill: Callable[[RunFolder, Path], object]
    ) -> RunFolder:
        """A new run folder: `out`, or the next free runs/ARCH-N.

        `fill` writes into it under another name and is told the one that it will get: a folder of
        that name holds from its first moment what `fill` wrote. It must write something.
        """
        number = 0 if out is not None else _last_number(arch)
        while True:
            number += 1
            place = Path("runs", f"{arch}-{number}") if out is None else out
            if out is not None and os.path.lexists(out):
                raise exists(out)
            with folder_aside(place) as aside:
                fill(cls(aside), place)
                flush_folder(aside)
                try:
                    aside.rename(place)
                except OSError:
                    if not os.path.lexists(place):
                        raise
                    continue  # another process made one of that name
            flush_folder(place.parent)
            return cls(place)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder; HistoError if it is not one."""
        run = cls(path)
        if not path.is_dir():
            raise HistoError(f"no run folder {path}")
        if not run.config.is_file():
            raise HistoError(f"{path} is not a run folder: it has no config.json")
        check_folder(path, "the run")
        return run

    def settings(self) -> dict[str, Any]:
        """The resolved settings by name, without their sources; HistoError where one has a wrong type."""
        try:
            found = {name: entry["value"] for name, entry in read_json(self.config).items()}
            good = all(isinstance(found.get(name), kind) for name, kind in KINDS.items())
            good = good and ("bundle" in found or isinstance(found["weights"], str))
            good = good and all((found.get(name) or 1) in range(1, 10_000) for name in NUMBERS)
            Split.read(found.get("split"), found.get("leak"))
        except (AttributeError, KeyError, TypeError, ValueError, IndexError):
            good = False
        if not good:
            raise HistoError(f"{self.config} is not a histo config")
        return found

    def facts(self) -> dict[str, Any]:
        """The content of environment.json; HistoError where something has a wrong type."""
        found = read_json(self.environment)
        good = isinstance(found, dict) and isinstance(found.get("versions"), dict)
        texts = [None]
        if good:
            texts = [found.get("started"), found.get("device"), *found["versions"].values()]
        if not all(isinstance(text, str) for text in texts):
            raise HistoError(
                f"{self.environment} is damaged: a value is missing or of a wrong type"
            )
        return dict(found)

    @staticmethod
    def split_of(settings: dict[str, Any]) -> Split:
        """How a run's patches were split, according to its settings."""
        return Split.read(settings.get("split"), settings.get("leak"))

    def read_split(self) -> list[dict[str, str]]:
        """The rows of split.csv: id, label, split, and group if there is one."""
        return self._rows(self.split, {"id", "label", "split"})

    def _rows(self, path: Path, needed: set[str]) -> list[dict[str, str]]:
        """The rows of a table of the run by column; HistoError where it is not one."""
        try:
            rows = read_table(path)
            header = next(rows, (0, list[str]()))[1]
            found = [dict(zip(header, row, strict=True)) for _, row in rows if row]
        except (OSError, ValueError):
            raise HistoError(f"{path} is not readable") from None
        if not needed <= set(header):
            raise HistoError(f"{path} is not readable: it lacks a column")
        return found

    def groups_of(self, ids: Sequence[str]) -> list[str] | None:
        """The group of each id in split.csv; None if it has no groups."""
        known = {row["id"]: row.get("group", "") for row in self.read_split()}
        groups = [known.get(name, "") for name in ids]
        return groups if all(groups) else None

    def folds_of(self, ids: Sequence[str]) -> list[str]:
        """The fold of each id, in a run of folds."""
        known = {row["id"]: row["split"] for row in self.read_split()}
        return [known.get(name, "") for name in ids]

    def read_history(self) -> list[dict[str, float]]:
        """The rows of history.csv, one per epoch; none if no epoch was completed."""
        if not self.history.is_file():
            return []
        try:
            return [
                {key: float(value) for key, value in row.items()}
                for row in self._rows(self.history, set())
            ]
        except ValueError:
            raise HistoError(f"{self.history} holds what is no number") from None
