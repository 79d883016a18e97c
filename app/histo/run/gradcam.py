"""The Grad-CAM maps of a run: written where torch is, read and drawn where it is not."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histo.errors import HistoError
from histo.files.writing import written

if TYPE_CHECKING:
    import numpy as np

GRADCAM = "gradcam.npz"
BEFORE = "attention.npz"
"""The name of the same file in runs of histo 0.1."""


@dataclass(frozen=True)
class GradCam:
    """Grad-CAM maps, one entry a patch: float [N, h, w] in 0..1, 1 at each map's peak.

    A map is as coarse as the model's last feature map, and spans the whole patch. A patch without
    a trace of evidence has a map of zeros.
    """

    ids: list[str]
    called: list[str]
    """the class each map speaks for: the one the model called"""
    drawn: np.ndarray
    """bool [N]: drawn at random, to take means over; the others were picked to be looked at"""
    maps: np.ndarray
    side: int
    """of a patch as the model saw it, in px"""


def write_gradcam(folder: Path, found: GradCam) -> None:
    """Write the maps into a run folder, whole or not at all; a 256th is as fine as anyone can see."""
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
    """The maps of a run folder; None where it has none."""
    import numpy as np

    path = folder / (GRADCAM if (folder / GRADCAM).exists() else BEFORE)

    try:
        with np.load(path, allow_pickle=False) as file:
            ids, called, drawn, maps = (file[key] for key in ("ids", "called", "drawn", "maps"))
            side = int(file["side"])
        good = ids.shape == called.shape == drawn.shape == maps.shape[:1] and maps.ndim == 3
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        good = False
    if not good:
        raise HistoError(f"{path} is damaged (delete it, and the report does without)")
    return GradCam(ids.tolist(), called.tolist(), drawn.astype(bool), maps / 255.0, side)


def concatenate(parts: Sequence[GradCam]) -> GradCam:
    """The maps of several models of one architecture, those of folds, as one."""
    import numpy as np

    return GradCam(
        [name for part in parts for name in part.ids],
        [name for part in parts for name in part.called],
        np.concatenate([part.drawn for part in parts]),
        np.concatenate([part.maps for part in parts]),
        parts[0].side,
    )
