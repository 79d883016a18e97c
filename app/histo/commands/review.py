"""`histo review`: the labels of a run that are probably wrong, to be looked at and corrected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histo.commands.interpret import patch_reader
from histo.commands.tables import read_table, say_unfinished
from histo.config import check_setting
from histo.data.corrections import CORRECTED
from histo.errors import HistoError
from histo.report.label_errors import find_label_errors
from histo.report.review_page import PAGE, SHOWN, TABLE, Suspects, open_folder, write_review
from histo.run.folder import RunFolder
from histo.run.predictions import Predictions
from histo.screen import Progress, Screen, counted, screen_of

if TYPE_CHECKING:
    import pandas as pd

PAIRS = 10
"""Pairs of classes that the terminal lists; the page has all."""


@dataclass(frozen=True)
class Review:
    """A review that was written: its folder, the page, and the suspects as a table."""

    path: Path

    @property
    def page(self) -> Path:
        """The page of the patches."""
        return self.path / PAGE

    @property
    def suspects(self) -> pd.DataFrame:
        """One row a suspect, the most suspicious first: id, label, suggested, why, p_CLASS…."""
        import pandas as pd

        texts = dict.fromkeys(("id", "label", "suggested", "why", "corrected", "group"), str)
        return pd.read_csv(self.path / TABLE, dtype=texts, keep_default_na=False)

    def _repr_html_(self) -> str:
        """What a notebook shows: the twenty most suspicious."""
        return str(self.suspects.head(20).to_html(index=False))


def review(
    run: str | Path,
    *,
    out: str | Path | None = None,
    images: str | Path | None = None,
    most: int | None = None,
    progress: Progress = False,
) -> Review:
    """Find the labels of a run that are probably wrong, by confident learning.

    Of a run with folds every patch is judged, by a model that was not trained on it; of another
    only those that validated. Writes suspects.csv and review.html into `out`, RUN/review by
    default; `images` is where the patches are, if they have moved; `most` is how many suspects to
    keep. To correct labels fill the column `corrected`, and give the file to `histo.train` as
    `corrections`. Raises HistoError.
    """
    screen = screen_of(progress)
    check_setting("most", most)
    folder = RunFolder.open(Path(run))
    say_unfinished(folder, screen)
    table = read_table(folder.path)
    note = what_is_judged(folder, table, screen)

    place = Path(out) if out else folder.path / "review"
    open_folder(place)
    suspects = find_suspects(folder, table, most)
    pictures = read_pictures(
        suspects, patch_reader(folder, Path(images) if images else None), screen
    )
    title = f"Label review of {folder.path.resolve().name}"
    page = write_review(place, title, note, suspects, pictures)
    say_suspects(suspects, screen)
    if len(suspects):
        screen.say(f"suspects: {place / TABLE}")
    screen.say(f"page: {page}")
    if len(suspects):
        what = f"fill the column {CORRECTED}, then train again with --corrections {place / TABLE}"
        screen.say(f"next: {what}")
    return Review(place)


def what_is_judged(run: RunFolder, table: Predictions, screen: Screen) -> str:
    """Which patches are judged and by what, for the page; on the screen where they are not all."""
    settings, judged = run.settings(), counted(len(table.ids), "patch")
    if settings.get("folds"):
        return f"{judged}, each judged by the model of a fold that was not trained on it."
    if "bundle" in settings:
        return f"{judged}, judged by a bundle. Labels that it was trained on cannot be reviewed so."
    rest = f"only the {judged} that validated, of {len(run.read_split()):,}, can be reviewed"
    screen.say(f"note: {rest} (to review all: train with --folds 5)")
    return f"{rest[0].upper()}{rest[1:]}: the model knows the labels of the others."


def find_suspects(run: RunFolder, table: Predictions, most: int | None) -> Suspects:
    """The suspected label errors of a run, `most` of them at most."""
    errors = find_label_errors(table.labels, table.probabilities)
    first = {name: getattr(errors, name)[:most] for name in ("rows", "suggested", "margins")}
    unit = str(run.settings().get("group_column") or "group")
    return Suspects(
        table, replace(errors, **first), run.groups_of(table.ids), unit, len(errors.rows)
    )


def read_pictures(
    suspects: Suspects, read: Callable[[Sequence[str]], list[Any]] | None, screen: Screen
) -> list[bytes]:
    """The first suspects as JPEGs; none, and a note, where the patches are not found."""
    ids = suspects.ids[:SHOWN]
    if read is None:
        screen.say("no patches on the page: where they are is not known", "give {images}")
        return []
    from histo.data.decode import thumbnail_jpeg

    try:
        return [thumbnail_jpeg(patch) for patch in read(ids)]
    except HistoError as error:
        screen.say(f"no patches on the page: {error.message}", "give {images}")
        return []


def say_suspects(suspects: Suspects, screen: Screen) -> None:
    """How many labels are suspected, by pair of classes."""
    screen.say(suspects.line)
    pairs = suspects.pairs()
    for label, other, count in pairs[:PAIRS]:
        screen.say(f"  {count:,} labelled {label} seem {other}")
    if len(pairs) > PAIRS:
        screen.say(
            f"  … and {sum(n for *_, n in pairs[PAIRS:]):,} of {len(pairs) - PAIRS:,} more pairs"
        )
