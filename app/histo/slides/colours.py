"""Colours of maps that colour-blind readers can tell apart, on tissue stained pink and violet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histo.slides.heat import Heat

Colour = tuple[int, int, int]
CLASSES: tuple[Colour, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (240, 228, 66),
    (86, 180, 233),
    (230, 159, 0),
    (204, 121, 167),
    (0, 0, 0),
)
"""Okabe and Ito's palette (2008)."""
RAMP: tuple[tuple[float, Colour], ...] = (
    (0.0, (0, 90, 160)),
    (0.5, (245, 240, 215)),
    (1.0, (213, 70, 0)),
)
"""From probability 0, blue, to 1, vermilion: told apart by red-green blind readers too."""


def ramp(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours of probabilities, uint8 [..., 3]; nan is black."""
    places, colours = [at for at, _ in RAMP], np.array([colour for _, colour in RAMP])
    known = np.nan_to_num(values)
    channels = [np.interp(known, places, colours[:, channel]) for channel in range(3)]
    return np.asarray(np.rint(np.stack(channels, -1)), np.uint8)


def class_colour(heat_vocab: int, code: int, positive: int) -> Colour:
    """The colour of a class: of two, vermilion is the positive one and blue the other."""
    if heat_vocab == 2:
        return CLASSES[1] if code == positive else CLASSES[0]
    return CLASSES[code % len(CLASSES)]


def cell_colours(heat: Heat) -> NDArray[np.uint8]:
    """Each cell's colour and opacity, uint8 [R, C, 4]: transparent where no tile is.

    Of two classes by the probability of the positive one, of more the class called.
    """
    scheme, known = heat.scheme, heat.known
    colours = np.zeros((*known.shape, 4), np.uint8)
    if len(scheme.vocab) == 2:
        colours[..., :3] = ramp(heat.of(scheme.positive))
    else:
        called = heat.called
        for code in range(len(scheme.vocab)):
            colours[called == code, :3] = class_colour(len(scheme.vocab), code, scheme.positive)
    colours[..., 3] = np.where(known, 255, 0)
    return colours
