"""Sheets of patches: the most confident mistakes, and Grad-CAM maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from histo.errors import HistoError
from histo.report.canvas import new_sheet, save
from histo.report.gradcam import Maps, enlarge, share_inside
from histo.report.metrics import Labels
from histo.run.calls import call
from histo.run.gradcam import GradCam
from histo.run.predictions import Predictions
from histo.screen import Screen, short
from histo.text import shortened, visible

MISTAKES = 12
"""Patches on the sheet of mistakes."""
MIN_CELLS = 3
"""Cells on a side below which a Grad-CAM map says nothing about a place."""
EACH = 6
"""Mistakes, and correct patches, on the Grad-CAM sheet."""
Reader = Callable[[Sequence[str]], list[Any]]
"""The pixels of patches by id, uint8 [S, S, 3] each; raises HistoError where one is missing."""


@dataclass(frozen=True)
class Sheet:
    """Patches to draw, uint8 [S, S, 3] each, with a caption each."""

    patches: Sequence[Any]
    captions: Sequence[str]
    first: int = 0
    """so many of them are of the first kind: the others start on a new row"""


@dataclass(frozen=True)
class GradCamSheet(Sheet):
    """With their Grad-CAM maps, float [N, S, S] in 0..1, and the side of the centre in px (or 0)."""

    maps: Maps = field(default_factory=lambda: np.zeros((0, 1, 1)))
    centre: int = 0


def worst_mistakes(table: Predictions, called: Labels) -> Labels:
    """Rows of the patches called wrongly, the most confident first, a sheet of them at most."""
    wrong = np.flatnonzero(called != table.labels)
    confidence = table.probabilities[wrong, called[wrong]]
    return wrong[np.argsort(-confidence, kind="stable")][:MISTAKES]


def mistakes_sheet(
    table: Predictions,
    threshold: float,
    positive: int,
    read: Reader | None,
    screen: Screen,
    groups: Sequence[str] | None = None,
) -> Sheet | None:
    """The sheet of the most confident mistakes; None where there are none, or no patches.

    Of two classes the false negatives come first, then the false positives.
    """
    called = call(table.probabilities, threshold, positive)
    worst = worst_mistakes(table, called)
    if len(table.vocab) == 2:
        worst = _misses_first(table, called, positive)
    if not len(worst):
        screen.say("no sheet of mistakes: the model makes none here")
        return None
    patches = _read("mistakes", [table.ids[row] for row in worst], read, screen)
    if patches is None:
        return None
    captions = [
        f"{_kind(table, row, called[row], positive)}{_names(table, row, groups)}" for row in worst
    ]
    kinds = [called[row] == positive for row in worst] if len(table.vocab) == 2 else []
    return Sheet(patches, captions, kinds.count(False) if kinds else 0)


def _misses_first(table: Predictions, called: Labels, positive: int) -> Labels:
    """Half a sheet of false negatives, then half a sheet of false positives, at most."""
    wrong = np.flatnonzero(called != table.labels)
    wrong = wrong[np.argsort(-table.probabilities[wrong, called[wrong]], kind="stable")]
    missed, false = wrong[called[wrong] != positive], wrong[called[wrong] == positive]
    return np.concatenate([missed[:EACH], false[:EACH]])


def _kind(table: Predictions, row: int, called: int, positive: int) -> str:
    """What kind of mistake a patch is, and the probability of the class called."""
    value = f"p = {table.probabilities[row, called]:.3f}"
    if len(table.vocab) == 2:
        name = shortened(visible(table.vocab[called]), 24)
        return f"{'false positive' if called == positive else 'false negative'}\ncalled '{name}', {value}"
    true, name = (shortened(visible(table.vocab[c]), 28) for c in (table.labels[row], called))
    return f"true {true}\ncalled {name}\n{value}"


def _names(table: Predictions, row: int, groups: Sequence[str] | None) -> str:
    """The id of a patch, and its slide or patient, a line each."""
    names = [table.ids[row], *([groups[row]] if groups else [])]
    return "".join(f"\n{shortened(visible(name), 32)}" for name in names if name)


def gradcam_sheet(
    table: Predictions,
    found: GradCam,
    centre: int,
    read: Reader | None,
    screen: Screen,
    groups: Sequence[str] | None = None,
) -> GradCamSheet | None:
    """The most confident mistakes, then typical correct patches; None where there are no patches.

    None too where the maps are too coarse to show a place.
    """
    if min(found.maps.shape[1:]) < MIN_CELLS:
        cells = "x".join(map(str, found.maps.shape[1:]))
        screen.say(f"no sheet of Grad-CAM maps: maps of {cells} cells are too coarse to show where")
        return None
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
        _caption(table, found, n, None if shares is None else float(shares[k]), groups)
        for k, n in enumerate(places)
    ]
    return GradCamSheet(patches, captions, maps=enlarge(maps, found.side), centre=centre)


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


def _caption(
    table: Predictions,
    found: GradCam,
    n: int,
    inside: float | None,
    groups: Sequence[str] | None,
) -> str:
    """Mistake or hit, true class, called class, its probability, and the share in the centre."""
    row = table.ids.index(found.ids[n])
    true, called = table.vocab[table.labels[row]], found.called[n]
    probability = table.probabilities[row, table.vocab.index(called)]
    kind = "hit" if true == called else "mistake"
    text = f"{kind}: true {short(true, 12)}, called {short(called, 12)} ({probability:.3f})"
    text += _names(table, row, groups)
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
    """A sheet of patches, each beside itself under its map in colour, the centre outlined.

    Viridis has no pink or purple that could be taken for stain, and colour-blind readers can read it.
    """
    rows = max(1, -(-len(sheet.patches) // 3))
    figure, axes = new_sheet(9.6, 2.3 * rows + 0.9, rows, 6)
    image = None
    for (left, right), patch, heat, caption in zip(
        axes.reshape(-1, 2), sheet.patches, sheet.maps, sheet.captions, strict=False
    ):
        left.imshow(patch, interpolation="nearest")
        grey = np.asarray(patch).mean(2)  # stain in colour would mix with the map's colours
        right.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        image = right.imshow(heat, cmap="viridis", vmin=0, vmax=1, alpha=0.5)
        if heat.min() < 0.5 < heat.max():
            right.contour(heat, levels=[0.5], colors="white", linewidths=1.2)
        left.set_title(caption, fontsize=8, loc="left")
        for ax in (left, right):
            _outline(ax, len(patch), sheet.centre)
    if image is not None:
        bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.4, aspect=30, pad=0.02)
        bar.set_label("evidence for the class called (Grad-CAM), share of the map's highest")
    save(figure, path)


def _outline(ax: Any, side: int, centre: int) -> None:
    """The square of `centre` px in the middle of a patch of `side` px."""
    if centre:
        first = (side - centre) // 2 - 0.5
        for width, colour in ((2.4, "black"), (1.2, "white")):
            square = Rectangle((first, first), centre, centre, fill=False)
            square.set(linewidth=width, edgecolor=colour)
            ax.add_patch(square)
