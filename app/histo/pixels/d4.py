"""The eight symmetries of the square (the dihedral group D4), exact: pixels move, none changes."""

from __future__ import annotations

from typing import Any

VIEWS = 8


def view(patches: Any, k: int) -> Any:
    """View `k` (0..7) of square patches [N, S, S, …]: bit 2 transposes, bits 1 and 0 flip.

    View 0 is the identity. A flip of both axes is the half turn, a transpose with one flip a
    quarter turn; together the eight are all of D4. A torch tensor gives a tensor, a numpy array an
    array.
    """
    if k & 4:
        patches = patches.swapaxes(1, 2)
    axes = [axis for axis, bit in ((1, 2), (2, 1)) if k & bit]
    if not axes:
        return patches
    if hasattr(patches, "flip"):
        return patches.flip(axes)
    import numpy as np

    return np.flip(patches, tuple(axes))
