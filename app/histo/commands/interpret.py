"""`histo interpret`: from a predictions table to figures and metrics, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histo.config import Wanted
from histo.errors import HistoError
from histo.files.writing import read_json
from histo.run.folder import RunFolder
from histo.run.predictions import Predictions, read_predictions
from histo.run.split import Split
from histo.screen import Screen

if TYPE_CHECKING:
    from histo.report.results import Metrics
    from histo.report.subject import Subject
    from histo.run.gradcam import GradCam

REPEAT = (
    "data",
    "labels",
    "images",
    "split_column",
    "groups",
    "exclude",
    "valid_pct",
    "crop",
    "size",
    "augment",
    "arch",
    "weights",
    "epochs",
    "freeze_epochs",
    "lr",
    "batch_size",
    "seed",
    "device",
    "precision",
)
"""The settings that the report names, so that the run can be made again."""


def interpret(
    path: Path,
    out: Path | None,
    images: Path | None,
    screen: Screen,
    groups: str | None = None,
    wanted: Wanted | None = None,
    centre: int | None = None,
) -> tuple[Path, Metrics]:
    """Judge a run folder, or any predictions table; returns the report folder and the metrics.

    `centre` is the side in px of the part of a patch that labels speak of, 0 for none; found from
    the patches where it is None.
    """
    run = None if path.is_file() else RunFolder.open(path)
    if run is not None and not run.predictions.is_file():
        raise HistoError(f"{path} has no predictions: it stopped before its first epoch ended")
    table = read_predictions(run.predictions if run else path)

    from histo.report.report import write_report
    from histo.report.subject import Subject
    from histo.report.terminal import say_report

    subject = describe_run(run, table) if run else Subject(path.name)
    if groups:
        subject = with_groups(subject, table, groups)
    folder = out or (run.report if run else path.with_name("report"))
    read = patch_reader(run, images)
    gradcam = gradcam_of(run) if run else None
    if run and gradcam:
        centre = choose_centre(centre, gradcam, run.settings().get("size") is not None)
    metrics = write_report(
        folder,
        table,
        subject,
        screen,
        wanted=wanted,
        read=read,
        gradcam=gradcam,
        centre=centre or 0,
    )
    say_report(metrics, screen)
    return folder, metrics


def gradcam_of(run: RunFolder) -> GradCam | None:
    """Where the model of a run looked, or those of its folds; None where that was not kept."""
    from histo.run.gradcam import GRADCAM, concatenate, read_gradcam

    folds = run.settings().get("folds") or 0
    parts = [run.path, *(run.fold(number) for number in range(folds))]
    found = [part for path in parts if (part := read_gradcam(path / GRADCAM))]
    return concatenate(found) if found else None


def choose_centre(given: int | None, gradcam: GradCam, resized: bool) -> int:
    """The centre as given, else as such patches have it; 0 where nobody knows, or maps can't tell.

    A map of 2x2 cells has a quarter of each cell in the centre, whatever it shows.
    """
    from histo.report.gradcam import centre_of

    side, (rows, columns) = gradcam.side, gradcam.maps.shape[1:]
    if given and given > side:
        raise HistoError(f"--centre {given}: the patches are of {side}x{side} px")
    if min(rows, columns) > 2:
        return centre_of(side, resized) if given is None else given
    if given:
        raise HistoError(
            f"--centre {given}: this model's maps are of {rows}x{columns} cells, too few to tell "
            "a centre from the rest"
        )
    return 0


def describe_run(run: RunFolder, table: Predictions) -> Subject:
    """What a run folder says about its table."""
    from histo.report.subject import Subject

    settings, environment = run.settings(), read_json(run.environment)
    sides = [row["split"] for row in run.read_split()]
    data = Path(settings["data"]).name
    if "bundle" in settings:
        facts = {
            "model": f"the bundle {settings['bundle']}, {settings['arch']}",
            "judged on": f"{len(table.ids):,} patches of {data}",
        }
    else:
        facts = {
            "model": f"{settings['arch']}, starting weights: {Path(settings['weights']).name}",
            "trained on": f"{sides.count('train'):,} patches of {data}",
            "judged on": f"{len(table.ids):,} patches kept apart, which also chose the epoch kept",
        }
        if settings.get("folds"):
            facts["trained on"] = f"{len(sides):,} patches of {data}, in {settings['folds']} folds"
            facts["judged on"] = (
                "the same patches, each by the model not trained on it, whose epoch it helped choose"
            )
    facts["when and where"] = f"{environment['started'][:10]}, on {environment['device']}"
    versions = {f"{name} version": value for name, value in environment["versions"].items()}
    return Subject(
        f"{run.path.resolve().name}: {settings['arch']} on {data}",
        split=Split.read(settings.get("split"), settings.get("leak")),
        unit=settings.get("group_column") or "group",
        groups=run.groups_of(table.ids),
        threshold=settings.get("threshold", 0.5),
        facts=facts,
        settings={name: str(settings[name]) for name in REPEAT if settings.get(name) is not None}
        | versions,
        figures=[(run.path / "learning_curve.svg", "Loss and validation figures by epoch.")],
    )


def with_groups(subject: Subject, table: Predictions, given: str) -> Subject:
    """The subject with the groups that `CSV[:column]` names."""
    from dataclasses import replace

    from histo.data.groups import groups_of

    unit, groups = groups_of(given, table.ids)
    return replace(subject, unit=unit, groups=groups)


def patch_reader(
    run: RunFolder | None, images: Path | None
) -> Callable[[Sequence[str]], list[Any]] | None:
    """What reads the patches of a table by id; None where nobody knows where they are."""
    settings = run.settings() if run else {}
    folder = images or (Path(settings["images"]) if settings.get("images") else None)
    if folder is None:
        return None

    def read(ids: Sequence[str]) -> list[Any]:
        from histo.data.decode import read_patch
        from histo.data.patch_files import PatchIndex
        from histo.pixels.fit import fit_patch

        index, patches = PatchIndex(folder), []
        for name in ids:
            found = index.find(name)
            if found is None:
                raise HistoError(f"no patch {name} in {folder}")
            pixels = read_patch(found)
            patches.append(fit_patch(pixels, settings.get("crop"), settings.get("size"), found))
        return patches

    return read
