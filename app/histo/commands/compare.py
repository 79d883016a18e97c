"""`histo compare`: two predictions tables of the same patches, paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from histo.commands.tables import labels_by_id, positive_of, read_table
from histo.config import DataConfig
from histo.errors import HistoError
from histo.files.outputs import Output, check_outputs
from histo.files.writing import write_json
from histo.run.folder import RunFolder
from histo.run.positive import Positive
from histo.run.predictions import Predictions
from histo.screen import Progress, Screen, counted, screen_of, short

Value = float | None
"""A metric; None if it is undefined for the patches."""


@dataclass(frozen=True)
class Difference:
    """A metric of B minus that of A, and its paired 95 % interval."""

    value: Value
    interval: tuple[float, float] | None

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Comparison:
    """Metrics of A and of B by name, on the patches that both have, and their differences."""

    patches: int
    unit: str
    """what the bootstrap resamples"""
    units: int
    a: dict[str, Value]
    b: dict[str, Value]
    difference: dict[str, Difference]
    positive: str | None = None
    """the positive class of two"""

    def as_dict(self) -> dict[str, Any]:
        """The comparison as plain JSON values."""
        return {
            "patches": self.patches,
            "unit": self.unit,
            "units": self.units,
            "positive": self.positive,
            "A": self.a,
            "B": self.b,
            "difference": {
                name: {"value": d.value, "interval": d.interval and list(d.interval)}
                for name, d in self.difference.items()
            },
        }


def compare(
    first: str | Path,
    second: str | Path,
    *,
    labels: str | Path | None = None,
    id_column: str = DataConfig.id_column,
    label_column: str = DataConfig.label_column,
    groups: str | Path | None = None,
    out: str | Path | None = None,
    positive: str | None = None,
    force: bool = False,
    progress: Progress = False,
) -> Comparison:
    """Compare two run folders or predictions tables, A and B, on the patches that both have.

    `labels` is the label CSV of tables that `histo predict` wrote. `groups` is `CSV[:column]`, over which the bootstrap resamples; `out` gets the metrics as JSON;
    `positive` is the positive class of two, if neither run says; `force` writes `out` over a file
    that histo did not write.
    Raises HistoError if the tables have no common patch, or different classes.
    """
    screen, places = screen_of(progress), (Path(first), Path(second))
    written = Output(Path(out) if out else None, "out", lambda text: '"difference": {' in text)
    read = [*places, *(place / "predictions.csv" for place in places)]
    tables = [*read, Path(labels) if labels else None, table_of_groups(groups)]
    check_outputs([written], tables, force, dict.fromkeys(places, ()))
    label_of = labels_by_id(Path(labels), id_column, label_column) if labels else None
    one, two = (read_table(place, label_of) for place in places)
    a, b = pair(one, two, *places)
    known = common_positive(a.vocab, places, positive)
    unit, names = groups_for(str(groups) if groups else None, a.ids, places)
    result = difference_of(a, b, unit, names, screen, known)
    screen.say(f"A: {first}\nB: {second}")
    if known:
        screen.say(f"positive class: {known}", *known.ways)
    notes = (
        trained_note("A", places[0], places[1], a.ids),
        trained_note("B", places[1], places[0], a.ids),
    )
    for note in filter(None, notes):
        screen.say(f"note: {note}")
    left = len(one.ids) + len(two.ids) - 2 * len(a.ids)
    apart = f"; {left:,} in only one of them are left out" if left else ""
    screen.say(
        f"{counted(result.patches, 'patch')} in both{apart}. 95 % interval of the difference, paired, "
        f"bootstrap over {counted(result.units, unit)}"
    )
    screen.table(rows_of(result))
    if out:
        write_json(Path(out), result.as_dict())
    shown = result.difference["roc_auc"].shown
    words = "the AUCs differ" if shown else "no difference in AUC is shown"
    screen.say(words + (f" ({out})" if out else ""))
    return result


def trained_note(name: str, place: Path, other: Path, ids: Sequence[str]) -> str:
    """That a model was trained on what is compared, or that this is not known; empty if it was not."""
    if place.is_file():
        return f"whether the model of {name} was trained on these patches is not known"
    run = RunFolder.open(place)
    leak = run.split_of(run.settings()).leak
    if leak.of:
        return f"{name}: {leak}: its figures are too good"
    rows = run.read_split()
    trained = {row.get("sha1") or row["id"] for row in rows if row["split"] == "train"}
    known = {row["id"]: row.get("sha1") or row["id"] for row in rows}
    if other.is_dir():
        known |= {r["id"]: r.get("sha1") or r["id"] for r in RunFolder.open(other).read_split()}
    seen = sum(known.get(each, each) in trained for each in ids)
    if not seen:
        return ""
    return f"{name} was trained on {seen:,} of these patches, by their pixels: its figures are too good"


def common_positive(
    vocab: Sequence[str], places: tuple[Path, Path], given: str | None
) -> Positive | None:
    """The positive class of two, as given or as the runs say; HistoError where those differ."""
    one, two = (positive_of(place, vocab, given) for place in places)
    if one is None or two is None or one.name == two.name:
        return one if one is None or one.known else two
    certain = [each for each in (one, two) if each.source not in ("unknown", "before")]
    if len(certain) == 1:
        return certain[0]
    first, second = places
    raise HistoError(
        f"the positive class of {first} is {one.name!r}, that of {second} {two.name!r}",
        "give {positive}",
    )


def difference_of(
    a: Predictions,
    b: Predictions,
    unit: str,
    names: list[str] | None,
    screen: Screen,
    positive: Positive | None,
) -> Comparison:
    """Each metric of two tables of the same patches, and the interval of its difference."""
    from histo.report.intervals import ROUNDS, intervals
    from histo.report.weighted import Floats, Values, all_metrics

    index = positive.index if positive else 1
    each = [all_metrics(table.labels, table.probabilities, index) for table in (a, b)]

    def difference(weights: Floats) -> Values:
        mine, theirs = (metrics(weights) for metrics in each)
        return {name: theirs[name] - mine[name] for name in mine}

    n = len(a.ids)
    with screen.bar("resampling", ROUNDS) as advance:
        found = intervals(difference, n, names, advance=advance, difference=True)
    mine, theirs = ({k: defined(v) for k, v in metrics(np.ones(n)).items()} for metrics in each)
    seen = {k: defined(v) for k, v in difference(np.ones(n)).items()}
    apart = {name: Difference(seen[name], found[name]) for name in seen}
    name = positive.name if positive else None
    return Comparison(n, unit, len(set(names or a.ids)), mine, theirs, apart, name)


def defined(value: Any) -> Value:
    """A metric; None if it is undefined for the patches."""
    return None if np.isnan(value) else float(value)


def rows_of(result: Comparison) -> list[list[str]]:
    """Rows of each metric in A, in B, and its difference with the interval."""
    from histo.report.words import METRIC_NAMES, NONE, OF_CLASS, number

    of = f" of '{short(result.positive)}'" if result.positive else ""

    rows = [["metric", "A", "B", "B - A", "95 % interval", ""]]
    for key in (key for key in METRIC_NAMES if key in result.difference):
        found = result.difference[key]
        shown = NONE if found.value is None else f"{found.value:+.4f}"
        span = "{:+.4f} to {:+.4f}".format(*found.interval) if found.interval else NONE
        mine, theirs = number(result.a[key]), number(result.b[key])
        differs = "differs" if found.shown else ""
        name = METRIC_NAMES[key] + (of if key in OF_CLASS else "")
        rows.append([name, mine, theirs, shown, span, differs])
    return rows


def pair(
    one: Predictions, two: Predictions, first: Path, second: Path
) -> tuple[Predictions, Predictions]:
    """Both tables on the patches they share, rows and classes in the same order."""
    if set(one.vocab) != set(two.vocab):
        raise HistoError(
            f"{first} has the classes {', '.join(one.vocab[:8])}, "
            f"{second} {', '.join(two.vocab[:8])}: they cannot be compared"
        )
    place = {name: row for row, name in enumerate(two.ids)}
    rows = [row for row, name in enumerate(one.ids) if name in place]
    if not rows:
        raise HistoError(f"{first} and {second} have no patch in common")
    others = [place[one.ids[row]] for row in rows]
    classes = [two.vocab.index(name) for name in one.vocab]
    labels = np.array([classes.index(code) for code in two.labels[others]])
    for row, other in zip(rows, labels, strict=True):
        if one.labels[row] != other:
            raise HistoError(
                f"patch {one.ids[row]} is {one.vocab[one.labels[row]]} in {first}, "
                f"but {one.vocab[other]} in {second}"
            )
    ids = [one.ids[row] for row in rows]
    table = two.probabilities[others][:, classes]
    return (
        Predictions(ids, one.labels[rows], one.probabilities[rows], one.vocab),
        Predictions(ids, labels, table, one.vocab),
    )


def table_of_groups(given: str | Path | None) -> Path | None:
    """The CSV of groups that are given as `CSV[:column]`."""
    return Path(str(given).partition(":")[0]) if given else None


def groups_for(
    given: str | None, ids: list[str], places: tuple[Path, Path]
) -> tuple[str, list[str] | None]:
    """The name of the groups, and the group of each id: as given, or from either run."""
    if given:
        from histo.data.groups import groups_of

        return groups_of(given, ids)
    for place in places:
        if place.is_dir() and (groups := RunFolder.open(place).groups_of(ids)):
            return RunFolder.open(place).settings().get("group_column") or "group", groups
    return "patch", None
