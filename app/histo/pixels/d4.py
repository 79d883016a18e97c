"""The eight symmetries of the square (the dihedral group D4), exact: pixels move and keep their values."""

from __future__ import annotations

from typing import Any

VIEWS = 8


def view(patches: Any, k: int) -> Any:
    """View `k` (0..7) of square patches [N, S, S, …]: bit 2 transposes, bits 1 and 0 flip.

    View 0 is the identity. Flipping both axes is a half turn, a transpose and one flip is a
    quarter turn; the eight views are all of D4. Returns a tensor for a tensor, an array for an
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
