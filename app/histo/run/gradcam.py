"""The Grad-CAM maps of a run: a file that is written after training, and read without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histo.errors import HistoError
from histo.files.arrays import parse_arrays
from histo.files.limits import GRADCAM_BYTES, read_bytes
from histo.files.writing import written

if TYPE_CHECKING:
    import numpy as np

GRADCAM = "gradcam.npz"
BEFORE = "attention.npz"
"""The name of the same file in runs of histo 0.1."""


@dataclass(frozen=True)
class GradCam:
    """Grad-CAM maps, one per patch: float [N, h, w] in 0..1, 1 at each map's peak.

    A map is as coarse as the model's last feature map, and spans the whole patch. A patch without
    positive evidence has a map of zeros.
    """

    ids: list[str]
    called: list[str]
    """the class that each map explains: the one the model called"""
    drawn: np.ndarray
    """bool [N]: drawn at random, for means; the others were selected to be shown"""
    maps: np.ndarray
    side: int
    """side of a patch as the model sees it, in px"""


def write_gradcam(folder: Path, found: GradCam) -> None:
    """Write the maps into a run folder, atomically; 256 levels are enough for the eye."""
    import numpy as np

    with written(folder / GRADCAM) as file:
        np.savez_compressed(
            file,
            ids=np.array(found.ids),
            called=np.array(found.called),
            drawn=found.drawn,
            maps=np.round(found.maps * 255).astype(np.uint8),
            side=found.side,
        )


def read_gradcam(folder: Path) -> GradCam | None:
    """The maps of a run folder; None if it has none."""
    path = folder / (GRADCAM if (folder / GRADCAM).exists() else BEFORE)

    try:
        file = parse_arrays(read_bytes(path, GRADCAM_BYTES), GRADCAM_BYTES.value)
        ids, called, drawn, maps = (file[key] for key in ("ids", "called", "drawn", "maps"))
        side = int(file["side"])
        good = (
            {ids.dtype.kind, called.dtype.kind, maps.dtype.kind} == {"U", "u"}
            and ids.shape == called.shape == drawn.shape == maps.shape[:1]
            and maps.ndim == 3
        )
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError, KeyError):
        good = False
    if not good:
        raise HistoError(f"{path} is damaged (delete it to get a report without it)")
    return GradCam(ids.tolist(), called.tolist(), drawn.astype(bool), maps / 255.0, side)


def concatenate(parts: Sequence[GradCam]) -> GradCam:
    """The maps of several models of one architecture, such as folds, in one GradCam."""
    import numpy as np

    return GradCam(
        [name for part in parts for name in part.ids],
        [name for part in parts for name in part.called],
        np.concatenate([part.drawn for part in parts]),
        np.concatenate([part.maps for part in parts]),
        parts[0].side,
    )
