"""`histo evaluate` of whole slides: mapped, then judged by slide labels or drawn lesions."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histo.commands.map import map_to, model_of
from histo.config import PREDICT_BATCH
from histo.data.columns import Column, label_column, read_rows
from histo.data.groups import groups_of
from histo.distributed import ranks
from histo.errors import HistoError
from histo.files.writing import write_json, written
from histo.model.predictor import open_bundle
from histo.report import page
from histo.report.metrics import areas_of
from histo.report.slide_metrics import Figure, froc_figures, slide_figures
from histo.screen import Screen, counted
from histo.slides.froc import RATES, Judged, froc, grown_lesions, judge
from histo.slides.lesions import Lesion
from histo.slides.maps_folder import MapsFolder
from histo.slides.reader import open_slide
from histo.slides.slide_files import SlideMpp, find_slides
from histo.slides.summary import SLIDE_JSON, SlideRow, read_row
from histo.slides.truth import TileTruth, annotation_file, is_lesion, read_truth, tile_truth

SLIDE_NAMES = ("slide", "id", "image", "name", "filename", "file", "wsi", "case")
"""Columns that may hold a slide's name."""
MAPS = "maps"


@dataclass(frozen=True)
class JudgedSlide:
    """A slide, what is known of it, and what its map says."""

    row: SlideRow
    positive: bool
    score: float
    threshold: float
    tiles: TileTruth | None = None
    lesions: Judged | None = None


def evaluate_slides(
    bundle: Path,
    slides: Path,
    screen: Screen,
    *,
    out: Path | None = None,
    annotations: Path | None = None,
    labels: Path | None = None,
    label_name: str = "label",
    groups: str | None = None,
    positive: str | None = None,
    mpp: float | None = None,
    slide_mpp: str | float | None = None,
    tta: bool = False,
    device: str = "auto",
    batch_size: int = PREDICT_BATCH,
) -> Path | None:
    """Map slides into OUT/maps and judge them; returns OUT, or None in later processes of a launch.

    `annotations` is a folder with a GeoJSON a slide, `labels` a CSV of slides and labels. Writes
    slides.json, by_slide.csv and report.html.
    """
    if annotations is None and labels is None:
        raise HistoError(
            f"{slides} holds whole slides: what is known of them is missing",
            "give {annotations} a folder with a GeoJSON a slide",
            "give {labels} a CSV with the columns slide and label",
        )
    found = find_slides([slides])
    model = model_of(open_bundle(bundle, device), mpp, positive, tta)
    vocab, name = model.scheme.vocab, model.scheme.named[0]
    if len(vocab) != 2:
        raise HistoError(f"slides are judged for two classes; this model has {len(vocab)}")
    known = slide_labels(labels, label_name, list(found), vocab, name) if labels else {}
    drawn = find_annotations(annotations, found, known) if annotations else {}
    place = out or Path("runs", f"evaluate-{slides.resolve().name}")
    place.mkdir(parents=True, exist_ok=True)
    map_to(
        bundle,
        [slides],
        place / MAPS,
        screen,
        mpp=mpp,
        slide_mpp=slide_mpp,
        tta=tta,
        positive=positive,
        device=device,
        batch_size=batch_size,
    )
    if ranks.rank() > 0:
        return None
    maps = MapsFolder.read(place / MAPS)
    resolutions = SlideMpp.read(slide_mpp)
    names: set[str] = set()
    judged = []
    for slide, path in found.items():
        if not (maps.of(slide) / SLIDE_JSON).is_file():
            continue
        row = read_row(maps.of(slide) / SLIDE_JSON)[1]
        lesions = None
        if annotations and (file := drawn.get(slide)):
            with open_slide(path, mpp=resolutions.of(slide, path)) as opened:
                truth = read_truth(file, name, opened.bounds)
            names |= truth.names
            lesions = truth.lesions
        elif annotations:
            lesions = []
        is_positive = known.get(slide, bool(lesions))
        judged.append(
            judge_slide(maps.of(slide), row, name, is_positive, lesions, model.scheme.threshold)
        )
    if annotations and names and not any(is_lesion(one, name) for one in names):
        raise HistoError(
            f"no annotation in {annotations} is of the class {name!r}: there are "
            f"{', '.join(sorted(names)[:8])}"
        )
    if not judged:
        raise HistoError(f"none of {counted(len(found), 'slide')} could be mapped")
    unit, parts = (
        groups_of(groups, [one.row.slide for one in judged]) if groups else ("slide", None)
    )
    write_judged(place, judged, name, parts, unit, screen)
    return place


def slide_labels(
    table: Path, label_name: str, slides: Sequence[str], vocab: Sequence[str], positive: str
) -> dict[str, bool]:
    """Whether each slide is positive, from a CSV; HistoError where one is missing or of no class."""
    columns = [Column("slide", "id_column", SLIDE_NAMES, "slides"), label_column(label_name)]
    found = {}
    for line, (slide, label) in read_rows(table, columns):
        if label not in vocab:
            raise HistoError(
                f"{table.name}, line {line}: label {label!r} is not a class of the bundle "
                f"({', '.join(vocab)})"
            )
        found[slide] = found[Path(slide).stem] = label == positive
    missing = [slide for slide in slides if slide not in found]
    if missing:
        raise HistoError(f"{table} names no label for the slide {missing[0]}")
    return found


