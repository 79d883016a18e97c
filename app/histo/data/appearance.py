"""How patches look, in a few figures that a card keeps: to tell later that a slide looks different."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histo.data.check.quality import measure
from histo.pixels.fit import Pixels

FIGURES = ("red", "green", "blue", "contrast", "sharpness")
"""Means of the channels (0..255), standard deviation of grey (0..255), see `quality.sharpness`."""
ENOUGH = 1000
"""Patches that are measured of a training set: more change no figure by a tenth of its spread."""
UNLIKE = 1.5
"""A slide whose mean is further from the training patches' mean, in their standard deviations, is
said to look unlike them."""


@dataclass(frozen=True)
class Appearance:
    """Mean and standard deviation over patches of each of FIGURES."""

    mean: Sequence[float]
    sd: Sequence[float]
    patches: int

    def as_dict(self) -> dict[str, Any]:
        """As the card keeps it."""
        figures = zip(FIGURES, self.mean, self.sd, strict=True)
        return {
            "patches": self.patches,
            **{name: [round(m, 4), round(s, 4)] for name, m, s in figures},
        }

    @classmethod
    def read(cls, found: Any) -> Appearance | None:
        """What `as_dict` wrote; None for whatever is not that."""
        try:
            pairs = [(float(found[name][0]), float(found[name][1])) for name in FIGURES]
            patches = int(found["patches"])
        except (KeyError, TypeError, ValueError, IndexError, OverflowError):
            return None
        sound = all(np.isfinite(pair).all() and pair[1] > 0 for pair in pairs)
        return cls([m for m, _ in pairs], [s for _, s in pairs], patches) if sound else None


def appearance_of(patches: Iterable[Pixels]) -> Appearance | None:
    """The figures of patches uint8 [S, S, 3], RGB; None of fewer than two."""
    rows = [_figures(patch) for patch in patches]
    if len(rows) < 2:
        return None
    table = np.array(rows, np.float64)
    sd = np.maximum(table.std(0, ddof=1), 1e-3)
    return Appearance(table.mean(0).tolist(), sd.tolist(), len(rows))


def _figures(patch: Pixels) -> tuple[float, ...]:
    row = measure(patch)
    red, green, blue = (255 * float(value) for value in row[0])
    return red, green, blue, float(row[4]), float(row[5])


@dataclass(frozen=True)
class Drift:
    """How far a slide's tiles are from the training patches, in their standard deviations."""

    by_figure: Mapping[str, float]
    """signed: above 0 the slide has more"""

    @property
    def most(self) -> float:
        """The largest, without its sign."""
        return max(abs(value) for value in self.by_figure.values())

    @property
    def unlike(self) -> bool:
        """Whether the slide looks unlike the training patches."""
        return self.most > UNLIKE

    def __str__(self) -> str:
        """A sentence: `this slide looks unlike …: sharpness 2.1 below`; the largest first."""
        far = sorted(self.by_figure.items(), key=lambda each: -abs(each[1]))
        said = [
            f"{name} {abs(value):.1f} {'above' if value > 0 else 'below'}"
            for name, value in far
            if abs(value) > UNLIKE
        ]
        return (
            "this slide looks unlike what the model was trained on, in standard deviations of the "
            f"training patches: {', '.join(said)}"
        )


def drift_of(slide: Appearance, trained: Appearance) -> Drift:
    """How far the mean of a slide's tiles is from that of the training patches."""
    apart = zip(FIGURES, slide.mean, trained.mean, trained.sd, strict=True)
    return Drift({name: (ours - theirs) / sd for name, ours, theirs, sd in apart})
