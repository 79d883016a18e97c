"""Whether patches are those that a bundle was trained or chosen on: by pixels, likeness and names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histo.data.similar import LENGTH, similar_to, similarity_hashes
from histo.model.card import name_digests, short_digests
from histo.model.predictor import Predictor
from histo.pixels.fit import Pixels
from histo.run.split import Leak, Split


@dataclass(frozen=True)
class Trained:
    """What a bundle tells of the patches it was trained or chosen on, as hashes."""

    digests: NDArray[np.uint64] | None
    near: NDArray[np.uint8] | None
    groups: NDArray[np.uint64] | None

    @classmethod
    def of(cls, predictor: Predictor) -> Trained:
        """What the predictor's bundle tells."""
        files = predictor.files
        return cls(files.trained_on(), files.trained_near(LENGTH), files.trained_groups())

    def seen(self, sha1: Sequence[str], pixels: Pixels) -> NDArray[np.int64]:
        """Of each patch: 1 if the model was trained or chosen on it, 2 on one nearly equal, else 0."""
        seen = np.zeros(len(sha1), np.int64)
        if self.near is not None and len(seen):
            seen[similar_to(similarity_hashes(pixels), self.near)] = 2
        if self.digests is not None:
            seen[np.isin(short_digests(sha1), self.digests)] = 1
        return seen

    def split(self, groups: Sequence[str], unit: str) -> Split:
        """How patches of these groups are kept apart from those trained on, as far as names tell."""
        if self.digests is None:
            return Split("unknown")
        names = sorted(set(groups) - {""}) if self.groups is not None else []
        known = np.empty(0, np.uint64) if self.groups is None else self.groups
        both = [name for name in names if np.isin(name_digests([name]), known)[0]]
        return Split(
            "unseen",
            column=unit if names else "",
            groups=len(names),
            leak=Leak(groups=len(both), unit=unit or "group", first_groups=tuple(both[:3])),
            near_of=0 if self.near is None else len(self.near),
            trained=len(self.digests),
        )
