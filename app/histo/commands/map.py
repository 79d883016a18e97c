"""`histo map`: lay a bundle over whole slides."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histo.commands.map_pages import finish, slide_page
from histo.commands.predict import say_engine
from histo.config import PREDICT_BATCH, ModelCard, check_setting
from histo.data.appearance import Appearance
from histo.distributed import ranks
from histo.errors import HistoError
from histo.model.predictor import Predictor, open_bundle
from histo.pixels.d4 import VIEWS
from histo.report.map_page import write_slide_page
from histo.run.calls import apply_temperature
from histo.run.positive import bundle_positive
from histo.screen import Progress, Screen, counted, screen_of
from histo.shards.shard import Shard
from histo.slides.grid import Grid, Places, check_stride
from histo.slides.heat import Scheme
from histo.slides.map_geojson import area_mm2
from histo.slides.map_slide import MapModel, MapSettings, key_of, map_slide
from histo.slides.maps_folder import MapsFolder
from histo.slides.reader import Slide
from histo.slides.slide_files import SlideMpp, find_slides, fingerprint_of
from histo.slides.summary import SLIDE_JSON, SLIDES_CSV, SlideRow, write_row
from histo.slides.tissue_outlines import tissue_file, tissue_of
from histo.slides.tissue_tiles import all_tiles, tissue_tiles

if TYPE_CHECKING:
    import pandas as pd

    from histo.slides.map_slide import ChooseTiles


def map(
    bundle: str | Path,
    slides: str | Path | Sequence[str | Path],
    *,
    out: str | Path = "maps",
    mpp: float | None = None,
    slide_mpp: str | float | None = None,
    stride: int | None = None,
    tta: bool = False,
    tissue: str | Path | None = None,
    no_tissue: bool = False,
    hdf5: bool = False,
    positive: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = PREDICT_BATCH,
    progress: Progress = False,
) -> pd.DataFrame:
    """Map slides, files or folders of them; returns the table of `out`/slides.csv, a row a slide.

    Each slide gets a folder in `out`: tiles.csv, heatmap.tiff, map.geojson, overlay.png, slide.html.
    Killed, the same call goes on. `mpp` is the µm per px of the model's patches, where the bundle
    does not say; `slide_mpp` that of slides that do not say, a number or a CSV; `stride` the step
    of tiles in px of the model; `tta` averages the eight D4 views; `tissue` is a folder of
    corrected tissue outlines; `no_tissue` maps the background too; `precision` is fp32, bf16, int8,
    or the fastest that the bundle vouches for; `hdf5` also writes tiles.h5.
    A slide that cannot be mapped is listed with the reason. Raises HistoError.
    """
    import pandas as pd

    map_to(
        Path(bundle),
        [Path(one) for one in ([slides] if isinstance(slides, str | Path) else slides)],
        Path(out),
        screen_of(progress),
        mpp=mpp,
        slide_mpp=slide_mpp,
        stride=stride,
        tta=tta,
        tissue=Path(tissue) if tissue else None,
        no_tissue=no_tissue,
        hdf5=hdf5,
        positive=positive,
        device=device,
        precision=precision,
        batch_size=batch_size,
    )
    return pd.read_csv(Path(out) / SLIDES_CSV, dtype={"slide": str}, keep_default_na=False)


def map_to(
    bundle: Path,
    slides: Sequence[Path],
    out: Path,
    screen: Screen,
    *,
    mpp: float | None = None,
    slide_mpp: str | float | None = None,
    stride: int | None = None,
    tta: bool = False,
    tissue: Path | None = None,
    no_tissue: bool = False,
    hdf5: bool = False,
    positive: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = PREDICT_BATCH,
    shard: Shard | None = None,
) -> int:
    """`map`, without reading the table; returns how many slides have no map.

    `shard` maps its share of the slides alone, for `histo merge`. The processes of a launcher take
    a share each, and the first writes the table.
    """
    for name, value in (("batch_size", batch_size), ("mpp", mpp), ("stride", stride)):
        check_setting(name, value)
    if tissue and no_tissue:
        raise HistoError(
            "outlines of tissue are given, and that they do not matter", "leave {no_tissue} out"
        )
    found = find_slides(slides)
    check_installed()
    resolutions = SlideMpp.read(slide_mpp)
    predictor = open_bundle(bundle, device, precision)
    say_engine(predictor.judged, predictor.passed_over, screen)
    model = model_of(predictor, mpp, positive, tta)
    check_stride(model.side, stride)
    settings = MapSettings(stride, batch_size, hdf5, tissue_word(tissue, no_tissue))
    folder = MapsFolder.open(out, shared_settings(model, settings), model.scheme.named, list(found))
    mine = shard or Shard(ranks.rank() + 1, ranks.world_size())
    names = list(found)[mine.number - 1 :: mine.of]
    choose = chooser(tissue, no_tissue)
    maker = Maker(folder, model, settings, choose, tissue, resolutions, screen)
    failed = 0
    for name in names:
        failed += not maker.make(name, found[name])
    if shard:
        screen.say(
            f"share {shard}: {counted(len(names) - failed, 'slide')} in {out} (when all "
            f"{shard.of} are done: histo merge {out})"
        )
        return failed
    ranks.barrier()
    return finish(out, screen) if ranks.rank() == 0 else 0


def check_installed() -> None:
    """HistoError where a package that maps need is missing."""
    for name in ("openslide", "shapely", "tifffile"):
        if find_spec(name) is None:
            raise HistoError(f"whole slides need {name}: pip install 'histolearn[slides]'")


def model_of(predictor: Predictor, mpp: float | None, positive: str | None, tta: bool) -> MapModel:
    """A bundle as a map needs it; HistoError where its µm per px or positive class is not known."""
    card = predictor.card
    known = mpp or card.mpp
    if known is None:
        raise HistoError(
            f"{predictor.files.folder} does not say at how many µm per px its patches are",
            "give {mpp}: 0.972 for PatchCamelyon",
        )
    about = bundle_positive(card.vocab, card.positive, card.format == 1, positive)
    if about:
        about.needed_for("a map")
    return MapModel(
        lambda tiles: predictor.predict(tiles, tta).probabilities,
        Scheme(card.vocab, about.index if about else 0, published_threshold(card)),
        card.patch_size,
        known,
        {
            "bundle": predictor.files.fingerprint(),
            "engine": predictor.engine.name,
            "views": VIEWS if tta else 1,
        },
        Appearance.read(predictor.files.facts.get("appearance")),
    )


def published_threshold(card: ModelCard) -> float:
    """The threshold for probabilities with the temperature, which bundles of format 1 leave out."""
    if card.format > 1:
        return card.threshold
    at = np.array([[1 - card.threshold, card.threshold]])
    return float(apply_temperature(at, card.temperature)[0, 1])


def shared_settings(model: MapModel, settings: MapSettings) -> dict[str, Any]:
    """What all maps of a folder share, as maps.json keeps it."""
    return {
        **model.facts,
        "mpp": model.mpp,
        "stride": settings.stride or model.side,
        "positive": model.scheme.vocab[model.scheme.positive],
        "threshold": model.scheme.threshold,
        "tissue": settings.tissue,
        "hdf5": settings.hdf5,
        "batch_size": settings.batch_size,
    }


@dataclass(frozen=True)
class Maker:
    """Makes the maps of a folder, one slide after the other."""

    folder: MapsFolder
    model: MapModel
    settings: MapSettings
    choose: ChooseTiles
    tissue: Path | None
    resolutions: SlideMpp
    screen: Screen

    def make(self, name: str, path: Path) -> bool:
        """Map a slide unless it is done; False, and a line, where it cannot be mapped."""
        with self.folder.lock(name):
            try:
                self._make(name, path)
            except HistoError as error:
                self.screen.say(f"{name}: {error.message}", *error.ways)
                self.folder.fail(SlideRow(name, path.name, error=error.message))
                return False
        return True

    def _make(self, name: str, path: Path) -> None:
        began = time.monotonic()
        with self.resolutions.open(name, path) as slide:
            if note := self.resolutions.unused(slide.mpp):
                self.screen.say(f"{name}: {note}")
            prints = fingerprint_of(path)
            if self.tissue:
                prints += fingerprint_of(tissue_file(self.tissue, path))
            key = key_of(self.model, self.settings, slide, prints)
            if self.folder.is_done(name, key):
                self.folder.failure(name).unlink(missing_ok=True)  # of another file of that name
                self.screen.say(f"{name}: done already")
                return
            with self.folder.making(name) as work:
                done = map_slide(
                    slide, name, work, key, self.model, self.settings, self.choose, self.screen
                )
                write_slide_page(work, slide_page(done))
                row = replace(done.row, seconds=time.monotonic() - began)
                write_row(work / SLIDE_JSON, key, row)
        self.screen.say(line_of(row))


def tissue_word(tissue: Path | None, no_tissue: bool) -> str:
    """How tiles are chosen, for the settings of the maps."""
    return "none" if no_tissue else "outlines" if tissue else "found"


def line_of(row: SlideRow) -> str:
    """A slide's result in a line."""
    found = [
        f"called {name}: {figures.mm2:.2f} mm² ({100 * figures.share:.1f} %)"
        + ("" if math.isnan(figures.maximum) else f", p at most {figures.maximum:.3f}")
        for name, figures in row.classes.items()
    ]
    speed = row.tiles / max(row.seconds, 1e-9)
    lines = [
        f"{row.slide}: {counted(row.tiles, 'tile')} in {row.seconds:.1f} s ({speed:.0f}/s); "
        + "; ".join(found[:3]),
        *(f"  {warning}" for warning in row.warnings),
    ]
    return "\n".join(lines)


def chooser(tissue: Path | None, no_tissue: bool) -> ChooseTiles:
    """How the tiles of a slide are chosen."""

    def choose(slide: Slide, grid: Grid) -> tuple[Places, float]:
        if no_tissue:
            places = all_tiles(grid)
            return places, area_mm2(grid, len(places), slide.mpp)
        found = tissue_of(slide, tissue)
        return tissue_tiles(grid, found.mask, found.pixel), found.mm2(slide.mpp)

    return choose
