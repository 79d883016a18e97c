"""The tissue of a slide: as it is found, or as corrected outlines in a folder say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histo.errors import HistoError
from histo.slides.dicom import name_of
from histo.slides.qupath import read_geojson
from histo.slides.tissue import Tissue, drawn_tissue, find_tissue

if TYPE_CHECKING:
    from histo.slides.reader import Slide

ENDINGS = (".geojson", ".geojson.gz", ".json", ".json.gz")


def tissue_of(slide: Slide, folder: Path | None) -> Tissue:
    """The tissue as found, or as the corrected outlines in a folder say."""
    if folder is None:
        return find_tissue(slide)
    from shapely.affinity import translate

    outlines = read_geojson(tissue_file(folder, slide.path))
    return drawn_tissue(slide, [translate(one.polygon, *slide.bounds) for one in outlines])


def tissue_file(folder: Path, slide: Path) -> Path:
    """The outlines of a slide's tissue: SLIDE.geojson, or SLIDE/tissue.geojson as a cut writes it."""
    name = name_of(slide)
    found = [folder / f"{one}{ending}" for one in (name, slide.name) for ending in ENDINGS]
    found.append(folder / name / "tissue.geojson")
    for path in found:
        if path.is_file():
            return path
    raise HistoError(f"{folder} has no {name}.geojson with the tissue of this slide")
