"""The report of a predictions table: metrics.json, by_group.csv, the figures, report.html; no torch."""

from __future__ import annotations

from pathlib import Path

from histo.config import Wanted
from histo.files.writing import write_json
from histo.report.compute import compute_metrics
from histo.report.document import write_html
from histo.report.figures import Inputs, draw_figures
from histo.report.groups import write_groups
from histo.report.intervals import ROUNDS
from histo.report.results import Metrics
from histo.report.sheets import Reader, gradcam_sheet, mistakes_sheet
from histo.report.subject import Subject
from histo.run.gradcam import GradCam
from histo.run.predictions import Predictions
from histo.screen import Screen


def write_report(
    folder: Path,
    table: Predictions,
    subject: Subject,
    screen: Screen,
    *,
    wanted: Wanted | None = None,
    read: Reader | None = None,
    gradcam: GradCam | None = None,
    centre: int = 0,
) -> Metrics:
    """Write the whole report of a table into `folder`, in place of an earlier one; returns its metrics.

    `wanted` asks for the threshold that reaches a sensitivity or specificity; `read` gives the
    patches for the sheets; `centre` is the side in px of the part of a patch that decides its label,
    0 where none is known. What it found is not said: `histo.report.terminal.say_report` does that.
    """
    with screen.bar("resampling", ROUNDS) as advance:
        metrics = compute_metrics(
            table, subject, wanted=wanted, gradcam=gradcam, centre=centre, advance=advance
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", metrics.as_dict())
    write_groups(folder / "by_group.csv", metrics.groups, metrics.unit)
    threshold = metrics.point.threshold if metrics.point else 0.5
    mistakes = mistakes_sheet(
        table, threshold, metrics.positive_index, read, screen, subject.groups
    )
    maps = gradcam_sheet(table, gradcam, centre, read, screen, subject.groups) if gradcam else None
    drawn = draw_figures(folder, Inputs(table, metrics, mistakes, maps, subject.groups), screen)
    write_html(folder, subject, metrics, drawn)
    return metrics