def find_annotations(
    folder: Path, slides: dict[str, Path], known: dict[str, bool]
) -> dict[str, Path]:
    """The annotations of each slide; HistoError where a slide has none and is not said to be negative."""
    found = {}
    for slide, path in slides.items():
        file = annotation_file(folder, slide) or annotation_file(folder, path.name)
        if file:
            found[slide] = file
        elif known.get(slide, True):
            raise HistoError(
                f"{folder} has no {slide}.geojson, and the slide is not said to be negative",
                "give {labels} a CSV with the columns slide and label",
            )
    return found


def judge_slide(
    folder: Path,
    row: SlideRow,
    positive: str,
    is_positive: bool,
    lesions: Sequence[Any] | None,
    threshold: float,
) -> JudgedSlide:
    """What a slide's map says, beside what is known."""
    score = row.classes[positive].score
    score = 0.0 if np.isnan(score) else score
    if lesions is None:
        return JudgedSlide(row, is_positive, score, threshold)
    tiles = tile_truth(folder / "tiles.csv", positive, lesions)
    with (folder / "lesions.csv").open(encoding="utf-8", newline="") as file:
        candidates = [
            Lesion(float(r["confidence"]), int(r["x"]), int(r["y"])) for r in csv.DictReader(file)
        ]
    found = judge(candidates, grown_lesions(lesions, row.mpp))
    return JudgedSlide(row, is_positive, score, threshold, tiles, found)


def write_judged(
    place: Path,
    judged: Sequence[JudgedSlide],
    positive: str,
    groups: Sequence[str] | None,
    unit: str,
    screen: Screen,
) -> None:
    """Write slides.json, by_slide.csv and report.html, and say the figures."""
    labels = np.array([one.positive for one in judged])
    scores = np.array([one.score for one in judged])
    slides = slide_figures(labels, scores, groups)
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
            "positive_class": positive,
            "positive_slides": int(labels.sum()),
            "intervals_over": unit if groups else "slide",
            "by_slide": {name: figure.as_dict() for name, figure in slides.items()},
            "tiles_roc_auc": tiles,
            "lesions": sum(one.lesions for one in lesions),
            "froc": {name: figure.as_dict() for name, figure in curve.items()},
        },
    )
    rows = by_slide(judged, groups, unit)
    with written(place / "by_slide.csv", "w") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    write_report(place, judged, slides, tiles, curve, rows, unit if groups else "slide")
    screen.say(f"slides: AUC {slides['roc_auc']} over {counted(len(judged), 'slide')}")
    if tiles is not None:
        screen.say(f"tiles: AUC {tiles:.3f}, each by its middle")
    if curve and curve["score"].value is not None:
        screen.say(f"lesions: FROC score {curve['score']}")
    screen.say(f"report: {place / 'report.html'}")


def tile_figure(judged: Sequence[JudgedSlide]) -> float | None:
    """The AUC over the tiles of all slides whose lesions are drawn."""
    known = [one.tiles for one in judged if one.tiles is not None]
    if not known:
        return None
    inside = np.concatenate([tiles.inside for tiles in known])
    return areas_of(inside, np.concatenate([tiles.scores for tiles in known]))[0]


def by_slide(
    judged: Sequence[JudgedSlide], groups: Sequence[str] | None, unit: str
) -> list[list[str]]:
    """A row a slide, the header first."""
    own = [unit] if groups else []
    head = ["slide", *own, "positive", "score", "tiles", "tiles_inside", "tile_auc"]
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
                str(one.row.tiles),
                *tile_cells(one),
                *lesion_cells(one),
            ]
        )
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
) -> None:
    """Write report.html."""
    facts = {
        "slides": f"{len(judged)}, {sum(one.positive for one in judged)} positive",
        "AUC over slides": str(slides["roc_auc"]),
        "average precision over slides": str(slides["average_precision"]),
        **({"AUC over tiles": f"{tiles:.3f}"} if tiles is not None else {}),
    }
    parts = [
        ("", [page.paragraph("The score of a slide is the mean of its ten highest places.")]),
        ("Figures", [page.facts(facts)]),
    ]
    if curve:
        table = [["false positives a slide", "sensitivity"]]
        table += [["mean" if k == "score" else k, str(v)] for k, v in curve.items()]
        parts.append(("Lesions: FROC by Camelyon16's rules", [page.table(table)]))
    links = {one.row.slide: f"{MAPS}/{one.row.slide}/slide.html" for one in judged}
    parts.append(("Slides", [page.table(rows, sortable=True, links=links)]))
    note = (
        f"95 % intervals by the bootstrap over {unit}s. The threshold is the bundle's, and how a "
        "slide's score is made is fixed: neither was chosen on these slides."
    )
    parts.append(("", [page.paragraph(note, "small")]))
    page.write_page(place / "report.html", "Slides judged", parts)
