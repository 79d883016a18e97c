"""The slides that were given: files and folders of them, and what identifies a file."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from histo.config import RANGES
from histo.data.columns import read_rows
from histo.errors import HistoError
from histo.slides.dicom import files_of, name_of, one_a_series

if TYPE_CHECKING:
    from PIL import Image

    from histo.slides.reader import Slide

ONLY_SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi", ".dcm")
TIFFS = (".tif", ".tiff")
SUFFIXES = (*ONLY_SLIDES, *TIFFS)
NO_NAMES = ("maps.json", "slides.csv", "index.html")
"""What a folder of maps holds beside its slides."""
TILE_WIDTH = 322
"""The TIFF tag that only tiled images have."""
GLANCE = 1000
"""Files of a folder that are looked at: a folder of patches may hold millions."""
PATCH_SIDE = 2048
"""Longest side of an image that is certainly a patch, in px."""
SAME = 0.01
"""Two values of µm per px that differ by less are the same."""
ENDS = 1 << 16
"""Bytes at both ends of a slide that identify it, with its size."""


def is_slide(path: Path) -> bool:
    """Whether a file looks like a slide: by its suffix, or a tiled TIFF with levels or many pixels."""
    if path.suffix.lower() in ONLY_SLIDES:
        return True
    return path.suffix.lower() in TIFFS and _looks(path) == "slide"


def _looks(path: Path) -> Literal["slide", "patch", ""]:
    """What an image is by its tags alone; nothing where that is not clear."""
    from PIL import Image

    try:
        with quiet_open(path) as image:
            large = max(image.size) > PATCH_SIDE
            if TILE_WIDTH not in getattr(image, "tag_v2", ()):
                return "" if large else "patch"
            return "slide" if large or getattr(image, "n_frames", 1) > 1 else "patch"
    except Image.DecompressionBombError:
        return "slide"
    except (OSError, ValueError, SyntaxError):
        return ""


def quiet_open(path: Path | IO[bytes]) -> Image.Image:
    """An image, opened without Pillow's warning of its size, which is no news of a slide."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path)


def holds_slides(path: Path) -> Path | None:
    """The slide that a path is, or a folder's first TIFF or slide where that is one; else None."""
    inside = islice(path.iterdir(), GLANCE) if path.is_dir() else [path]
    first = next((p for p in inside if p.suffix.lower() in SUFFIXES and p.is_file()), None)
    return first if first and is_slide(first) else None


def refuse_slides(given: Sequence[Path], bundle: Path) -> None:
    """HistoError where a slide is given to be predicted like a patch, with the command for slides."""
    for path in given:
        if first := holds_slides(path):
            raise HistoError(f"{first} is a whole slide, not a patch (histo map {bundle} {path})")


def refuse_patches(paths: Sequence[Path]) -> None:
    """HistoError where the first file is a patch, with the command for patches."""
    for path in paths[:1]:
        if path.suffix.lower() not in ONLY_SLIDES and path.is_file() and _looks(path) == "patch":
            raise HistoError(
                f"{path} is a patch, not a whole slide (histo predict BUNDLE {path.parent})"
            )


def find_slides(given: Sequence[Path]) -> dict[str, Path]:
    """Slides by name, in order: the file's name without suffix where no other slide has it.

    A DICOM series is one slide, by the name of its folder.
    """
    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            everything = sorted(p for p in path.rglob("[!.]*") if p.is_file())
            inside = [p for p in everything if p.suffix.lower() in SUFFIXES]
            if not inside:
                refuse_patches(everything)
                raise HistoError(f"{path} holds no slides ({', '.join(SUFFIXES[:5])} …)")
            paths += one_a_series(inside)
        elif path.is_file():
            paths += one_a_series([path])
        else:
            raise HistoError(f"no slide {path}")
    paths = list(dict.fromkeys(paths))
    refuse_patches(paths)
    stems = Counter(map(name_of, paths))
    names = [path.name if stems[name_of(path)] > 1 else name_of(path) for path in paths]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise HistoError(
            f"{twice[0]} is the name of several slides (map them into several folders)"
        )
    for name, path in zip(names, paths, strict=True):
        if not name or name[0] in ".~" or name.lower() in NO_NAMES or not name.isprintable():
            raise HistoError(f"{path} cannot name a folder of results: rename it")
    return dict(zip(names, paths, strict=True))


def fingerprint_of(path: Path) -> str:
    """Identifies a slide's files: the size of each, its first bytes and its last."""
    digest = hashlib.sha256()
    try:
        for part in files_of(path):
            with part.open("rb") as file:
                size = part.stat().st_size
                digest.update(str(size).encode() + file.read(ENDS))
                file.seek(max(0, size - ENDS))
                digest.update(file.read(ENDS))
    except OSError as error:
        raise HistoError(f"{path} cannot be read: {error.strerror}") from None
    return digest.hexdigest()


@dataclass(frozen=True)
class SlideMpp:
    """µm per px of slides: one for all that do not say, or by name, which goes before what they say."""

    value: float | None = None
    by_name: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, given: str | float | None) -> SlideMpp:
        """A number, or a CSV with the columns slide and mpp."""
        if given is None:
            return cls()
        try:
            return cls(_sound(float(given), "the slides"))
        except ValueError:
            table = Path(str(given))
        if not table.is_file():
            raise HistoError(
                f"{given} is neither a number of µm per px nor a CSV file",
                "{slide_mpp} takes X, or a CSV with the columns slide and mpp",
            )
        found = {}
        for line, (name, value) in read_rows(table, ["slide", "mpp"]):
            where = f"{table.name}, line {line}"
            try:
                found[name] = _sound(float(value), where)
            except ValueError:
                raise HistoError(f"{where}: {value!r} is not a number of µm per px") from None
        return cls(None, found)

    def of(self, name: str, path: Path) -> float | None:
        """That of a slide, if the table has it: by its name, or its file's."""
        for key in (name, path.name, name_of(path)):
            if key in self.by_name:
                return self.by_name[key]
        return None

    def open(self, name: str, path: Path) -> Slide:
        """Open a slide with what was given for it. Raises HistoError."""
        from histo.slides.reader import open_slide

        return open_slide(path, mpp=self.of(name, path), unsaid=self.value)

    def unused(self, mpp: float) -> str:
        """What to say of a slide that has `mpp` µm per px; nothing where that is what was given."""
        if self.value is None or abs(mpp / self.value - 1) < SAME:
            return ""
        return (
            f"it says that it has {mpp:.4g} µm per px; the {self.value:g} that was given is for slides "
            "that do not say"
        )


def _sound(mpp: float, where: str) -> float:
    low, high = RANGES["mpp"]
    if not low <= mpp <= (high or mpp):
        raise HistoError(f"{where}: {mpp:g} µm per px is out of the range {low:g} to {high:g}")
    return mpp
