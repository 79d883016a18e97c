"""`histo evaluate` of whole slides: mapped, then judged by slide labels or drawn lesions."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from histo.commands.cut import check_names, parse_classes
from histo.commands.judged_slides import MAPS, SCORE, JudgedSlide, write_judged
from histo.commands.map import map_to, model_of
from histo.commands.predict import say_engine
from histo.config import PREDICT_BATCH, DataConfig
from histo.data.columns import Column, label_column, place_of, read_header, read_rows
from histo.data.groups import groups_of, table_of
from histo.distributed import ranks
from histo.errors import HistoError
from histo.model.predictor import open_bundle
from histo.report.metrics import areas_of
from histo.screen import Screen, counted
from histo.slides.annotations import class_of, find_annotation
from histo.slides.froc import grown_lesions, judge
from histo.slides.lesions import Lesion
from histo.slides.maps_folder import MapsFolder
from histo.slides.slide_files import SlideMpp, find_slides, fingerprint_of
from histo.slides.slide_score import ScoreRule, check_rule, choose_rule, read_rule
from histo.slides.summary import SlideRow
from histo.slides.truth import (
    Truth,
    check_same_value,
    is_lesion,
    read_truth,
    tile_scores,
    tile_truth,
)

SLIDE_NAMES = ("slide", "id", "image", "name", "filename", "file", "wsi", "case")
"""Columns that may hold a slide's name."""


def evaluate_slides(
    bundle: Path,
    slides: Path,
    screen: Screen,
    *,
    out: Path | None = None,
    annotations: Path | None = None,
    labels: Path | None = None,
    label_name: str = DataConfig.label_column,
    id_name: str = DataConfig.id_column,
    groups: str | None = None,
    positive: str | None = None,
    mpp: float | None = None,
    slide_mpp: str | float | None = None,
    tta: bool = False,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = PREDICT_BATCH,
    classes: Sequence[str] = (),
    choose_score: bool = False,
    score: Path | None = None,
) -> Path | None:
    """Map slides into OUT/maps and judge them; returns OUT, or None in later processes of a launch.

    `annotations` is a folder with a GeoJSON, ASAP XML or mask for each, `classes` names theirs as in a
    cut, `labels` is a CSV of slides and labels. `choose_score` writes score.json, which says how a
    slide's score is best made; `score` is such a file, of other slides. Writes slides.json,
    by_slide.csv and report.html.
    """
    if choose_score and score:
        raise HistoError("a score is given and to be chosen", "leave {score} or {choose_score} out")
    if annotations is None and labels is None:
        raise HistoError(
            f"{slides} holds whole slides: what is known of them is missing",
            "give {annotations} a folder with the annotations of each slide",
            "give {labels} a CSV with the columns slide and label",
        )
    found = find_slides([slides])
    predictor = open_bundle(bundle, device, precision)
    say_engine(predictor.judged, predictor.passed_over, screen)
    model = model_of(predictor, mpp, positive, tta)
    vocab, name = model.scheme.vocab, model.scheme.named[0]
    if len(vocab) != 2:
        raise HistoError(f"slides are judged for two classes; this model has {len(vocab)}")
    columns = [slide_column(id_name), label_column(label_name)]
    known = slide_labels(labels, columns, list(found), vocab, name) if labels else {}
    unit, parts = slide_groups(groups, id_name, list(found)) if groups else ("slide", {})
    drawn = find_annotations(annotations, found, known) if annotations else {}
    prints = {name: fingerprint_of(path) for name, path in found.items()}
    fingerprint = predictor.files.fingerprint()
    rule = read_rule(score) if score else ScoreRule()
    if score:
        check_rule(rule, score, fingerprint, prints)
    mapping = parse_classes(classes)
    check_names(drawn.values(), mapping)
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
        precision=precision,
        batch_size=batch_size,
    )
    if ranks.rank() > 0:
        return None
    resolutions = SlideMpp.read(slide_mpp)
    maps = MapsFolder.read(place / MAPS)
    threshold = model.scheme.threshold
    judge = Judge(maps, name, threshold, annotations, drawn, known, resolutions, mapping)
    judged = judge.slides(found)
    say_contrary(judged, screen)
    if choose_score:
        labels_of = np.array([one.positive for one in judged])
        values = [one.values for one in judged]
        own = {one.row.slide: prints[one.row.slide] for one in judged}
        rule = choose_rule(
            values, labels_of, threshold, fingerprint, own, lambda *both: areas_of(*both)[0]
        )
        rule.write(place / SCORE)
    judged = [replace(one, score=rule.score(one.values, threshold)) for one in judged]
    there = [one.row.slide for one in judged]
    left_out = [slide for slide in found if slide not in there]
    own_parts = [parts[slide] for slide in there] if parts else None
    write_judged(place, judged, name, own_parts, unit, rule, choose_score, left_out, screen)
    return place


