"""µm per px (mpp) of patches: as their folder records it, and after they are resized."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from histo.config import RANGES, DataConfig, TrainConfig
from histo.errors import HistoError
from histo.files.writing import read_json

PCAM_MPP = 0.972
"""PatchCamelyon's: Camelyon16's 0.243 at level 2."""
CUT, IMPORT = "cut.json", "import.json"
APART = 1.1
"""Patches whose mpp differs by more than this factor from the model's look different to it."""
ABOVE = 3
"""Folders above a patch in which its mpp may be recorded: DATA/train/SLIDE/X_Y.png."""


@dataclass(frozen=True)
class Recorded:
    """The mpp that a file of histo's gives for the patches beside it."""

    mpp: float
    path: Path


def recorded_mpp(config: DataConfig) -> Recorded | None:
    """The mpp of patches that histo cut or imported; None for any others.

    HistoError where the record of a cut does not give one.
    """
    folder = config.images.parent if config.images else config.data
    if (path := folder / CUT).is_file():
        record = read_json(path)
        found = record.get("mpp") if isinstance(record, dict) else None
        if not is_sound(found):
            raise HistoError(f"{path} does not say the µm per px of the patches", "give {mpp}")
        return Recorded(float(found), path)
    path = folder / IMPORT
    return Recorded(PCAM_MPP, path) if is_import(path) else None


def is_import(path: Path) -> bool:
    """Whether histo wrote this import.json."""
    try:
        record = read_json(path)
    except HistoError:
        return False
    return isinstance(record, dict) and "keep_duplicates" in record


def is_sound(mpp: object) -> TypeGuard[float]:
    """Whether it is a number of µm that a pixel of a patch can have; NaN is not."""
    low, high = RANGES["mpp"]
    return isinstance(mpp, int | float) and low <= mpp <= (high or mpp)


def known_mpp(config: TrainConfig) -> tuple[float | None, str]:
    """The mpp of the patches' files, as given, else as recorded; and what there is to say of it."""
    if config.mpp is None:
        found = recorded_mpp(config)
        return (found.mpp, f"{found.mpp:g} µm per px ({found.path})") if found else (None, "")
    with suppress(HistoError):  # a record that says nothing contradicts nothing
        found = recorded_mpp(config)
        if found and abs(found.mpp - config.mpp) > 1e-6:
            return float(config.mpp), (
                f"note: {config.mpp:g} µm per px as given, where {found.path} says {found.mpp:g}"
            )
    return float(config.mpp), ""


def resized_mpp(mpp: float, side: int, size: int | None) -> float:
    """The mpp of patches of `side` px (after the crop) once they are resized to `size` px."""
    return mpp if size is None or size == side else mpp * side / size


def model_mpp(mpp: float | None, side: int, size: int | None) -> float | None:
    """The mpp of what the model sees; HistoError where resizing makes it absurd."""
    if mpp is None:
        return None
    found = resized_mpp(mpp, side, size)
    if not is_sound(found):
        low, high = RANGES["mpp"]
        raise HistoError(
            f"patches of {side} px at {mpp:g} µm per px, resized to {size} px, have {found:.3g} µm "
            f"per px, which is out of the range {low:g} to {high:g}",
            "give another {size}",
        )
    return found


def mpp_apart(
    config: DataConfig, side: int, size: int | None, mpp: float, given: float | None = None
) -> str:
    """A note where patches of `side` px have another mpp than the model's `mpp`.

    Theirs is the one `given`, else that they were cut or imported at. The model resizes them to `size`
    px.
    """
    with suppress(HistoError):  # nothing to compare
        found = recorded_mpp(config) if given is None else None
        if theirs := given or (found and found.mpp):
            here = resized_mpp(theirs, side, size)
            if max(here / mpp, mpp / here) > APART:
                return (
                    f"note: the model sees these patches at {here:.3g} µm per px and was trained "
                    f"at {mpp:.3g}: expect worse figures"
                )
    return ""


def mpp_apart_near(path: Path, side: int, size: int | None, mpp: float) -> str:
    """As `mpp_apart`, of a patch whose folder, or one of the two above it, was cut or imported."""
    for folder in list(path.resolve().parents)[:ABOVE]:
        if note := mpp_apart(DataConfig(folder), side, size, mpp):
            return note
    return ""
