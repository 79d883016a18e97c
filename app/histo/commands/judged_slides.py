"""What `histo evaluate` writes of slides: slides.json, by_slide.csv and report.html."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.files.tables import csv_writer
from histo.files.writing import write_json, written
from histo.report import page
from histo.report.metrics import areas_of
from histo.report.slide_metrics import Figure, froc_figures, slide_figures
from histo.screen import Screen, counted
from histo.slides.froc import RATES, Judged, froc
from histo.slides.slide_score import POOLINGS, ScoreRule
from histo.slides.summary import SlideRow
from histo.slides.truth import TileTruth

MAPS = "maps"
"""The folder of the maps, in that of the figures."""
SCORE = "score.json"
"""How a slide's score is made, where it was chosen on these slides."""
HEADS = {"tile_auc": "tile AUC", "tile_sensitivity": "tile sens.", "tile_specificity": "tile spec."}
"""Shorter names for columns of by_slide.csv, so that the table fits the page."""
RATES_AT = ("sensitivity", "specificity")
SHOWN_GROUPS = 50
"""Groups of a table on the page; slides.json has all."""


@dataclass(frozen=True)
class JudgedSlide:
    """A slide, what is known of it, and what its map says."""

    row: SlideRow
    positive: bool
    threshold: float
    """from which a tile is called positive"""
    values: NDArray[np.float64]
    """the positive class's probability of each tile [N]"""
    score: float = 0.0
    tiles: TileTruth | None = None
    lesions: Judged | None = None


def write_judged(
    place: Path,
    judged: Sequence[JudgedSlide],
    positive: str,
    groups: Sequence[str] | None,
    unit: str,
    rule: ScoreRule,
    chosen_here: bool,
    left_out: Sequence[str],
    screen: Screen,
) -> None:
    """Write slides.json, by_slide.csv and report.html, and say the figures.

    `chosen_here` says that `rule` was chosen on these very slides; `left_out` could not be mapped.
    """
    labels = np.array([one.positive for one in judged])
    scores = np.array([one.score for one in judged])
    slides = slide_figures(labels, scores, groups, rule.threshold)
    lesions = [one.lesions for one in judged if one.lesions is not None]
    curve = {}
    if len(lesions) == len(judged):

        def sensitivities(weights: Any) -> Sequence[float] | None:
            found = froc(lesions, weights)
            return found.at if found else None

        curve = froc_figures(sensitivities, RATES, len(judged), groups)
    tiles = tile_figure(judged)
    write_json(
        place / "slides.json",
        {
            "slides": len(judged),
            "left_out": list(left_out),
            "positive_class": positive,
            "positive_slides": int(labels.sum()),
            "intervals_over": unit if groups else "slide",
            "score": {**rule.as_dict(), "chosen_on_these_slides": chosen_here},
            "by_slide": {name: figure.as_dict() for name, figure in slides.items()},
            **({"by_group": by_group(judged, groups)} if groups else {}),
            "tiles_roc_auc": tiles,
            "lesions": sum(one.lesions for one in lesions),
            "froc": {name: figure.as_dict() for name, figure in curve.items()},
        },
    )
    rows = by_slide(judged, groups, unit, rule.threshold)
    with written(place / "by_slide.csv", "w") as file:
        csv_writer(file).writerows(rows)
    said = score_words(rule, chosen_here)
    called = unit if groups else "slide"
    missing = left_out_words(left_out)
    write_report(place, judged, slides, tiles, curve, rows, called, groups, said, missing)
    if missing:
        screen.say(missing)
    screen.say(f"slides: AUC {slides['roc_auc']} over {counted(len(judged), 'slide')}")
    if rule.threshold is not None:
        screen.say(
            f"slides: sensitivity {slides['sensitivity']}, specificity {slides['specificity']}"
        )
    if chosen_here:
        screen.say(said, f"{{score}} {place / SCORE} judges other slides by it")
    if tiles is not None:
        screen.say(f"tiles: AUC {tiles:.3f}, each by its middle")
    if curve and curve["score"].value is not None:
        screen.say(f"lesions: FROC score {curve['score']}")
    screen.say(f"report: {place / 'report.html'}")


def left_out_words(left_out: Sequence[str]) -> str:
    """That the figures are without some slides; nothing where they are of all."""
    if not left_out:
        return ""
    more = f" and {len(left_out) - 8:,} more" if len(left_out) > 8 else ""
    return (
        f"Without {counted(len(left_out), 'slide')} that could not be mapped: "
        f"{', '.join(left_out[:8])}{more}. {MAPS}/slides.csv says why."
    )


def score_words(rule: ScoreRule, chosen_here: bool) -> str:
    """How a slide's score is made, and where that and its threshold are from."""
    made = f"The score of a slide is {POOLINGS[rule.pooling]}"
    if rule.threshold is None:
        return f"{made}: nothing was chosen on these slides."
    count = counted(len(rule.slides or {}), "slide")
    where = (
        f"on these very {count}, so that the figures flatter"
        if chosen_here
        else f"on {count}, none of which is judged here"
    )
    return f"{made}, positive from {rule.threshold:.4f} on. Both were chosen {where}."


