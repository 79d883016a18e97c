"""`histo features`: what a body sees in patches, as numbers, for other programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from histo import __version__
from histo.commands.bodies import check_model, size_for_foundation
from histo.config import PREDICT_BATCH, Layout, ModelCard, check_setting
from histo.data.decode import read_patch
from histo.data.decode_ahead import decode_batches, fitting_batch
from histo.data.feature_tables import (
    PARQUET,
    VERSION,
    FeatureTable,
    check_table,
    is_ours,
    write_table,
)
from histo.data.ids import SUFFIXES
from histo.data.inputs import Inputs, find_inputs
from histo.data.tile_places import TilePlaces, read_places
from histo.errors import HistoError
from histo.files.digests import sha256
from histo.files.outputs import Output, check_apart, check_outputs, never
from histo.model.foundation import hub_step
from histo.pixels.fit import Fit
from histo.run.predictions import skipped_path, write_skipped
from histo.screen import Progress, Screen, counted, screen_of
from histo.slides.slide_files import refuse_slides

if TYPE_CHECKING:
    from histo.model.features import Extractor


def features(
    body: str | Path,
    patches: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    weights: str = "imagenet",
    layout: Layout = "clam",
    images: str | Path | None = None,
    id_column: str = "id",
    crop: int | None = None,
    size: int | None = None,
    mpp: float | None = None,
    device: str = "auto",
    batch_size: int = PREDICT_BATCH,
    skip_bad: bool = False,
    force: bool = False,
    progress: Progress = False,
) -> Path:
    """Write the features of patches, one row each, to `out`; returns it.

    `body` is a bundle, or the name of an architecture with `weights` as in training; `patches` are as
    for predict. `out` ends in .h5 or .parquet, or is a folder that gets a .h5 for each slide of a
    table with slide, x, y and width, as histo cut writes it (tiles.csv). `layout` is that of the
    HDF5: clam (also TRIDENT) or stamp, which needs `mpp`, µm per px of the patches' files, where
    the bundle does not say. Raises HistoError.
    """
    listed = [Path(one) for one in ([patches] if isinstance(patches, str | Path) else patches)]
    place, screen = Path(out), screen_of(progress)
    for name, value in (("batch_size", batch_size), ("crop", crop), ("size", size), ("mpp", mpp)):
        check_setting(name, value)
    if layout not in get_args(Layout):
        raise HistoError(f"layout is {layout!r}: give one of {', '.join(get_args(Layout))}")
    check_table(place)
    check_body(Path(body), weights)
    if not Path(body).is_dir():
        size = size_for_foundation(str(body), size, screen)
    inside = {one: SUFFIXES for one in (*listed, images and Path(images)) if one}
    read = [*listed, Path(weights)]
    check_outputs([Output(place if place.suffix else None, "out", never)], read, force, inside)
    refuse_slides(listed, Path(body))
    inputs = find_inputs(listed, Path(images) if images else None, id_column, screen)
    places = read_places(listed[0], id_column, inputs.ids) if len(listed) == 1 else None
    if not place.suffix and places is None:
        raise HistoError(
            f"{place} is to get a file for each slide, and nothing says which slide patches are from",
            "give a CSV with slide, x, y and width, as histo cut writes it",
            "give {out} FILE.h5",
        )
    files = files_by_slide(places) if places and not place.suffix else {}
    if place.is_dir():  # what a call that was cut has written is written anew
        check_outputs([file_of_slide(place / one) for one in files.values()], read, force, inside)
    check_apart(place, files.values())
    look = partial(sides, inputs, skip_bad)
    opened = open_body(body, weights, Fit(crop, size), look, device, screen)
    um, before = mpp_of(opened.card, mpp, look)
    if layout == "stamp" and um is None and place.suffix.lower() != PARQUET:
        raise HistoError(
            "STAMP has coordinates in µm, and µm per px of the patches is not known", "give {mpp}"
        )
    rows, found, bad = compute(opened, inputs, batch_size, skip_bad, before, screen)
    table = FeatureTable(
        [inputs.ids[row] for row in rows],
        found,
        places and places.pick(rows),
        opened.card.patch_size,
        um,
        {**opened.made_with, VERSION: __version__},
    )
    if place.suffix and place.suffix.lower() != PARQUET:
        say_coords(places, place, screen)
    (place.parent if place.suffix else place).mkdir(parents=True, exist_ok=True)
    listed_bad = skipped_path(place if place.suffix else place / "features.csv")
    write_skipped(listed_bad.with_suffix(".csv"), bad)  # first: a call that was cut can be repeated
    write(place, table, layout, files, screen)
    return place


def file_of_slide(path: Path) -> Output:
    """A file in a folder of features."""
    return Output(path, "out", lambda _: is_ours(path))


def check_body(body: Path, weights: str) -> None:
    """HistoError for a bundle that is not there, or one beside weights."""
    if not body.is_dir() and body.parent != Path():
        raise HistoError(f"no bundle {body}: give its folder, or the name of an architecture")
    if body.is_dir() and weights != "imagenet":
        raise HistoError(f"{body} has its own weights", "leave {weights} out")


Sides = Callable[[Fit], tuple[int, int]]
"""The sides of a patch before and after it is fitted."""


@dataclass(frozen=True)
class OpenBody:
    """A body at work, and what it is."""

    extract: Extractor
    card: ModelCard
    made_with: dict[str, str]


def open_body(
    body: str | Path, weights: str, fit: Fit, look: Sides, device: str, screen: Screen
) -> OpenBody:
    """The body of a bundle, or the one of an architecture and weights."""
    if Path(body).is_dir():
        return open_bundle_body(Path(body), fit, device)
    check_model(str(body), weights)
    _, side = look(fit)
    with screen.step("loading torch"):
        import torch

        from histo.model.body import features_of, load_weights, make_body, normalisation
        from histo.model.device import resolve_device
        from histo.model.features import Extractor

    on = resolve_device(device)
    torch.manual_seed(0)  # a body without weights is the same each time
    published = weights == "imagenet"
    with hub_step(str(body), published, screen):
        made = make_body(str(body), imagenet=published)
    if weights not in ("imagenet", "none"):
        screen.say(f"weights: {load_weights(made, Path(weights))}")
    features_of(made, side, str(body))
    mean, std = normalisation(made)
    card = ModelCard(str(body), ["0", "1"], side, fit.crop, fit.size, mean, std)
    facts = {"body": str(body), "weights": Path(weights).name}
    if weights not in ("imagenet", "none"):
        facts["weights_sha256"] = sha256(Path(weights))
    return OpenBody(Extractor(made, card, on), card, facts)


def open_bundle_body(folder: Path, fit: Fit, device: str) -> OpenBody:
    """The body of a bundle of one model; its card says how patches are prepared."""
    from histo.model.bundle_files import BundleFiles
    from histo.model.card import WEIGHTS
    from histo.model.device import resolve_device
    from histo.model.features import Extractor
    from histo.model.torch_engine import TorchEngine

    if fit.crop or fit.size:
        raise HistoError(
            f"{folder} says itself how patches are prepared", "leave {crop} and {size} out"
        )
    files = BundleFiles.open(folder)
    if files.card.models > 1:
        raise HistoError(
            f"{folder} averages {files.card.models} models, each with features of its own",
            "give the bundle of one fold",
        )
    on = resolve_device(device)
    network: Any = TorchEngine.open(files, on).model
    name = folder.resolve().parts[-2:]
    facts = {
        "body": files.card.arch,
        "weights": "/".join(name if name[-1] == "export" else name[-1:]),
        "weights_sha256": files.facts["files"][WEIGHTS],
    }
    return OpenBody(Extractor(network.model[0], files.card, on), files.card, facts)


def sides(inputs: Inputs, skip_bad: bool, fit: Fit) -> tuple[int, int]:
    """Side in px of the first patch that can be used: as its file has it, and as the body sees it."""
    for path in inputs.paths:
        try:
            patch = read_patch(path)
            return len(patch), len(fit(patch, path))
        except HistoError:
            if not skip_bad:
                raise
    raise HistoError("none of the patches can be used")


def mpp_of(card: ModelCard, given: float | None, look: Sides) -> tuple[float | None, int | None]:
    """µm per px of patches as the body sees them: as a bundle says, else from that of their files.

    And the side in px that every file must have for it; None where any will do.
    """
    if given is None or card.size is None:
        return given or card.mpp, None
    if card.crop:
        return given * card.crop / card.size, None
    before = look(Fit(None, card.size))[0]
    return given * before / card.size, before


def compute(
    opened: OpenBody,
    inputs: Inputs,
    batch_size: int,
    skip_bad: bool,
    before: int | None,
    screen: Screen,
) -> tuple[list[int], np.ndarray, dict[str, str]]:
    """The rows of patches that could be used, their features [N, F], and why others could not.

    Each file must have `before` px a side, where that is given.
    """
    card, rows, parts, bad, done = opened.card, list[int](), [], dict[str, str](), 0
    fit = Fit(card.crop, card.size, card.patch_size, before)
    size = fitting_batch(batch_size, card.patch_size)
    with screen.bar("features", len(inputs), unit="patches") as advance:
        for batch in decode_batches(inputs.paths, fit, size, skip_bad):
            if batch.sha1:
                parts.append(opened.extract(batch.pixels)[:, 0])
            rows += [done + place for place in batch.places()]
            bad |= {inputs.ids[done + place]: why for place, why in batch.bad.items()}
            done += len(batch.paths)
            advance(len(batch.paths))
    if not parts:
        raise HistoError("none of the patches can be used")
    return rows, np.concatenate(parts), bad


def say_coords(places: TilePlaces | None, out: Path, screen: Screen) -> None:
    """Note where the coordinates of an HDF5 file do not say where on one slide patches are from."""
    if places is None:
        screen.say("note: it is not known where on a slide patches are from: coords are made up")
    elif (count := len(set(places.slides))) > 1:
        screen.say(
            f"note: coords in {out} are of {count} slides, and other programs take a file for one",
            "give {out} a folder for a file per slide",
        )


def files_by_slide(places: TilePlaces) -> dict[str, str]:
    """The name of the file of each slide; HistoError where two would share it, or one has none."""
    found: dict[str, str] = {}
    for slide in dict.fromkeys(places.slides):
        name = Path(slide.replace("\\", "/")).name
        if not name or name.startswith("."):
            raise HistoError(f"slide {slide!r} cannot name a file: rename it in the table")
        if f"{name}.h5" in found.values():
            raise HistoError(f"two slides are called {name}: rename one in the table")
        found[slide] = f"{name}.h5"
    return found


def write(
    out: Path, table: FeatureTable, layout: Layout, files: Mapping[str, str], screen: Screen
) -> None:
    """Write one file, or one for each slide, of these names."""
    if out.suffix:
        write_table(out, table, layout)
    else:
        out.mkdir(parents=True, exist_ok=True)
        for slide, file in files.items():
            mine = table.of_slide(slide)
            if mine.ids:  # else none of its patches could be used
                write_table(out / file, mine, layout)
    count, width = table.features.shape
    screen.say(f"features: {out} ({counted(count, 'patch')}, {width:,} features each)")
