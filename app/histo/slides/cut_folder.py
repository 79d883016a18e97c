"""The folder that a cut writes: a slide is done when its folder in `slides/` is there.

DATA/train/SLIDE/X_Y.png   the patches, by their level-0 corner
DATA/slides/SLIDE/         tiles.csv, slide.json, sheet.jpg, tissue.jpg, tissue.geojson
DATA/train_labels.csv, groups.csv, tiles.csv, cut.json
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histo.errors import HistoError
from histo.files.aside import discard, is_aside, sweep
from histo.files.locks import locked
from histo.files.tables import csv_writer
from histo.files.writing import flush_disks, read_json, write_json, written

RECORD, LABELS, GROUPS, TILES, FAILED = (
    "cut.json", "train_labels.csv", "groups.csv", "tiles.csv", "failed.csv",
)  # fmt: skip
COLUMNS = ("id", "slide", "x", "y", "width", "height", "label", "annotation", "cover")
"""Of tiles.csv: level-0 px, the class, the file of annotations, and the share that the class covers."""


@dataclass(frozen=True)
class Joined:
    """The patches of all slides: how many of each class, from how many slides and patients."""

    counts: dict[str, int]
    slides: int
    patients: int
    """0 where they are not known"""


@dataclass(frozen=True)
class CutFolder:
    """DATA, with patches of slides."""

    path: Path

    @classmethod
    @contextmanager
    def open(cls, path: Path, settings: Mapping[str, Any]) -> Iterator[CutFolder]:
        """The folder, locked, new or of a cut with the same settings; else HistoError."""
        record = path / RECORD
        if path.exists() and not path.is_dir():
            raise HistoError(f"{path} is a file", "give another {out}")
        if record.is_file():
            if read_json(record) != settings:
                raise HistoError(f"{path} was cut with other settings", "give another {out}")
        elif path.is_dir() and any(
            p.name != "lock" for p in path.iterdir() if not is_aside(p.name)
        ):
            raise HistoError(f"{path} is not empty, and was not cut by histo", "give another {out}")
        path.mkdir(parents=True, exist_ok=True)
        with locked(path / "lock", f"another process cuts into {path}"):
            if not record.is_file():
                write_json(record, settings)
            for kept in ("slides", "train", "unlabelled"):
                sweep(path / kept)
            yield cls(path)

    def tiles_of(self, slide: str) -> Path:
        """The table of a slide's tiles, there when the slide is done."""
        return self.path / "slides" / slide / TILES

    def images(self, slide: str, labelled: bool = True) -> Path:
        """Where a slide's patches are."""
        return self.path / ("train" if labelled else "unlabelled") / slide

    def is_done(self, slide: str, key: str) -> bool:
        """Whether a slide was cut, from this very file and these annotations."""
        record = self.path / "slides" / slide / "slide.json"
        try:
            return self.tiles_of(slide).is_file() and bool(read_json(record)["key"] == key)
        except (HistoError, KeyError, TypeError):
            return False

    def remove(self, slide: str) -> None:
        """Remove what is there of a slide, its mark of completion first."""
        for folder in (
            self.path / "slides" / slide, self.images(slide), self.images(slide, False)
        ):  # fmt: skip
            discard(folder)

    @contextmanager
    def making(self, slide: str, key: str) -> Iterator[Path]:
        """A folder for a slide's files that gets its name when all are there."""
        (self.path / LABELS).unlink(missing_ok=True)  # without it a cut has not finished
        self.remove(slide)
        work = self.path / "slides" / f".{slide}.part"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            yield work
            flush_disks()  # the patches, before anything says that they are there
            write_json(work / "slide.json", {"key": key})
            work.replace(self.path / "slides" / slide)
        except HistoError:
            shutil.rmtree(work, ignore_errors=True)
            self.remove(slide)
            raise

    def rows(self, slides: Iterable[str]) -> Iterator[dict[str, str]]:
        """The tiles of slides that are done, slide by slide."""
        for slide in slides:
            if self.tiles_of(slide).is_file():
                with self.tiles_of(slide).open(encoding="utf-8", newline="") as file:
                    yield from csv.DictReader(file)

    def finish(self, patients: Mapping[str, str]) -> Joined:
        """Join the tables of all slides (each with its patient, or empty)."""
        counts: dict[str, int] = {}
        slides: set[str] = set()
        unit = [] if not any(patients.values()) else ["patient"]
        with (
            written(self.path / LABELS, "w") as labels,  # the first to be opened gets its name last
            written(self.path / TILES, "w") as tiles,
            written(self.path / GROUPS, "w") as groups,
        ):
            tables = [csv_writer(file) for file in (tiles, labels, groups)]
            for table, head in zip(
                tables, (COLUMNS, ("id", "label"), ("id", "slide", *unit)), strict=True
            ):
                table.writerow(head)
            for row in self.rows(patients):
                tables[0].writerow(row[name] for name in COLUMNS)
                if not row["label"]:
                    continue
                counts[row["label"]] = counts.get(row["label"], 0) + 1
                slides.add(row["slide"])
                tables[1].writerow((row["id"], row["label"]))
                who = [patients[row["slide"]]] if unit else []
                tables[2].writerow((row["id"], row["slide"], *who))
        return Joined(counts, len(slides), len({patients[one] for one in slides} - {""}))

    def write_failed(self, failed: Sequence[tuple[str, str]]) -> None:
        """failed.csv: the slides that were left out, and why; removed where there are none."""
        if not failed:
            (self.path / FAILED).unlink(missing_ok=True)
            return
        with written(self.path / FAILED, "w") as file:
            table = csv_writer(file)
            table.writerow(("slide", "reason"))
            table.writerows(failed)
