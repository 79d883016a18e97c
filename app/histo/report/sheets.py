"""Sheets of patches: the most confident mistakes, and Grad-CAM maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from histo.errors import HistoError
from histo.report.canvas import COLOURS, new_sheet, save
from histo.report.gradcam import Maps, enlarge, share_inside
from histo.report.metrics import Labels
from histo.run.calls import call
from histo.run.gradcam import GradCam
from histo.run.predictions import Predictions
from histo.screen import Screen, short

MISTAKES = 12
"""Patches on the sheet of mistakes."""
EACH = 6
"""Mistakes, and correct patches, on the Grad-CAM sheet."""
Reader = Callable[[Sequence[str]], list[Any]]
"""The pixels of patches by id, uint8 [S, S, 3] each; raises HistoError where one is missing."""


@dataclass(frozen=True)
class Sheet:
    """Patches to draw, uint8 [S, S, 3] each, with a caption each."""

    patches: Sequence[Any]
    captions: Sequence[str]


@dataclass(frozen=True)
class GradCamSheet(Sheet):
    """With their Grad-CAM maps, float [N, S, S] in 0..1, and the side of the centre in px (or 0)."""

    maps: Maps
    centre: int


def worst_mistakes(table: Predictions, called: Labels) -> Labels:
    """Rows of the patches called wrongly, the most confident first, a sheet of them at most."""
    wrong = np.flatnonzero(called != table.labels)
    confidence = table.probabilities[wrong, called[wrong]]
    return wrong[np.argsort(-confidence, kind="stable")][:MISTAKES]


def mistakes_sheet(
    table: Predictions, threshold: float, positive: int, read: Reader | None, screen: Screen
) -> Sheet | None:
    """The sheet of the most confident mistakes; None where there are none, or no patches."""
    called = call(table.probabilities, threshold, positive)
    worst = worst_mistakes(table, called)
    if not len(worst):
        screen.say("no sheet of mistakes: the model makes none here")
        return None
    patches = _read("mistakes", [table.ids[row] for row in worst], read, screen)
    if patches is None:
        return None
    captions = [
        f"true {short(table.vocab[table.labels[row]])}, called "
        f"{short(table.vocab[called[row]])} ({table.probabilities[row, called[row]]:.3f})"
        for row in worst
    ]
    return Sheet(patches, captions)


def gradcam_sheet(
    table: Predictions, found: GradCam, centre: int, read: Reader | None, screen: Screen
) -> GradCamSheet | None:
    """The most confident mistakes, then typical correct patches; None where there are no patches."""
    places = _choose(found, table)
    if not places:
        return None
    patches = _read("Grad-CAM maps", [found.ids[n] for n in places], read, screen)
    if patches is None:
        return None
    if any(patch.shape != (found.side, found.side, 3) for patch in patches):
        screen.say("no sheet of Grad-CAM maps: the patches are not of the size that the model saw")
        return None
    maps = found.maps[places]
    shares = share_inside(maps, found.side, centre) if centre else None
    captions = [
        _caption(table, found, n, None if shares is None else float(shares[k]))
        for k, n in enumerate(places)
    ]
    return GradCamSheet(patches, captions, enlarge(maps, found.side), centre)


def _choose(found: GradCam, table: Predictions) -> list[int]:
    """Places in the maps, without those drawn at random: mistakes by confidence, then hits."""
    row_of = {name: row for row, name in enumerate(table.ids)}
    mistakes: list[tuple[int, float]] = []
    hits: list[int] = []
    for n in np.flatnonzero(~found.drawn).tolist():
        row = row_of.get(found.ids[n])
        if row is None or found.called[n] not in table.vocab:
            continue
        if table.vocab[table.labels[row]] == found.called[n]:
            hits.append(n)
        else:
            mistakes.append((n, table.probabilities[row].max()))
    mistakes.sort(key=lambda each: -each[1])
    return [n for n, _ in mistakes[:EACH]] + hits[:EACH]


def _caption(table: Predictions, found: GradCam, n: int, inside: float | None) -> str:
    """Mistake or hit, true class, called class, its probability, and the share in the centre."""
    row = table.ids.index(found.ids[n])
    true, called = table.vocab[table.labels[row]], found.called[n]
    probability = table.probabilities[row, table.vocab.index(called)]
    kind = "hit" if true == called else "mistake"
    text = f"{kind}: true {short(true, 12)}, called {short(called, 12)} ({probability:.3f})"
    return text if inside is None else f"{text}\n{100 * np.nan_to_num(inside):.0f} % in the centre"


def _read(sheet: str, ids: Sequence[str], read: Reader | None, screen: Screen) -> list[Any] | None:
    """The patches of a sheet; None, and a note, where they are not found."""
    if read is None:
        screen.say(f"no sheet of {sheet}: where the patches are is not known", "give {images}")
        return None
    try:
        return read(ids)
    except HistoError as error:
        screen.say(f"no sheet of {sheet}: {error.message}", "give {images}")
        return None


def draw_gradcam(path: Path, sheet: GradCamSheet) -> None:
    """A sheet of patches, each beside itself lit by its map, the centre outlined.

    The map dims the patch where it is low: a colour map would be taken for stain.
    """
    rows = max(1, -(-len(sheet.patches) // 3))
    figure, axes = new_sheet(9.6, 1.95 * rows + 0.2, rows, 6)
    for (left, right), patch, heat, caption in zip(
        axes.reshape(-1, 2), sheet.patches, sheet.maps, sheet.captions, strict=False
    ):
        left.imshow(patch, interpolation="nearest")
        lit = patch / 255 * (0.25 + 0.75 * heat[..., None])
        right.imshow(lit, interpolation="nearest")
        right.contour(heat, levels=[0.5], colors=COLOURS[4], linewidths=1.2)
        left.set_title(caption, fontsize=8, loc="left")
        for ax in (left, right):
            _outline(ax, len(patch), sheet.centre)
    save(figure, path)


def _outline(ax: Any, side: int, centre: int) -> None:
    """The square of `centre` px in the middle of a patch of `side` px."""
    if centre:
        first = (side - centre) // 2 - 0.5
        for width, colour in ((2.4, "black"), (1.2, "white")):
            square = Rectangle((first, first), centre, centre, fill=False)
            square.set(linewidth=width, edgecolor=colour)
            ax.add_patch(square)
