"""`histo interpret`: from a predictions table to a report, without torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histo.commands.tables import positive_of, read_table, say_unfinished
from histo.config import Tracker, Wanted, check_setting
from histo.errors import HistoError
from histo.run.folder import RunFolder
from histo.run.predictions import Predictions
from histo.screen import Progress, plural, screen_of
from histo.training.tracking import check_asked, track_report

if TYPE_CHECKING:
    from histo.report.results import Metrics
    from histo.report.subject import Scores, Subject
    from histo.run.gradcam import GradCam

TO_REPEAT = (
    *("data", "labels", "images", "split_column", "groups", "exclude", "valid_pct", "crop"),
    *("label_from", "group_from", "skip_bad", "positive", "mpp"),
    *(
        "corrections",
        "size",
        "id_column",
        "label_column",
        "allow_leak",
        "folds",
        "compile",
        "augment",
        "probe",
        "views",
        "arch",
        "weights",
        "epochs",
        "freeze_epochs",
        "lr",
        "batch_size",
    ),
    *("seed", "device", "precision"),
)
"""The settings that the report names, so that the run can be made again."""


@dataclass(frozen=True)
class Report:
    """A report that was written: its folder and what it found; a notebook shows its figures."""

    path: Path
    metrics: Metrics

    @property
    def page(self) -> Path:
        """The page to read or print."""
        return self.path / "report.html"

    @property
    def figures(self) -> list[Path]:
        """The figures that were drawn, as PNG files."""
        return sorted(self.path.glob("*.png"))

    def _repr_html_(self) -> str:
        from histo.report.notebook import report_html

        return report_html(self.path, self.metrics)


def interpret(
    run: str | Path,
    *,
    out: str | Path | None = None,
    images: str | Path | None = None,
    groups: str | Path | None = None,
    sensitivity: float | None = None,
    specificity: float | None = None,
    centre: int | None = None,
    positive: str | None = None,
    tracker: Tracker | None = None,
    progress: Progress = False,
) -> Report:
    """Write the report of a run folder, or of any predictions table, and return it.

    `out` is the report's folder, RUN/report or `report` beside a table by default; `images` is where the patches are, if they
    have moved; `groups` is `CSV[:column]`, the slide or patient of each patch; `sensitivity` or
    `specificity` (0 to 1) asks for the threshold that reaches it; `centre` is the side in px of the
    part of a patch that decides its label, 0 for none; `positive` is the positive class of two, where
    run or table do not say. Raises HistoError.
    """
    path, screen = Path(run), screen_of(progress)
    wanted = Wanted.of(sensitivity, specificity)
    check_setting("centre", centre)
    check_setting("tracker", tracker)
    folder = None if path.is_file() else RunFolder.open(path)
    check_asked(folder, tracker)
    cut = say_unfinished(folder, screen) if folder else ""
    table = read_table(path)
    known = positive_of(path, table.vocab, positive)

    from histo.report.report import check_report_folder, write_report
    from histo.report.subject import Subject
    from histo.report.terminal import say_report

    place = Path(out) if out else (folder.report if folder else path.with_name("report"))
    check_report_folder(place)
    subject = describe_run(folder, table) if folder else Subject(path.name)
    subject = replace(subject, positive=known, unfinished=cut)
    if groups:
        subject = with_groups(subject, table, str(groups))
    gradcam = gradcam_of(folder) if folder else None
    if centre and not gradcam:
        screen.say(f"note: a centre of {centre} px is not used: {path} has no Grad-CAM maps")
    if folder and gradcam:
        centre = choose_centre(centre, gradcam, folder.settings().get("size") is not None)
    metrics = write_report(
        place,
        table,
        subject,
        screen,
        wanted=wanted,
        read=patch_reader(folder, Path(images) if images else None),
        gradcam=gradcam,
        centre=centre or 0,
    )
    say_report(metrics, screen)
    report = Report(place, metrics)
    if folder:
        track_report(folder, tracker, metrics, report.page.resolve(), screen)
    screen.say(f"report: {report.page}")
    return report


def metrics_of(run: RunFolder) -> Metrics:
    """The metrics of a run, computed from its predictions; nothing is written."""
    from histo.report.compute import compute_metrics

    table = read_table(run.path)
    subject = describe_run(run, table)
    positive = positive_of(run.path, table.vocab, None)
    return compute_metrics(table, replace(subject, positive=positive))


def gradcam_of(run: RunFolder) -> GradCam | None:
    """The Grad-CAM maps of a run, or of its folds; None if it has none."""
    from histo.run.gradcam import concatenate, read_gradcam

    folds = run.settings().get("folds") or 0
    places = [run.path, *(run.fold(number) for number in range(folds))]
    found = [part for place in places if (part := read_gradcam(place))]
    return concatenate(found) if found else None


def choose_centre(given: int | None, gradcam: GradCam, resized: bool) -> int:
    """The given centre, or the default for such patches; 0 if there is none or maps are too coarse.

    In a map of 2x2 cells, the centre always covers a quarter of each cell.
    """
    from histo.report.gradcam import centre_of

    side, (rows, columns) = gradcam.side, gradcam.maps.shape[1:]
    if given and given > side:
        raise HistoError(f"a centre of {given} px is larger than the patches, {side}x{side} px")
    if min(rows, columns) > 2:
        return centre_of(side, resized) if given is None else given
    if given:
        raise HistoError(
            f"this model's Grad-CAM maps have {rows}x{columns} cells: too few to tell a centre from "
            "the rest",
            "leave {centre} out",
        )
    return 0


def scores_of(settings: Mapping[str, Any]) -> Scores:
    """Where a run's probabilities are from."""
    if "bundle" in settings:
        return "bundle"
    return "probe" if settings.get("probe") else "trained"


