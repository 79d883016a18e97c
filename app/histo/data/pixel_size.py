"""µm per px (mpp) of patches: as their folder records it, and after they are resized."""

from __future__ import annotations

from pathlib import Path

from histo.config import RANGES, TrainConfig
from histo.errors import HistoError
from histo.files.writing import read_json

PCAM_MPP = 0.972
"""PatchCamelyon's: Camelyon16's 0.243 at level 2."""
CUT, IMPORT = "cut.json", "import.json"


def recorded_mpp(data: Path) -> float | None:
    """The mpp of the patches in a folder that histo cut or imported; None for any other."""
    if (data / CUT).is_file():
        record = read_json(data / CUT)
        found = record.get("mpp") if isinstance(record, dict) else None
        low, high = RANGES["mpp"]
        if not isinstance(found, int | float) or not low <= found <= (high or found):
            raise HistoError(
                f"{data / CUT} does not say the µm per px of the patches", "give {mpp}"
            )
        return float(found)
    return PCAM_MPP if (data / IMPORT).is_file() else None


def known_mpp(config: TrainConfig) -> float | None:
    """The mpp of the patches' files: as given, else as recorded."""
    return float(config.mpp) if config.mpp else recorded_mpp(config.data)


def model_mpp(mpp: float | None, side: int, size: int | None) -> float | None:
    """The mpp of what the model sees: patches of `side` px (after the crop) resized to `size` px."""
    return None if mpp is None else mpp * side / (size or side)