def by_group(judged: Sequence[JudgedSlide], groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each group (patient, centre) its slides, the AUC over them and their tiles, and FROC."""
    found = {}
    for group in sorted(set(groups)):
        own = [one for one, name in zip(judged, groups, strict=True) if name == group]
        labels = np.array([one.positive for one in own])
        found[group] = {
            "slides": len(own),
            "positive": int(labels.sum()),
            "roc_auc": areas_of(labels, np.array([one.score for one in own]))[0],
            "tiles_roc_auc": tile_figure(own),
            "froc_score": froc_score(own),
        }
    return found


def froc_score(judged: Sequence[JudgedSlide]) -> float | None:
    """The mean sensitivity at RATES over the slides; None without lesions, or where some are not drawn."""
    drawn = [one.lesions for one in judged if one.lesions is not None]
    found = froc(drawn) if len(drawn) == len(judged) else None
    return found.score if found else None


def tile_figure(judged: Sequence[JudgedSlide]) -> float | None:
    """The AUC over the tiles of all slides whose lesions are drawn."""
    known = [one.tiles for one in judged if one.tiles is not None]
    if not known:
        return None
    inside = np.concatenate([tiles.inside for tiles in known])
    return areas_of(inside, np.concatenate([tiles.scores for tiles in known]))[0]


def by_slide(
    judged: Sequence[JudgedSlide], groups: Sequence[str] | None, unit: str, called: float | None
) -> list[list[str]]:
    """A row a slide, the header first; `called` is the score from which a slide is positive."""
    own = [unit] if groups else []
    head = ["slide", *own, "positive", "score", *(["called"] if called is not None else [])]
    head += ["tiles", "tiles_inside", "tile_auc"]
    head += ["tile_sensitivity", "tile_specificity", "lesions", "lesions_found", "false_positives"]
    rows = [head]
    for n, one in enumerate(judged):
        part = [groups[n]] if groups else []
        rows.append(
            [
                one.row.slide,
                *part,
                str(int(one.positive)),
                f"{one.score:.6f}",
                *([str(int(one.score >= called))] if called is not None else []),
                str(one.row.tiles),
                *tile_cells(one),
                *lesion_cells(one),
            ]
        )
    return rows


def group_rows(found: dict[str, dict[str, Any]], unit: str) -> list[list[str]]:
    """The table of the groups."""
    rows = [[unit, "slides", "positive", "AUC over slides", "AUC over tiles", "FROC score"]]
    for group, facts in found.items():
        areas = [facts["roc_auc"], facts["tiles_roc_auc"], facts["froc_score"]]
        shown = ["–" if value is None else f"{value:.3f}" for value in areas]
        rows.append([group, str(facts["slides"]), str(facts["positive"]), *shown])
    return rows


def tile_cells(one: JudgedSlide) -> list[str]:
    """A slide's tiles in lesions, and AUC, sensitivity and specificity over its tiles."""
    if one.tiles is None:
        return [""] * 4
    inside, called = one.tiles.inside, one.tiles.scores >= one.threshold
    auc = areas_of(inside, one.tiles.scores)[0] if len(inside) else None
    shares = [
        f"{(called == side)[inside == side].mean():.4f}" if (inside == side).any() else ""
        for side in (True, False)
    ]
    return [str(int(inside.sum())), "" if auc is None else f"{auc:.4f}", *shares]


def lesion_cells(one: JudgedSlide) -> list[str]:
    """A slide's lesions, how many are found, and false positives, at the threshold."""
    if one.lesions is None:
        return [""] * 3
    hits = sum(value >= one.threshold for value in one.lesions.hits)
    false = sum(value >= one.threshold for value in one.lesions.false)
    return [str(one.lesions.lesions), str(hits), str(false)]


def write_report(
    place: Path,
    judged: Sequence[JudgedSlide],
    slides: dict[str, Figure],
    tiles: float | None,
    curve: dict[str, Figure],
    rows: list[list[str]],
    unit: str,
    groups: Sequence[str] | None,
    score: str,
    missing: str,
) -> None:
    """Write report.html; `score` says how a slide's score is made, `missing` what was left out."""
    facts = {
        "slides": f"{len(judged)}, {sum(one.positive for one in judged)} positive",
        "AUC over slides": str(slides["roc_auc"]),
        "average precision over slides": str(slides["average_precision"]),
        **{f"{name} over slides": str(slides[name]) for name in RATES_AT if name in slides},
        **({"AUC over tiles": f"{tiles:.3f}"} if tiles is not None else {}),
    }
    parts = [
        *([("", [page.paragraph(missing, "warning")])] if missing else []),
        ("", [page.paragraph(score)]),
        ("Figures", [page.facts(facts)]),
    ]
    if curve:
        table = [["false positives a slide", "sensitivity"]]
        table += [["mean" if k == "score" else k, str(v)] for k, v in curve.items()]
        parts.append(("Lesions: FROC by Camelyon16's rules", [page.table(table)]))
    if groups and len(set(groups)) <= SHOWN_GROUPS:
        parts.append((f"By {unit}", [page.table(group_rows(by_group(judged, groups), unit))]))
    links = {one.row.slide: f"{MAPS}/{one.row.slide}/slide.html" for one in judged}
    head = [HEADS.get(name, name.replace("_", " ")) for name in rows[0]]
    parts.append(("Slides", [page.table([head, *rows[1:]], sortable=True, links=links)]))
    note = (
        f"95 % intervals by the bootstrap over {unit}s. A tile is called from the bundle's threshold "
        "on, which was not chosen on these slides."
    )
    parts.append(("", [page.paragraph(note, "small")]))
    page.write_page(place / "report.html", "Slides judged", parts)
