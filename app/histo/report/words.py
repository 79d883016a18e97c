"""The sentences and the rows of tables of a report, for terminal and page alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from histo.report.intervals import ROUNDS, Interval, Intervals
from histo.report.metrics import Value
from histo.report.results import Metrics
from histo.run.calls import apply_temperature
from histo.run.split import Split
from histo.screen import counted, plural, short

METRIC_NAMES = {
    "roc_auc": "AUC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f1": "F1",
    "log_loss": "log loss",
    "brier": "Brier score",
}
THRESHOLD_FREE = ("roc_auc", "average_precision", "log_loss", "brier")
MANY = ("roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1", "log_loss", "brier")
"""The metrics of more than two classes."""
AT_POINT = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1")
OF_CLASS = ("roc_auc", "average_precision", "sensitivity", "specificity", "f1")
NONE = "–"
"""Stands for a metric that is not defined."""


# ---------------------------------------------------------------- numbers


def number(value: Value, digits: int = 4) -> str:
    """A value with so many decimals, a dash where it is not defined."""
    return NONE if value is None else f"{value:.{digits}f}"


def between(ends: Interval, digits: int = 4) -> str:
    """An interval as words, nothing where there is none."""
    return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}" if ends else ""


def percent(value: float) -> str:
    """A share in per cent."""
    return f"{100 * value:.1f} %"


def of_hundred(rate: float) -> str:
    """A share as a count out of a hundred."""
    return f"{100 * rate:.0f} of 100"


# ---------------------------------------------------------------- sentences


def split_line(split: Split) -> tuple[str, bool]:
    """What the split means for the metrics, the leak first; and whether that is a warning."""
    line, warning = _kind_line(split)
    if not split.leak:
        return line, warning
    leak = f"The split leaks: {split.leak}. These metrics are too optimistic to be trusted."
    return (leak if split.kind in ("unseen", "unknown") else f"{leak} {line}"), True


def _kind_line(split: Split) -> tuple[str, bool]:
    """The sentence for a kind of split, and whether it is a warning."""
    folds = f", in {split.folds} folds" if split.folds else ""
    if split.kind == "random":
        where = "in several folds" if folds else "on both sides"
        return (
            f"The split is random over patches{folds}: patches of one slide are {where}, so these "
            "metrics are optimistic for new slides. Only a split by slide or patient shows how good "
            "the model is on new ones.",
            True,
        )
    if split.kind == "grouped":
        group = split.column or "group"
        none = f"none of {split.groups:,}" if split.groups else f"no {group}"
        where = "in two folds" if folds else "on both sides"
        return f"The split is by {group}{folds}: {none} is {where}.", False
    if split.kind == "column":
        return f"The split is given by the column {split.column} of the labels{folds}.", False
    if split.kind == "folders":
        return f"The split is given by the folders train and valid{folds}.", False
    if split.kind == "unseen":
        return unseen_line(split), False
    return "How these patches were kept apart from those trained on is not known.", True


def unseen_line(split: Split) -> str:
    """What was found to be new in patches that a bundle is judged on, and what was not compared."""
    found, missing = (
        [
            "none of these patches is among those the model was trained or chosen on, by their pixels"
        ],
        [],
    )
    if split.near_of:
        few = f" (compared with {split.near_of:,} of them)" if split.near_of < split.trained else ""
        found.append(f"none nearly equals one of those{few}")
    else:
        missing.append("near-duplicates")
    if split.groups:
        found.append(f"no {split.column or 'group'} has the name of one of the training")
    else:
        missing.append("slides or patients")
    line = f"The patches are new to the model: {', and '.join(found)}."
    return f"{line} Not compared: {' and '.join(missing)}." if missing else line


def positive_line(metrics: Metrics) -> str:
    """Which class sensitivity and the like are about, and how that is known; nothing for many."""
    return f"Positive class: {metrics.positive_class}" if metrics.positive_class else ""


def of_positive(metrics: Metrics) -> str:
    """The class that a figure is about: ` of 'tumour'`; nothing for many."""
    return f" of '{short(metrics.positive)}'" if metrics.positive else ""


def summary(metrics: Metrics) -> str:
    """The report in a sentence or two: metrics as a person would say them."""
    said = []
    if metrics.roc_auc is not None:
        interval = between(metrics.intervals.get("roc_auc"), 3)
        auc = f"AUC{of_positive(metrics)} {metrics.roc_auc:.3f}"
        said.append(auc + (f" ({interval})" if interval else ""))
    point, name = metrics.point, metrics.positive
    if point is None:
        said.append(f"{of_hundred(metrics.accuracy)} patches are called correctly")
        return f"{'; '.join(said)}."
    rates = []
    if point.sensitivity is not None:
        rates.append(f"finds {of_hundred(point.sensitivity)} patches of class '{name}'")
    if point.specificity is not None:
        wrongly = of_hundred(1 - point.specificity)
        rates.append(f"wrongly calls {wrongly} other patches '{name}'")
    said.append(f"At threshold {point.threshold:.3g} the model {' and '.join(rates)}")
    return f"{'. '.join(said)}."


def absent_line(metrics: Metrics) -> str:
    """Which classes have no patch, and what is not defined for that; nothing where all have."""
    if not metrics.absent:
        return ""
    few = ", ".join(metrics.absent[:5])
    if metrics.roc_auc is not None:
        return f"No patch is of class {few}: means over classes leave it out."
    return (
        f"No patch is of class {few}: metrics that compare classes (AUC, average precision, "
        "their curves, a temperature) are not defined."
    )


FEW_GROUPS = 10
"""Fewer slides or patients than this give intervals that are too narrow."""


def unit_line(metrics: Metrics) -> str:
    """What the bootstrap draws: groups or patches."""
    line = f"Intervals: 95 %, bootstrap over {counted(metrics.units, metrics.unit)}"
    if metrics.unit == "patch":
        return f"{line}, too narrow where patches of a slide are alike"
    if metrics.units < FEW_GROUPS:
        return f"{line}: too few for reliable intervals, the truth may lie outside them"
    return line


FEW = 10
"""Groups below which a bootstrap over them is not to be relied on."""


def few_line(metrics: Metrics) -> str:
    """A warning where the intervals rest on few groups; nothing where there are enough."""
    if metrics.unit == "patch" or metrics.units >= FEW:
        return ""
    return (
        f"Only {counted(metrics.units, metrics.unit)}: the intervals are unreliable, most likely too "
        f"narrow. New ones may differ by more; evaluate on {FEW} or more."
    )


def threshold_line(metrics: Metrics) -> str:
    """The threshold of the matrix and the figures, and where it comes from; nothing for many."""
    point, name = metrics.point, next(iter(metrics.points), "")
    if point is None:
        return ""
    asked = f" for a {point.wanted.rate} of {point.wanted.value:g}" if point.wanted else ""
    where = point.chosen_on or "these patches"
    source = {
        "wanted": f"chosen{asked} on {where}",
        "bundle": f"the bundle's own{', chosen' + asked if asked else ''}",
        "0.5": "the default, not chosen on any patches",
        "youden": f"Youden's, chosen on {where}",
    }[name]
    return f"Threshold: {point.threshold:.4g} ({source})"


def methods_line(metrics: Metrics, version: str) -> str:
    """What a Methods section can say of this evaluation."""
    where = f"{counted(metrics.patches, 'patch')}"
    if metrics.unit != "patch":
        where += f" of {counted(metrics.units, metrics.unit)}"
    said = [f"The classifier was evaluated on {where} with histo {version}."]
    said.append(
        _kind_line(metrics.split)[0] if not metrics.split.leak else split_line(metrics.split)[0]
    )
    if metrics.point:
        said.append(
            f"Class '{metrics.positive}' was positive; sensitivity and specificity are at a threshold "
            f"of {metrics.point.threshold:.4g}."
        )
    elif metrics.roc_auc is not None:
        said.append(f"AUC is the mean of {len(metrics.vocab)} classes, each against the rest.")
    over = "patches" if metrics.unit == "patch" else plural(metrics.unit, 2)
    said.append(
        f"Intervals are 95 % bootstrap percentile intervals over {over} ({ROUNDS:,} resamples)."
    )
    if metrics.roc_auc is not None:
        ends = between(metrics.intervals.get("roc_auc"), 3)
        said.append(f"AUC was {metrics.roc_auc:.3f}{f' (95 % CI {ends})' if ends else ''}.")
    return " ".join(said)


def wanted_line(metrics: Metrics) -> str:
    """The threshold for the wanted rate, with its interval; nothing where none was wanted."""
    point = metrics.points.get("wanted")
    if point is None or point.wanted is None:
        return ""
    rate = f"{point.wanted.rate}{of_positive(metrics)}"
    text = f"For a {rate} of {point.wanted.value:g} the threshold is {point.threshold:.4f}"
    interval = between(point.intervals.get("threshold"))
    text = f"{text} ({interval})" if interval else text
    temperature = metrics.calibration.temperature
    if metrics.scores in ("trained", "probe") and temperature != 1:
        pair = np.array([[1 - point.threshold, point.threshold]])
        scaled = apply_temperature(pair, temperature)[0, 1]
        text += f", as trained; {scaled:.4f} with the temperature, as a bundle has it"
    return f"{text}."


def bundle_line(metrics: Metrics) -> str:
    """The rate that a bundle's threshold was chosen for, and what it is on these patches."""
    point = metrics.points.get("bundle")
    if point is None or point.wanted is None:
        return ""
    rate, asked = point.wanted.rate, point.wanted.value
    value = getattr(point, rate)
    if value is None:
        return f"asked for {rate}{of_positive(metrics)} {asked:.2f}, here it is not defined"
    ends = between(point.intervals.get(rate), 2)
    here = f"{value:.2f} ({ends})" if ends else f"{value:.2f}"
    return f"asked for {rate}{of_positive(metrics)} {asked:.2f}, here {here}"


