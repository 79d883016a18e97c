"""A dozen statistics of a patch, and the thresholds at which one of them shows a fault.

The thresholds are measured on 4,000 patches drawn from PatchCamelyon; each says how.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.data.decode import cv2
from histo.pixels.fit import Pixels

STATISTICS = np.dtype(
    [
        ("mean", "f4", (3,)),  # of RGB, 0..1
        ("products", "f4", (3, 3)),  # mean of R², RG, RB … , 0..1: sums to the set's covariance
        ("brightest", "u1"),  # the largest value of any channel, 0..255
        ("grey", "f4"),  # mean of grey, 0..255
        ("contrast", "f4"),  # standard deviation of grey, 0..255
        ("sharpness", "f4"),  # see `sharpness`, 0..5
        ("noise", "f4"),  # energy of the Laplacian over the variance of grey, 0..20
        ("tissue", "f4"),  # share of pixels that absorb light, 0..1
        ("dark", "f4"),  # share of pixels that are dark in red or blue, 0..1
        ("bluer", "f4"),  # mean of blue - red over the dark pixels, -255..255
    ]
)
"""One row a patch. Sums of `mean` and `products` over patches give mean and covariance of a set."""

BLANK = 3.0
"""A patch whose grey has a smaller standard deviation shows nothing. In PatchCamelyon empty glass
comes to 0.7 to 2.5, and the faintest patches with something on them have 3.0 and 5.3."""
BLACK = 40.0
"""A blank patch of a darker grey (0..255) is black: the black one has 25, empty glass over 200."""
ABSORBS = 180
"""A pixel with a channel below this is tissue: optical density over 0.15, the bound of Macenko et
al. (2009), below which light is as good as not absorbed."""
TISSUE = 0.01
"""A patch with a smaller share of tissue is poor in it: specks, and the walls of single fat cells."""
SOFT = 1 / 3
"""A patch is blurred below this share of the set's median sharpness. A blur of sigma 1 px brought
all of 800 patches below it (one of 0.7 px, 6 of 100). Of 4,000 as they are, four lie below: to the
eye three are out of focus and one is soft. A share, since sharpness is a matter of scanner and magnification: what is sharp at 40x is soft at
10x. A set that is blurred throughout is therefore not found."""
DARK = 80
"""A pixel darker in red or in blue than this (0..255) is the nucleus of a haematoxylin stain."""


def measure(pixels: Pixels) -> tuple[Any, ...]:
    """The row of STATISTICS of a patch, uint8 [H, W, 3] RGB."""
    red, green, blue = cv2.split(pixels)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    mean, spread = (float(value.item()) for value in cv2.meanStdDev(grey))
    values = pixels.reshape(-1, 3).astype(np.float32) / 255
    edges = float(cv2.norm(cv2.Laplacian(grey, cv2.CV_16S), cv2.NORM_L2SQR)) / grey.size
    lightest = cv2.inRange(cv2.min(cv2.min(red, green), blue), ABSORBS, 255)
    dark = cv2.inRange(cv2.min(red, blue), 0, DARK - 1)
    return (
        cv2.mean(values.reshape(-1, 1, 3))[:3],
        cv2.mulTransposed(values, True) / len(values),
        int(pixels.max()),
        mean,
        spread,
        sharpness(grey, edges),
        edges / (spread**2 + 1),
        1 - cv2.countNonZero(lightest) / grey.size,
        cv2.countNonZero(dark) / grey.size,
        cv2.mean(blue, dark)[0] - cv2.mean(red, dark)[0],
    )


def sharpness(grey: NDArray[Any], edges: float) -> float:
    """The mean squared spatial frequency: energy of the Laplacian (`edges`) over that of the slope.

    A blur takes high frequencies first, whatever the contrast. The variance of the Laplacian alone
    calls pale patches blurred, and over the variance of grey those with a large dark area.
    """
    slope = sum(
        float(cv2.norm(cv2.filter2D(grey, cv2.CV_16S, kernel), cv2.NORM_L2SQR))
        for kernel in (np.array([[-1, 1]]), np.array([[-1], [1]]))
    )
    return edges / (slope / grey.size + 1)


def faults(rows: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """Which patches are black, blank, blurred or tissue-poor: bool [N] each, no patch in two."""
    empty = rows["contrast"] < BLANK
    black = empty & (rows["grey"] < BLACK)
    poor = ~empty & (rows["tissue"] < TISSUE)
    usual = np.median(rows["sharpness"][~empty]) if (~empty).any() else 0.0
    blurred = ~empty & ~poor & (rows["sharpness"] < SOFT * usual)
    return {"black": black, "blank": empty & ~black, "blurred": blurred, "tissue_poor": poor}
