"""One slide cut into patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from histo.data.labels import check_class_names
from histo.errors import HistoError
from histo.files.tables import csv_writer
from histo.files.writing import written
from histo.slides.annotations import Annotations, read_annotations
from histo.slides.cut_folder import COLUMNS, TILES, CutFolder
from histo.slides.cut_sheet import picture_of, write_sheet, write_tissue
from histo.slides.grid import Grid, Places, make_grid
from histo.slides.patch_writer import write_tiles
from histo.slides.reader import Slide
from histo.slides.tile_labels import LabelRule, Labels, label_tiles, sample
from histo.slides.tissue import Tissue
from histo.slides.tissue_outlines import tissue_of
from histo.slides.tissue_tiles import all_tiles, tissue_tiles

COARSER = 1.25
"""A slide whose px are so much larger than the patches' has not what the patches should show."""


@dataclass(frozen=True)
class CutPlan:
    """What is cut from every slide."""

    side: int
    mpp: float
    stride: int | None
    rule: LabelRule
    classes: Mapping[str, str]
    per_slide: int | None
    seed: int
    tissue: Path | None
    no_tissue: bool
    files: bool = True
    """each patch a file of its own, else a ZIP file a slide"""


@dataclass(frozen=True)
class SlideCut:
    """What was cut from a slide: tiles by class, and the annotations."""

    tiles: Labels
    found: Annotations


def cut_slide(
    slide: Slide,
    name: str,
    annotation: Path | None,
    plan: CutPlan,
    folder: CutFolder,
    work: Path,
) -> SlideCut:
    """Write the patches of a slide, and its tables and pictures into `work`. Raises HistoError."""
    if slide.mpp > COARSER * plan.mpp:
        raise HistoError(
            f"its {slide.mpp:.3g} µm per px are coarser than the {plan.mpp:.3g} of the patches",
            "give {mpp}",
        )
    found = Annotations({}, frozenset())
    if annotation:
        facts = slide.size, slide.bounds, plan.classes, slide.mpp
        found = read_annotations(annotation, *facts)
        where = str(annotation)
        check_class_names({name: where for name in found.covers if name}, where)
    grid = make_grid(slide.end, slide.bounds, plan.mpp / slide.mpp, plan.side, plan.stride)
    picture = picture_of(slide)
    tissue = None if plan.no_tissue else tissue_of(slide, plan.tissue)
    if tissue:
        write_tissue(work, picture, slide, tissue)
    labels = label_tiles(grid, places_of(grid, tissue), found, plan.rule)
    labels = sample(labels, plan.per_slide, plan.seed, name)
    names = sorted({str(one) for one in labels.names})
    write_sheet(work / "sheet.jpg", picture, slide, grid, labels, names)
    for labelled in sorted({bool(one) for one in names}):
        place = folder.images(name, labelled)
        place.mkdir(parents=True)
        chosen = labels.places[(labels.names != "") == labelled]
        write_tiles(slide, grid, chosen, place, plan.files)
    write_table(work / TILES, name, annotation, grid, labels)
    return SlideCut(labels, found)


def places_of(grid: Grid, tissue: Tissue | None) -> Places:
    """The tiles with tissue, or all of them."""
    if tissue is None:
        return all_tiles(grid)
    return tissue_tiles(grid, tissue.mask, tissue.pixel)


def write_table(
    path: Path, slide: str, annotation: Path | None, grid: Grid, labels: Labels
) -> None:
    """tiles.csv: where each patch came from."""
    with written(path, "w") as file:
        table = csv_writer(file)
        table.writerow(COLUMNS)
        source = annotation.name if annotation else ""
        corners = grid.corners(labels.places).tolist()
        for (x, y), name, cover in zip(corners, labels.names, labels.cover, strict=True):
            row = (f"{slide}/{x}_{y}", slide, x, y, grid.width, grid.width, name, source)
            table.writerow((*row, f"{cover:.4f}"))