def describe_run(run: RunFolder, table: Predictions) -> Subject:
    """The subject of a report, from a run folder."""
    from histo.report.subject import Subject

    settings, environment = run.settings(), run.facts()
    versions = {f"{name} version": value for name, value in environment["versions"].items()}
    kept = {
        name: str(settings[name])
        for name in TO_REPEAT
        if str(settings.get(name)) not in ("None", "False")
    }
    curve = run.path / "learning_curve.svg"
    return Subject(
        f"{run.path.resolve().name}: {settings['arch']} on {Path(settings['data']).name}",
        split=run.split_of(settings),
        unit=settings.get("group_column") or "group",
        groups=run.groups_of(table.ids),
        threshold=settings.get("threshold", 0.5),
        wanted=Wanted.read(settings.get("wanted")),
        scores=scores_of(settings),
        temperature=settings.get("temperature") or 1.0,
        folds=run.folds_of(table.ids) if settings.get("folds") else None,
        facts=facts_of(run, settings, environment, len(table.ids)),
        settings=kept | versions,
        sides=sides_of(run.read_split(), settings.get("group_column") or "group"),
        again=again_of(environment),
        figures=[(curve, "Loss and validation metrics by epoch.")],
    )


def sides_of(rows: Sequence[dict[str, str]], unit: str) -> list[list[str]]:
    """Patches, groups and the share of each class on each side of the split, a row each."""
    classes = sorted({row["label"] for row in rows})
    known = all(row.get("group") for row in rows)
    table = [["side", "patches", *([plural(unit, 2)] if known else []), *classes]]
    for side in sorted({row["split"] for row in rows}):
        mine = [row for row in rows if row["split"] == side]
        labels = [row["label"] for row in mine]
        units = [f"{len({row['group'] for row in mine}):,}"] if known else []
        shares = [f"{100 * labels.count(name) / len(mine):.1f} %" for name in classes]
        table.append([side, f"{len(mine):,}", *units, *shares])
    return table


def again_of(environment: dict[str, Any]) -> dict[str, str]:
    """The command, the commit and the fingerprints of the data, as far as a run recorded them."""
    command, commit = environment.get("command"), environment.get("git_commit")
    prints = environment.get("fingerprint") or {}
    said = {"command": shlex.join(map(str, command))} if command else {}
    said |= {"commit": str(commit)} if commit else {}
    return said | {f"fingerprint of {part}": str(value) for part, value in prints.items()}


def facts_of(
    run: RunFolder, settings: dict[str, Any], environment: dict[str, Any], count: int
) -> dict[str, str]:
    """The model, the patches it was trained and evaluated on, and when."""
    sides = [row["split"] for row in run.read_split()]
    data = Path(settings["data"]).name
    if "bundle" in settings:
        facts = {
            "model": f"the bundle {settings['bundle']}, {settings['arch']}",
            "evaluated on": f"{count:,} patches of {data}",
        }
    else:
        facts = {
            "model": f"{settings['arch']}, starting weights: {Path(settings['weights']).name}",
            "trained on": f"{sides.count('train'):,} patches of {data}",
            "evaluated on": f"{count:,} validation patches, which also selected the best epoch",
        }
        if settings.get("folds"):
            facts["trained on"] = f"{len(sides):,} patches of {data}, in {settings['folds']} folds"
            facts["evaluated on"] = (
                "the same patches, each by the model not trained on it, whose epoch it helped select"
            )
    facts["when and where"] = f"{environment['started'][:10]}, on {environment['device']}"
    return facts


def with_groups(subject: Subject, table: Predictions, given: str) -> Subject:
    """The subject with the groups that `CSV[:column]` names."""
    from histo.data.groups import groups_of

    unit, groups = groups_of(given, table.ids)
    return replace(subject, unit=unit, groups=groups)


def patch_reader(
    run: RunFolder | None, images: Path | None
) -> Callable[[Sequence[str]], list[Any]] | None:
    """A function that reads patches by id; None if their folder is unknown."""
    settings = run.settings() if run else {}
    folder = images or (Path(settings["images"]) if settings.get("images") else None)
    if folder is None:
        return None

    def read(ids: Sequence[str]) -> list[Any]:
        from histo.data.decode import pixel_sha1, read_patch
        from histo.data.patch_files import PatchIndex
        from histo.pixels.fit import Fit

        index, fit = PatchIndex(folder), Fit(settings.get("crop"), settings.get("size"))
        known = None if run is None or images else sha1_of(run)
        patches = []
        for name in ids:
            found = index.find(name)
            if found is None:
                raise HistoError(f"no patch {name} in {folder}")
            pixels = read_patch(found)
            if known is not None and pixel_sha1(pixels) != known.get(name):
                raise HistoError(
                    f"{found} is not the patch that {run.path if run else ''} was made from",
                    "give {images}",
                )
            patches.append(fit(pixels, found))
        return patches

    return read


def sha1_of(run: RunFolder) -> dict[str, str]:
    """The SHA-1 of the pixels of each patch of a run.

    Who sends a run can write any folder into it: pictures are shown of those patches alone whose
    pixels the sender knew.
    """
    return {row["id"]: row.get("sha1", "") for row in run.read_split()}
