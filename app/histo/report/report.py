"""The report of a predictions table: metrics.json, by_group.csv, the figures, report.html; no torch."""

from __future__ import annotations

from pathlib import Path

from histo.config import Wanted
from histo.errors import HistoError
from histo.files.aside import is_occupied
from histo.files.writing import built, write_json
from histo.report.compute import compute_metrics
from histo.report.document import write_html
from histo.report.figures import FIGURES, FORMER, SUFFIXES, Inputs, draw_figures
from histo.report.groups import write_groups
from histo.report.intervals import ROUNDS
from histo.report.results import Metrics
from histo.report.sheets import Reader, gradcam_sheet, mistakes_sheet
from histo.report.subject import Subject
from histo.run.gradcam import GradCam
from histo.run.predictions import Predictions
from histo.screen import Screen

METRICS, BY_GROUP, PAGE = "metrics.json", "by_group.csv", "report.html"
NAMES = [METRICS, BY_GROUP, PAGE] + [
    f"{name}{suffix}" for name in (*(each.name for each in FIGURES), *FORMER) for suffix in SUFFIXES
]
"""Every file that a report, or one of an earlier histo, may have."""


def check_report_folder(folder: Path) -> None:
    """HistoError where a folder holds files that are not of a report.

    Its pictures would become patches of an images folder, and write over others of their names.
    """
    if folder.exists() and not folder.is_dir():
        raise HistoError(f"{folder} is not a folder", "give another {out}")
    if folder.is_dir() and is_occupied(folder) and not (folder / METRICS).is_file():
        raise HistoError(f"{folder} holds files that are not of a report", "give another {out}")


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
    cut = {"unfinished": subject.unfinished} if subject.unfinished else {}
    threshold = metrics.point.threshold if metrics.point else 0.5
    mistakes = mistakes_sheet(
        table, threshold, metrics.positive_index, read, screen, subject.groups
    )
    maps = gradcam_sheet(table, gradcam, centre, read, screen, subject.groups) if gradcam else None
    inputs = Inputs(table, metrics, mistakes, maps, subject.groups)
    with built(folder, first=METRICS, last=PAGE, earlier=NAMES) as made:
        write_json(made / METRICS, metrics.as_dict() | cut)
        write_groups(made / BY_GROUP, metrics.groups, metrics.unit)
        write_html(made, subject, metrics, draw_figures(made, inputs, screen))
    return metrics
