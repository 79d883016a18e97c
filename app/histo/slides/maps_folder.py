"""The folder of maps: which slides it is for, which are done, which failed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histo.errors import HistoError
from histo.files.limits import check_folder, is_name
from histo.files.locks import locked, locked_when_free
from histo.files.outputs import check_apart
from histo.files.writing import flush_files, read_json, write_json
from histo.slides.summary import SLIDE_JSON, SLIDES_CSV, SlideRow, read_row, write_row, write_slides

MAPS_JSON = "maps.json"
FORMAT = 1


@dataclass(frozen=True)
class MapsFolder:
    """Maps of slides by one model with one set of settings."""

    path: Path
    settings: Mapping[str, Any]
    """what all maps of the folder share"""
    classes: Sequence[str]
    """the classes that the maps show"""
    slides: Sequence[str]

    @classmethod
    def open(
        cls, path: Path, settings: Mapping[str, Any], classes: Sequence[str], slides: Sequence[str]
    ) -> MapsFolder:
        """Make the folder, or add slides to it; HistoError where it holds something else."""
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise HistoError(f"{path} is a file", "give another {out}") from None
        with locked_when_free(path / ".maps.lock", lambda: None):  # shares begin together
            known: list[str] = []
            if any(not one.name.startswith(".") for one in path.iterdir()):
                before = cls.read(path, why="give another {out}")
                check_folder(path, "the maps")  # where a link leads, this would write
                before.check_same(settings)
                known = list(before.slides)
            names = list(dict.fromkeys([*known, *slides]))
            found = cls(path, dict(settings), list(classes), names)
            if names != known:
                check_apart(path, names)
                write_json(path / MAPS_JSON, {"format": FORMAT, **_plain(found)})
            with suppress(OSError):  # while it is held: later it may be another process's
                (path / ".maps.lock").unlink()
        return found

    def check_same(self, settings: Mapping[str, Any]) -> None:
        """HistoError where the maps have other settings."""
        changed = [name for name in settings if settings[name] != self.settings.get(name)]
        if changed:
            raise HistoError(
                f"{self.path} holds maps with other settings ({', '.join(changed)})",
                "give another {out}",
            )

    @classmethod
    def read(cls, path: Path, why: str = "give the folder that histo map made") -> MapsFolder:
        """A folder of maps; HistoError where it is none."""
        try:
            found = read_json(path / MAPS_JSON)
            good = found["format"] == FORMAT
            parts = (dict(found["settings"]), list(found["classes"]), list(found["slides"]))
            good = good and all(map(is_name, parts[1])) and all(map(_names_a_folder, parts[2]))
        except (HistoError, KeyError, TypeError, ValueError):
            good = False
        if not good:
            raise HistoError(f"{path} is not a folder of maps", why)
        return cls(path, *parts)

    def of(self, slide: str) -> Path:
        """The folder of a slide's map, which is there once the map is whole."""
        return self.path / slide

    def unfinished(self, slide: str) -> Path:
        """The folder of a map that is being made."""
        return self.path / f".{slide}.unfinished"

    def failure(self, slide: str) -> Path:
        """The file that says why a slide has no map."""
        return self.path / f".{slide}.failed.json"

    def is_done(self, slide: str, key: str) -> bool:
        """Whether the slide has a map of this very work."""
        with suppress(HistoError):
            return read_row(self.of(slide) / SLIDE_JSON)[0] == key
        return False

    @contextmanager
    def lock(self, slide: str) -> Iterator[None]:
        """Hold the lock of a slide: only one process may map it."""
        place = self.path / f".{slide}.lock"
        with locked(place, f"another process maps {slide} into {self.path}"):
            try:
                yield
            finally:
                with suppress(OSError):  # Windows removes it on release
                    place.unlink()

    @contextmanager
    def making(self, slide: str) -> Iterator[Path]:
        """The folder to make a slide's map in; it gets its name when the block ends well."""
        work = self.unfinished(slide)
        work.mkdir(exist_ok=True)
        yield work
        flush_files(work)
        shutil.rmtree(self.of(slide), ignore_errors=True)  # of other work, or damaged
        work.replace(self.of(slide))
        self.failure(slide).unlink(missing_ok=True)

    def fail(self, row: SlideRow) -> None:
        """Remember why a slide has no map."""
        shutil.rmtree(self.unfinished(row.slide), ignore_errors=True)
        write_row(self.failure(row.slide), "", row)

    def rows(self) -> tuple[list[SlideRow], list[str]]:
        """The rows of the slides, those that failed included; and the slides that have none yet."""
        rows = {slide: self.row(slide) for slide in self.slides}
        missing = [slide for slide, row in rows.items() if row is None]
        return [row for row in rows.values() if row is not None], missing

    def row(self, slide: str) -> SlideRow | None:
        """The row of a slide; None where it has none yet.

        Why it failed goes before its map, which is then of an earlier file of the same name.
        """
        for path in (self.failure(slide), self.of(slide) / SLIDE_JSON):
            if path.is_file():
                return read_row(path)[1]
        return None

    def write_table(self) -> list[SlideRow]:
        """Write slides.csv; HistoError where a slide has not been mapped."""
        rows, missing = self.rows()
        if missing:
            more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
            raise HistoError(
                f"{self.path}: {missing[0]}{more} not mapped yet (run the same histo map for the "
                "shares that are missing: it continues)"
            )
        write_slides(self.path / SLIDES_CSV, rows, self.classes)
        return rows


def _names_a_folder(name: Any) -> bool:
    """Whether something may be the name of a slide: that of a folder in the folder of maps."""
    plain = is_name(name) and name[0] not in ".~" and "\\" not in name
    return plain and Path(name).name == name


def _plain(folder: MapsFolder) -> dict[str, Any]:
    return {
        "settings": dict(folder.settings),
        "classes": list(folder.classes),
        "slides": list(folder.slides),
    }
