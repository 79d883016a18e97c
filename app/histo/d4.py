"""The eight symmetries of the square (the dihedral group D4), exact: pixels move, none changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

VIEWS = 8


def view(patches: Tensor, k: int) -> Tensor:
    """View `k` (0..7) of square patches [N, S, S, 3]: bit 2 transposes, bits 1 and 0 flip.

    View 0 is the identity. A flip of both axes is the half turn, a transpose with one flip a
    quarter turn; together the eight are all of D4.
    """
    if k & 4:
        patches = patches.transpose(1, 2)
    axes = [axis for axis, bit in ((1, 2), (2, 1)) if k & bit]
    return patches.flip(axes) if axes else patches
