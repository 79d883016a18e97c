"""The files of a run folder: their names, how they are written, how they are read."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from histo import ranks
from histo.errors import HistoError
from histo.limits import CLASSES, JSON_BYTES, Limit, read_bytes
from histo.lock import held
from histo.rows import read_table

if TYPE_CHECKING:
    import numpy as np

PROBABILITY = "p_"
"""The prefix of a probability column, so that a class may be called `id` or `label`."""


@contextmanager
def written(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file beside `path`; on a clean exit flush it to disk and rename it to `path`."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with os.fdopen(handle, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a loss of power, where the system lets a folder be flushed."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def check_folders(*paths: Path | None) -> None:
    """Each file's folder must be there: better said before the work than after it."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise HistoError(f"no folder {path.parent} to write {path.name} into (make it first)")


def check_new(out: Path) -> None:
    """A run folder must not be there yet."""
    if out.exists():
        raise HistoError(f"{out} exists, and a run is never overwritten (give another --out)")


def _umask() -> int:
    """The process's umask: mkstemp makes private files, and a run is there to be shared."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with written(path, "w") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON that a person can read, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, limit: Limit = JSON_BYTES) -> Any:
    """Read a JSON file; HistoError names a missing, damaged or overlong one."""
    try:
        return json.loads(read_bytes(path, limit).decode())
    except FileNotFoundError:
        raise HistoError(f"no file {path}") from None
    except (OSError, ValueError, RecursionError):
        raise HistoError(f"{path} is not readable JSON") from None


@dataclass(frozen=True)
class Predictions:
    """A predictions table: from a histo run or from any other system.

    `labels` are indices into `vocab`; `probabilities` is float64 [N, C], rows summing to 1.
    """

    ids: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    vocab: list[str]


def prediction_columns(vocab: Sequence[str]) -> list[str]:
    """The probability columns of a table, one a class."""
    return [f"{PROBABILITY}{name}" for name in vocab]


def write_predictions(
    path: Path, ids: Sequence[str], labels: Sequence[str], probabilities: Any, vocab: Sequence[str]
) -> None:
    """Write `id, label, p_CLASS…` with nine significant digits, enough for any float32."""
    with written(path, "w") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["id", "label", *prediction_columns(vocab)])
        for name, label, values in zip(ids, labels, probabilities, strict=True):
            rows.writerow([name, label, *(f"{value:.9g}" for value in values)])


def write_submission(table: Path, out: Path) -> None:
    """Write Kaggle's `id,label`, the probability of class 1, from a table of `histo predict`."""
    with table.open(encoding="utf-8", newline="") as source, written(out, "w") as file:
        rows = csv.reader(source)
        header = next(rows)
        if len(header) != 4:
            raise HistoError(f"--submission needs two classes; {table} has {len(header) - 2}")
        kaggle = csv.writer(file, lineterminator="\n")
        kaggle.writerow(["id", "label"])
        kaggle.writerows((row[0], row[3]) for row in rows)


def write_split(
    path: Path,
    ids: Sequence[str],
    labels: Sequence[str],
    sides: Sequence[str],
    sha1: Sequence[str],
    groups: Sequence[str] | None,
) -> None:
    """Write `id, label, split, sha1`, and group where there is one, a row a patch."""
    group = [groups] if groups else []
    with written(path, "w") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["id", "label", "split", *(["group"] if group else []), "sha1"])
        rows.writerows(zip(ids, labels, sides, *group, sha1, strict=True))


def read_predictions(path: Path) -> Predictions:
    """Read and check a predictions table; HistoError names the line that is wrong."""
    import numpy as np

    rows = read_table(path)
    try:
        header = next(rows, (0, []))[1]
    except FileNotFoundError:
        raise HistoError(f"no predictions table {path}") from None
    except IsADirectoryError:
        raise HistoError(f"{path} is a folder, not a predictions table") from None
    vocab = [name[len(PROBABILITY) :] for name in header[2:] if name.startswith(PROBABILITY)]
    distinct = 2 <= len(set(vocab)) == len(vocab)
    if header != ["id", "label", *prediction_columns(vocab)] or not distinct:
        raise HistoError(f"{path}: the columns must be id, label, p_CLASS, p_CLASS … in this order")
    CLASSES.check(len(vocab), str(path))
    index = {name: i for i, name in enumerate(vocab)}
    ids: list[str] = []
    labels: list[int] = []
    table = array("d")
    for i, (_, row) in enumerate(rows):
        where = f"{path.name}, row {i + 1}"
        if len(row) != len(header):
            raise HistoError(f"{where}: {len(row)} values where the header has {len(header)}")
        if row[1] not in index:
            raise HistoError(f"{where}: label {row[1]!r} has no column {PROBABILITY}{row[1]}")
        try:
            values = [float(value) for value in row[2:]]
        except ValueError:
            raise HistoError(f"{where}: a probability is not a number") from None
        if not (all(value >= 0 for value in values) and abs(sum(values) - 1) < 1e-3):
            raise HistoError(f"{where}: the probabilities do not add up to 1")
        ids.append(row[0])
        labels.append(index[row[1]])
        table.extend(values)
    if not ids:
        raise HistoError(f"{path} has no rows")
    return Predictions(
        ids, np.array(labels, np.int64), np.array(table).reshape(-1, len(vocab)), vocab
    )