def chosen_line(metrics: Metrics) -> str:
    """What was chosen on the patches that it is judged on; nothing where nothing was."""
    names = {"wanted": "the threshold asked for", "youden": "Youden's threshold"}
    here, across = (
        [names.get(n, n) for n, point in metrics.points.items() if point.chosen_on == where]
        for where in ("these patches", "the other folds")
    )
    said = []
    if metrics.scores == "trained":
        here = ["the epoch kept", *here]
    if here:
        chosen = _listed(here)
        way = "" if metrics.scores == "bundle" else " (histo evaluate judges on others)"
        said.append(f"Chosen on these patches, so a little too good for others: {chosen}{way}")
    if across:
        said.append(f"Rates at {_listed(across)} are cross-fitted: chosen on the other folds")
    return ". ".join(said)


def _listed(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def calibration_line(metrics: Metrics) -> str:
    """The temperature, and what it does to log loss, calibration error and Brier score."""
    found = metrics.calibration
    before, after = found.before, found.after
    own = f"log loss {before.log_loss:.4f}, calibration error {before.error:.4f}"
    source = {
        "trained": "as trained",
        "probe": "as trained",
        "table": "as in the table",
        "bundle": f"as the bundle gives them (temperature {metrics.temperature:.3f})",
    }[metrics.scores]
    if after is None:
        return f"Probabilities {source}: {own}; no scaling can be fitted to patches of one class"
    if found.temperature == 1:
        return f"Probabilities {source}: {own}; scaling would not lower the log loss of others"
    if metrics.scores == "bundle":
        start = f"Probabilities {source}: {own}. Scaled anew on these patches"
    else:
        start = f"Temperature {found.temperature:.3f}"
    return (
        f"{start}: on patches it was not fitted to, log loss "
        f"{before.log_loss:.4f} to {after.log_loss:.4f}, calibration error "
        f"{before.error:.4f} to {after.error:.4f}, Brier score "
        f"{before.brier:.4f} to {after.brier:.4f}"
    )


def gradcam_line(metrics: Metrics) -> str:
    """The share of Grad-CAM inside the centre, beside that of a uniform map; nothing if unknown."""
    found = metrics.gradcam
    if found is None:
        return ""
    shares = []
    for name, part in found.classes.items():
        ends = part.interval and (100 * part.interval[0], 100 * part.interval[1])
        interval = f"{between(ends, 1)}, " if ends else ""
        many = counted(part.patches, "patch")
        shares.append(f"{percent(part.share)} where '{name}' was called ({interval}{many})")
    side, patch = found.centre, found.patch
    return (
        f"Grad-CAM inside the centre {side}x{side} px: {'; '.join(shares)}. A uniform map would "
        f"have {percent(found.even)}, the centre's share of a patch of {patch}x{patch} px."
    )


def worst_line(metrics: Metrics) -> str:
    """The groups with the highest error rates, of those with ten patches or more."""
    named = [row for row in metrics.groups if row.patches >= 10 and row.errors][:3]
    shown = ", ".join(
        f"{row.group} ({row.errors:,} of {row.patches:,} patches wrong)" for row in named
    )
    return f"Worst {plural(metrics.unit, len(named))}: {shown}" if named else ""


# ---------------------------------------------------------------- rows


def headline(metrics: Metrics) -> list[list[str]]:
    """Rows of the metrics that need no threshold; of more than two classes all."""
    keys = THRESHOLD_FREE if metrics.points else MANY
    rows = [["metric", "value", "95 % interval"]]
    return rows + [
        [
            metric_name(key, metrics),
            number(getattr(metrics, key)),
            between(metrics.intervals.get(key)),
        ]
        for key in keys
    ]


def point_rows(metrics: Metrics) -> list[list[str]]:
    """Rows of the metrics at each threshold, a column and its interval for each."""
    names = [
        name if name == "0.5" else f"{point.threshold:.4f} ({name.replace('youden', 'Youden')})"
        for name, point in metrics.points.items()
    ]
    rows = [["at threshold"] + [text for name in names for text in (name, "95 % interval")]]
    parts = [(point, point.intervals) for point in metrics.points.values()]
    return rows + [[metric_name(key, metrics), *_cells(parts, [key])] for key in AT_POINT]


def metric_name(key: str, metrics: Metrics) -> str:
    """A metric by name, with the class that it is about: `sensitivity of 'tumour'`."""
    return METRIC_NAMES[key] + (of_positive(metrics) if key in OF_CLASS else "")


def many_line(metrics: Metrics) -> str:
    """How the figures of more than two classes are to be read, nothing for two."""
    if not metrics.classes:
        return ""
    means = "AUC, average precision, balanced accuracy and F1 are macro, one-vs-rest"
    return f"{len(metrics.vocab)} classes: {means}: the mean over the classes that have patches."


def short_class_rows(metrics: Metrics, most: int = 40) -> list[list[str]]:
    """One row a class without intervals, for a terminal; `most` classes."""
    rows = [["class, one-vs-rest", "AUC", "sensitivity", "specificity", "F1"]]
    keys = ("roc_auc", "sensitivity", "specificity", "f1")
    return rows + [
        [name, *(number(getattr(part, key), 3) for key in keys)]
        for name, part in list(metrics.classes.items())[:most]
    ]


def class_rows(metrics: Metrics) -> list[list[str]]:
    """One row a class, for more than two classes."""
    head = ["class", *(text for key in OF_CLASS for text in (METRIC_NAMES[key], "95 %"))]
    return [head] + [
        [name, *_cells([(part, part.intervals)], OF_CLASS)]
        for name, part in metrics.classes.items()
    ]


def _cells(parts: Sequence[tuple[Any, Intervals]], keys: Sequence[str]) -> list[str]:
    """Values, each followed by its interval."""
    return [
        text
        for part, ends in parts
        for key in keys
        for text in (number(getattr(part, key)), between(ends.get(key)))
    ]


def group_rows(metrics: Metrics) -> list[list[str]]:
    """One row a group, worst first."""
    groups, of = metrics.groups, of_positive(metrics)
    head = {"group": metrics.unit, "roc_auc": f"AUC{of}", "positives": f"patches{of}"}
    head |= {key: f"{key}{of}" for key in ("sensitivity", "specificity")}
    names = [head.get(key, key.replace("_", " ")) for key in groups[0].as_dict()]

    def shown(value: Any) -> str:
        return number(value, 3) if value is None or isinstance(value, float) else str(value)

    return [names] + [[shown(value) for value in row.as_dict().values()] for row in groups]
