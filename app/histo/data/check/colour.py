"""The colours of a set beside those of the reference set, and signs of mixed-up channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MEAN = (0.702, 0.546, 0.696)
SD = (0.239, 0.282, 0.216)
"""Mean and standard deviation of RGB (0..1) over all 220,025 patches of the reference set."""
SWAPPED = -4.0
"""Red and blue are taken for swapped where dark pixels are redder than blue by more (0..255).
Haematoxylin absorbs red (optical density 0.65 against 0.29 in blue; Ruifrok and Johnston, 2001), so
nuclei are bluer than red: by 19 in 4,000 patches of PatchCamelyon, by at least 5 in any of 300 draws
of 100 of them, by 17 in a slide of another scanner."""
PINK = 0.02
"""Only for sets whose green is darker than red and blue, by this much in the mean (0..1), as
haematoxylin and eosin make it whichever way round: 0.15 in PatchCamelyon. Brown stains and
photographs are not."""
FEW_DARK = 0.001
"""With a smaller share of dark pixels the order of channels is not judged."""
APART = 0.3
"""Channels of pictures correlate; low bytes of 16-bit samples do not (0.05, pictures 0.9)."""
ROUGH = 12.0
"""Median of `noise` over which a set is noise: low bytes have 20, PatchCamelyon has 5."""


@dataclass(frozen=True)
class Colours:
    """Mean and standard deviation (0..1) and correlation of RGB over all pixels of a set."""

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    correlation: NDArray[np.float64]
    notes: list[str]
    """signs of mixed-up channels or bits, in words"""

    @property
    def distance(self) -> float:
        """Root mean square of the six differences from the reference set, 0..1."""
        apart = np.concatenate([self.mean - MEAN, self.sd - SD])
        return float(np.sqrt(np.mean(apart**2)))


def judge_colours(rows: NDArray[Any]) -> Colours:
    """The colours of a set from its STATISTICS, each patch counted alike."""
    if not len(rows):
        return Colours(np.zeros(3), np.zeros(3), np.eye(3), [])
    mean = rows["mean"].mean(0, dtype=np.float64)
    covariance = rows["products"].mean(0, dtype=np.float64) - np.outer(mean, mean)
    sd = np.sqrt(np.maximum(np.diag(covariance), 0))
    correlation = covariance / np.maximum(np.outer(sd, sd), 1e-12)
    found = (judge_depth(rows), judge_order(rows, mean), judge_bytes(rows, correlation))
    return Colours(mean, sd, correlation, [note for note in found if note])


def judge_depth(rows: NDArray[Any]) -> str:
    """Whether most patches use but the lowest part of the range, as 12 bits in a 16-bit file do.

    Half of the patches must: one dark patch is a dark patch.
    """
    brightest = int(np.median(rows["brightest"]))
    bits = next(
        (bits for bits, most in ((8, 1), (10, 4), (12, 16), (14, 64)) if brightest <= most), 0
    )
    if not bits:
        return ""
    return (
        f"most patches are nearly black: no value over {brightest} of 255, "
        f"as where {bits}-bit samples lie in 16-bit files (or 0..1 was saved as 0..255)"
    )


def judge_order(rows: NDArray[Any], mean: NDArray[np.float64]) -> str:
    """Whether red and blue look swapped, as `cv2.imread` and `cv2.imwrite` swap them."""
    dark = rows["dark"].astype(np.float64)
    if dark.mean() < FEW_DARK or mean[1] > min(mean[0], mean[2]) - PINK:
        return ""
    bluer = float((rows["bluer"] * dark).sum() / dark.sum())
    if bluer > SWAPPED:
        return ""
    return (
        "red and blue may be swapped (BGR read or written as RGB): nuclei stained with haematoxylin "
        f"are mostly bluer than red, here dark pixels are redder than blue by {-bluer:.0f} of 255; "
        "look at a few patches: some scanners and stains come out so"
    )


def judge_bytes(rows: NDArray[Any], correlation: NDArray[np.float64]) -> str:
    """Whether the patches are noise, as the low bytes of 16-bit samples are."""
    if max(correlation[0, 1], correlation[0, 2], correlation[1, 2]) > APART:
        return ""
    if float(np.median(rows["noise"])) < ROUGH:
        return ""
    return "the patches look like noise: low bytes of 16-bit samples, or damaged files"