@dataclass(frozen=True)
class Run:
    """A run folder. Nothing is read or made until asked for."""

    path: Path

    config = property(lambda self: self.path / "config.json")
    environment = property(lambda self: self.path / "environment.json")
    split = property(lambda self: self.path / "split.csv")
    history = property(lambda self: self.path / "history.csv")
    checkpoint = property(lambda self: self.path / "checkpoint")
    predictions = property(lambda self: self.path / "predictions.csv")
    report = property(lambda self: self.path / "report")
    export = property(lambda self: self.path / "export")

    @property
    def finished(self) -> bool:
        """Whether training came to its end: the learning curve is what it draws last."""
        return (self.path / "learning_curve.svg").is_file()

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return any(self.checkpoint.glob("*.safetensors"))

    def fold(self, number: int) -> Path:
        """The run folder of one fold, counted from 0."""
        return self.path / f"fold-{number + 1}"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run alone; HistoError where another process does. A dead one holds nothing.

        Of the processes of a launch the first holds it for all.
        """
        if ranks.rank() > 0:
            yield
            return
        said = f"{self.path} is being trained by another process (wait for it, or stop it)"
        with held(self.path / "lock", said):
            yield

    @classmethod
    def create(cls, out: Path | None, arch: str) -> Run:
        """Make a new, empty run folder: `out`, or the next free runs/ARCH-N."""
        if out is not None:
            try:
                out.mkdir(parents=True)
            except FileExistsError:
                raise HistoError(
                    f"{out} exists, and a run is never overwritten (give another --out, or go on "
                    f"with it: histo train --resume {out})"
                ) from None
            return cls(out)
        runs = Path("runs")
        runs.mkdir(exist_ok=True)
        taken = [p.name.rpartition("-")[2] for p in runs.glob(f"{arch}-*")]
        number = max((int(n) for n in taken if n.isdecimal()), default=0)
        while True:
            number += 1
            try:
                (runs / f"{arch}-{number}").mkdir()
            except FileExistsError:  # another process took it first
                continue
            return cls(runs / f"{arch}-{number}")

    @classmethod
    def open(cls, path: Path) -> Run:
        """An existing run folder; HistoError where it is none."""
        run = cls(path)
        if not path.is_dir():
            raise HistoError(f"no run folder {path}")
        if not run.config.is_file():
            raise HistoError(f"{path} is not a run folder: it has no config.json")
        return run

    def settings(self) -> dict[str, Any]:
        """The resolved settings by name, without their sources."""
        try:
            return {name: entry["value"] for name, entry in read_json(self.config).items()}
        except (AttributeError, KeyError, TypeError):
            raise HistoError(f"{self.config} is not a histo config") from None

    def read_split(self) -> list[dict[str, str]]:
        """The rows of split.csv: id, label, split, and group where there is one."""
        try:
            with self.split.open(encoding="utf-8", newline="") as file:
                return list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error):
            raise HistoError(f"{self.split} is not readable") from None

    def groups_of(self, ids: Sequence[str]) -> list[str] | None:
        """The group of each id, as split.csv has it; None where it has none."""
        known = {row["id"]: row.get("group", "") for row in self.read_split()}
        groups = [known.get(name, "") for name in ids]
        return groups if all(groups) else None

    def read_history(self) -> list[dict[str, float]]:
        """The rows of history.csv, one an epoch; none where no epoch ended."""
        if not self.history.is_file():
            return []
        with self.history.open(encoding="utf-8", newline="") as file:
            return [
                {key: float(value) for key, value in row.items()} for row in csv.DictReader(file)
            ]