def say_contrary(judged: Sequence[JudgedSlide], screen: Screen) -> None:
    """Name slides whose label and drawn lesions contradict each other: the figures follow both."""
    for one in judged:
        drawn = one.lesions.lesions if one.lesions else None
        if drawn is not None and bool(drawn) != one.positive:
            screen.say(
                f"{one.row.slide}: its label says {'positive' if one.positive else 'negative'}; "
                f"lesions drawn on it, without isolated tumour cells: {drawn}"
            )


@dataclass(frozen=True)
class Judge:
    """Judges mapped slides by what is known of them."""

    maps: MapsFolder
    positive: str
    threshold: float
    annotations: Path | None
    drawn: Mapping[str, Path]
    """the annotations of each slide that has some"""
    known: Mapping[str, bool]
    """whether a slide is positive, where a table says so"""
    resolutions: SlideMpp
    classes: Mapping[str, str]
    """of annotations by name, where they are given"""

    def slides(self, found: Mapping[str, Path]) -> list[JudgedSlide]:
        """Every slide that has a map; HistoError where none has, or no annotation is of the class."""
        names: set[str] = set()
        judged, truths = [], dict[Path, Truth]()
        for slide, path in found.items():
            row = self.maps.row(slide)
            if row is None or row.error:
                continue
            truth = self._truth(slide, path)
            names |= truth.names if truth else set()
            if truth and slide in self.drawn:
                truths[self.drawn[slide]] = Truth([], truth.names, truth.only)
                check_same_value(truths, self.positive)
            lesions = truth.lesions if truth else None
            positive = self.known.get(slide, bool(lesions))
            folder = self.maps.of(slide)
            judged.append(
                judge_slide(folder, row, self.positive, positive, lesions, self.threshold)
            )
        if names and not any(
            is_lesion(class_of(one, self.classes), self.positive) for one in names
        ):
            raise HistoError(
                f"no annotation in {self.annotations} is of the class {self.positive!r}: there are "
                f"{', '.join(sorted(names - {''})[:8]) or 'none with a class'}"
            )
        if not judged:
            raise HistoError(f"none of {counted(len(found), 'slide')} could be mapped")
        return judged

    def _truth(self, slide: str, path: Path) -> Truth | None:
        if self.annotations is None:
            return None
        if slide not in self.drawn:
            return Truth([], set())
        with self.resolutions.open(slide, path) as opened:
            facts = self.drawn[slide], self.positive, opened.size, opened.bounds
            return read_truth(*facts, self.classes, opened.mpp)


def slide_column(name: str) -> Column:
    """The column of the slides' names; under the default name of ids others are taken too."""
    if name != DataConfig.id_column:
        return Column(name, "id_column", (), "slides")
    return Column("slide", "id_column", SLIDE_NAMES, "slides")


def slide_groups(given: str, id_name: str, slides: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What a group is called (patient, centre), and that of each slide, from `CSV[:column]`."""
    table, _ = table_of(given)
    header = read_header(table)
    column = header[place_of(slide_column(id_name), header, table)]
    unit, names = groups_of(given, slides, column, "slide")
    return unit, dict(zip(slides, names, strict=True))


def slide_labels(
    table: Path,
    columns: Sequence[Column],
    slides: Sequence[str],
    vocab: Sequence[str],
    positive: str,
) -> dict[str, bool]:
    """Whether each slide is positive, from a CSV; HistoError where one is missing or of no class."""
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
        if file := find_annotation(folder, path):
            found[slide] = file
        elif known.get(slide, True):
            raise HistoError(
                f"{folder} has no annotations of {slide}, and the slide is not said to be negative",
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
    table = tile_scores(folder / "tiles.csv", positive)
    values = table[:, 3]
    if lesions is None:
        return JudgedSlide(row, is_positive, threshold, values)
    tiles = tile_truth(table, lesions)
    try:
        with (folder / "lesions.csv").open(encoding="utf-8", newline="") as file:
            candidates = [
                Lesion(float(r["confidence"]), int(r["x"]), int(r["y"]))
                for r in csv.DictReader(file)
            ]
    except (ValueError, KeyError, TypeError, csv.Error):
        raise HistoError(
            f"{folder / 'lesions.csv'} is damaged", "remove its folder and map the slide again"
        ) from None
    found = judge(candidates, grown_lesions(lesions, row.mpp))
    return JudgedSlide(row, is_positive, threshold, values, tiles=tiles, lesions=found)
