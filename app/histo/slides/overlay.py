"""overlay.png: a slide's small picture under the colours of its map, with scale bar and legend."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from histo.files.writing import written
from histo.slides.colours import cell_colours, class_colour, ramp
from histo.slides.heat import Heat, Scheme

LONGEST = 1600
"""Longest side of the picture in px."""
OPACITY = 0.55
FOOT = 64
"""Height of the strip below the picture, for scale bar and legend."""
MARGIN = 16
NICE = (1, 2, 5)
Pixels = NDArray[np.uint8]


def thumbnail_mpp(size: tuple[int, int], mpp: float) -> float:
    """µm per px at which a slide's longest side has LONGEST px, or its own where it is smaller."""
    return max(mpp, max(size) * mpp / LONGEST)


def colours_over(heat: Heat, shape: tuple[int, int], size: tuple[int, int]) -> Pixels:
    """The map's colours over a picture of `shape` (height, width) px of an area of `size` px, RGBA.

    The area begins where the grid does.
    """
    colours, grid = cell_colours(heat), heat.grid
    axes = []
    for pixels, whole, first, cells in zip(
        shape, size[::-1], heat.first[::-1], colours.shape[:2], strict=True
    ):
        middle = (np.arange(pixels) + 0.5) * (whole / pixels)
        places = np.floor(middle / grid.cell).astype(np.int64) - first
        axes.append((np.clip(places, 0, cells - 1), (places >= 0) & (places < cells)))
    (rows, inside_rows), (columns, inside_columns) = axes
    found = colours[rows[:, None], columns[None]]
    found[..., 3] = np.where(inside_rows[:, None] & inside_columns[None], found[..., 3], 0)
    return np.asarray(found)


def blended(picture: Pixels, colours: Pixels, opacity: float = OPACITY) -> Pixels:
    """A picture uint8 [H, W, 3] with the colours uint8 [H, W, 4] over it."""
    alpha = colours[..., 3:].astype(np.float32) * (opacity / 255)
    mixed = picture * (1 - alpha) + colours[..., :3] * alpha
    return np.asarray(np.rint(mixed), np.uint8)


def write_overlay(path: Path, picture: Pixels, colours: Pixels, scheme: Scheme, mpp: float) -> None:
    """Write the picture of a slide, at `mpp` µm per px, with its map, scale bar and legend."""
    mixed = blended(picture, colours)
    height, width = mixed.shape[:2]
    page = Image.new("RGB", (max(width, 640), height + FOOT), "white")
    page.paste(Image.fromarray(mixed), (0, 0))
    draw = ImageDraw.Draw(page)
    draw_scale_bar(draw, MARGIN, height, width, mpp)
    draw_legend(page, draw, height, scheme)
    with written(path) as file:
        page.save(file, format="PNG", compress_level=1)  # half the time, 5 % more bytes


def bar_length(width: int, mpp: float) -> float:
    """A round length in µm that is about a fifth of `width` px, 1, 2 or 5 times a power of ten."""
    most = width * mpp / 5
    power = 10.0 ** np.floor(np.log10(most))
    return float(max(step * power for step in NICE if step * power <= most))


def draw_scale_bar(draw: ImageDraw.ImageDraw, left: int, top: int, width: int, mpp: float) -> None:
    """A scale bar below the picture."""
    length = bar_length(width, mpp)
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    right = left + round(length / mpp)
    draw.rectangle((left, top + 14, right, top + 20), fill="black")
    draw.text((left, top + 26), text, fill="black", font=font(18))


def draw_legend(page: Image.Image, draw: ImageDraw.ImageDraw, top: int, scheme: Scheme) -> None:
    """The colours' meaning, to the right below the picture."""
    if len(scheme.vocab) == 2:
        draw_ramp(page, draw, top, scheme)
    else:
        draw_classes(page, draw, top, scheme.vocab)


def draw_ramp(page: Image.Image, draw: ImageDraw.ImageDraw, top: int, scheme: Scheme) -> None:
    """The ramp from 0 to 1, the threshold marked on it."""
    long, left = 220, page.width - MARGIN - 220
    colours = ramp(np.linspace(0, 1, long))
    page.paste(Image.fromarray(np.repeat(colours[None], 12, 0)), (left, top + 11))
    for value in (0.0, 1.0):
        place = left + round(value * (long - 1))
        draw.text((place, top + 26), f"{value:g}", fill="black", font=font(16), anchor="ma")
    at = left + round(min(scheme.threshold, 1) * (long - 1))
    draw.line((at, top + 6, at, top + 27), fill="black", width=2)
    name = scheme.vocab[scheme.positive]
    text = f"p({name if len(name) <= 16 else name[:15] + '…'}), called at the line"
    draw.text((left + long // 2, top + 42), text, fill="black", font=font(15), anchor="ma")


def draw_classes(
    page: Image.Image, draw: ImageDraw.ImageDraw, top: int, vocab: Sequence[str]
) -> None:
    """A square of each class's colour, and its name; as many as fit."""
    left = 240
    for code, name in enumerate(vocab):
        short = name if len(name) <= 14 else name[:13] + "…"
        wide = 24 + round(draw.textlength(short, font=font(15))) + 14
        if left + wide > page.width:
            draw.text((left, top + 12), "…", fill="black", font=font(15))
            return
        colour = class_colour(len(vocab), code, 1)
        draw.rectangle((left, top + 14, left + 16, top + 30), fill=colour, outline="black")
        draw.text((left + 22, top + 13), short, fill="black", font=font(15))
        left += wide


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Matplotlib's own font, which has µ and the letters of many languages."""
    found = find_spec("matplotlib")
    folder = Path(found.origin or "").parent if found else Path()
    file = folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size) if file.is_file() else ImageFont.load_default(size)
