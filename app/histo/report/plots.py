"""The curves and plots of a report and of a training, each written as PATH.png and PATH.svg."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from sklearn import metrics as sk

from histo.report.bands import GRID, Band
from histo.report.calibration import Reliability
from histo.report.canvas import COLOURS, new_figure, new_sheet, save
from histo.report.metrics import Labels, Probabilities, macro_auc, scorable_classes
from histo.screen import short
from histo.text import shortened, visible

Place = tuple[float, float]
"""x and y of a point on a curve."""
MOST = 2 * len(COLOURS)
"""Classes in a plot of lines: each colour solid and dashed."""


def _name(name: str, most: int = 30) -> str:
    """A class name that fits into a legend: its start and its end."""
    return shortened(visible(name), most)


def _line(n: int) -> dict[str, Any]:
    """Colour and dashes of the nth line."""
    return {"color": COLOURS[n % len(COLOURS)], "linestyle": ("-", "--")[n // len(COLOURS)]}


def _size(vocab: Sequence[str]) -> tuple[float, float]:
    """Width and height in inches: the legend of many classes stands below the axes."""
    return (6.4, 5.2 + 0.24 * min(len(vocab), MOST)) if len(vocab) > 2 else (5.6, 5.0)


def _legend(ax: Any, vocab: Sequence[str], where: str) -> None:
    """The legend inside the axes for two classes, below them for more."""
    if len(vocab) == 2:
        ax.legend(loc=where, edgecolor="none", framealpha=0.8)
    else:
        ax.figure.legend(loc="outside lower center", frameon=False, fontsize=10)


def _band_and_point(ax: Any, band: Band | None, at: Place | None) -> None:
    """The bootstrap band of a curve, and its operating point."""
    if band:
        label = "95 % of resamples"
        ax.fill_between(GRID, band.low, band.high, color=COLOURS[0], alpha=0.2, lw=0, label=label)
    if at:
        style = {"marker": "o", "markersize": 8, "markeredgecolor": "white", "linestyle": "none"}
        ax.plot(*at, color=COLOURS[1], label="at the threshold", clip_on=False, **style)


def draw_roc(
    path: Path,
    labels: Labels,
    probabilities: Probabilities,
    vocab: Sequence[str],
    positive: int = 1,
    band: Band | None = None,
    at: Place | None = None,
) -> None:
    """The ROC curve of the positive class, or one-vs-rest curves and their macro AUC.

    `at` is the operating point, (1 - specificity, sensitivity).
    """
    figure, ax = new_figure(*_size(vocab))
    ax.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="chance")
    for n, c in enumerate(scorable_classes(labels, len(vocab), positive)[:MOST]):
        fpr, tpr, _ = sk.roc_curve(labels == c, probabilities[:, c])
        value = sk.roc_auc_score(labels == c, probabilities[:, c])
        ax.plot(fpr, tpr, linewidth=2, label=f"{_name(vocab[c])}, AUC {value:.3f}", **_line(n))
    _band_and_point(ax, band, at)
    title = "" if len(vocab) == 2 else f", macro AUC {macro_auc(labels, probabilities):.3f}"
    of = f" of '{short(vocab[positive])}'" if len(vocab) == 2 else ""
    ax.set(
        xlabel="1 - specificity (false positive rate)",
        ylabel=f"sensitivity{of} (true positive rate)",
        title=f"ROC curve, {len(labels):,} patches{title}",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
        aspect="equal",
    )
    _legend(ax, vocab, "lower right")
    save(figure, path)


def draw_precision_recall(
    path: Path,
    labels: Labels,
    probabilities: Probabilities,
    vocab: Sequence[str],
    positive: int = 1,
    band: Band | None = None,
    at: Place | None = None,
) -> None:
    """Precision against recall; a dotted line at the share of positives, the precision of chance.

    `at` is the operating point, (recall, precision).
    """
    figure, ax = new_figure(*_size(vocab))
    for n, c in enumerate(scorable_classes(labels, len(vocab), positive)[:MOST]):
        precision, recall, _ = sk.precision_recall_curve(labels == c, probabilities[:, c])
        value = sk.average_precision_score(labels == c, probabilities[:, c])
        name = f"{_name(vocab[c])}, average precision {value:.3f}"
        ax.plot(recall, precision, linewidth=2, label=name, **_line(n))
        share, colour = float((labels == c).mean()), _line(n)["color"]
        ax.axhline(share, color=colour, linestyle=":", linewidth=1)
    _band_and_point(ax, band, at)
    of = f" of '{short(vocab[positive])}'" if len(vocab) == 2 else ""
    ax.set(
        xlabel=f"recall{of} (sensitivity)",
        ylabel=f"precision{of}",
        title=f"Precision and recall, {len(labels):,} patches",
        xlim=(-0.01, 1.01),
        ylim=(0, 1.02),
    )
    _legend(ax, vocab, "lower left")
    save(figure, path)


def draw_confusion_matrix(
    path: Path, matrix: Sequence[Sequence[int]], vocab: Sequence[str], at: str = ""
) -> None:
    """Counts and, below each, per cent of the true class; `at` ends the title."""
    counts = np.array(matrix)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    n = len(vocab)
    side = max(5.2, 0.8 * n + 3)
    figure, ax = new_figure(side + 0.8, side)
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if n <= 12:
        for i in range(n):
            for j in range(n):
                colour = "white" if share[i, j] > 0.55 else "black"
                text = f"{counts[i, j]:,}\n{100 * share[i, j]:.1f} %"
                ax.text(j, i, text, ha="center", va="center", color=colour)
    names = [_name(name, 18 if n <= 3 else 28) for name in vocab]
    ax.set_xticks(range(n), names, rotation=0 if n <= 3 else 60, ha="center" if n <= 3 else "right")
    ax.set_yticks(range(n), names)
    ax.set(xlabel="predicted class", ylabel="true class", title=f"Confusion matrix{at}")
    ax.title.set_fontsize(11)
    ax.spines[:].set_visible(False)
    figure.colorbar(image, ax=ax, label="share of the true class", shrink=0.8)
    save(figure, path)


def draw_scores(
    path: Path,
    labels: Labels,
    probabilities: Probabilities,
    vocab: Sequence[str],
    threshold: float = 0.5,
    positive: int = 1,
) -> None:
    """Histograms of the predicted probability, by true class."""
    if len(vocab) > 2:
        draw_scores_of_many(path, labels, probabilities, vocab)
        return
    figure, ax = new_figure(6.4, 4.4)
    for n, (c, hatch) in enumerate(((1 - positive, ""), (positive, "///"))):
        ax.hist(
            probabilities[labels == c, positive],
            bins=np.linspace(0, 1, 41).tolist(),
            alpha=0.65,
            color=COLOURS[n],
            hatch=hatch,
            edgecolor="white",
            label=f"true class {short(vocab[c])} ({int((labels == c).sum()):,})",
        )
    ax.axvline(threshold, color="0.3", linestyle=":", label=f"threshold {threshold:.3g}")
    ax.set(xlabel=f"probability of '{short(vocab[positive])}'")
    ax.set(ylabel="patches", title="Scores by class", xlim=(0, 1))
    rows = len(ax.get_legend_handles_labels()[0])
    ax.set_ylim(top=ax.get_ylim()[1] / (1 - 0.07 * rows))  # room for the legend above the bars
    _legend(ax, vocab, "upper center")
    save(figure, path)


def draw_scores_of_many(
    path: Path, labels: Labels, probabilities: Probabilities, vocab: Sequence[str]
) -> None:
    """The probability of the true class, a row a class: median, quartiles, 5 to 95 %.

    Histograms of many classes would lie over each other.
    """
    there = [c for c in range(len(vocab)) if (labels == c).any()][:MOST]
    figure, ax = new_figure(6.4, max(2.4, 1.2 + 0.36 * len(there)))
    for row, c in enumerate(there):
        low, first, median, third, high = np.quantile(
            probabilities[labels == c, c], (0.05, 0.25, 0.5, 0.75, 0.95)
        )
        ax.plot((low, high), (row, row), color="0.55", linewidth=1.2)
        ax.plot((first, third), (row, row), color=COLOURS[0], linewidth=7, solid_capstyle="butt")
        ax.plot(median, row, "o", color="white", markeredgecolor=COLOURS[0], markersize=6)
    counts = [f"{_name(vocab[c])} ({int((labels == c).sum()):,})" for c in there]
    ax.set_yticks(range(len(there)), counts, fontsize=9)
    ax.invert_yaxis()
    ax.set(xlabel="probability of the true class", title="Scores by class", xlim=(0, 1))
    save(figure, path)


def draw_reliability(path: Path, found: Sequence[tuple[str, Reliability]], of: str = "") -> None:
    """Reliability diagram: observed frequency against predicted probability, a line for each name.

    `of` is the class that the probabilities are of; nothing for that of the class called.
    """
    of = f" of '{short(of)}'" if of else ""
    figure, ax = new_figure()
    ax.plot([0, 1], [0, 1], color="0.6", linestyle=":", label="perfect calibration")
    for n, (name, bins) in enumerate(found):
        ax.plot(
            bins.confidence,
            bins.accuracy,
            marker="os"[n % 2],
            linestyle=("-", "--")[n % 2],
            linewidth=2,
            label=f"{name}, error {bins.error:.3f}",
        )
    ax.set(
        xlabel=f"predicted probability{of} (mean of a bin)",
        ylabel=f"observed frequency{of}",
        title="Reliability",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
        aspect="equal",
    )
    ax.legend(loc="lower right", frameon=False)  # below the diagonal, where few points are
    save(figure, path)


def draw_selective(path: Path, points: Sequence[tuple[float, float]]) -> None:
    """Accuracy against coverage: the share of patches answered, the most confident first."""
    figure, ax = new_figure(6.4, 4.4)
    shares, accuracies = zip(*points, strict=True)
    ax.plot(shares, accuracies, linewidth=2)
    ax.set(
        xlabel="share of patches answered, the most confident first",
        ylabel="accuracy on them",
        title="Selective prediction",
        xlim=(0, 1.01),
    )
    save(figure, path)


def draw_sheet(
    path: Path, patches: Sequence[Any], captions: Sequence[str], title: str, first: int = 0
) -> None:
    """A sheet of patches, three in a row, a caption below each; uint8 [S, S, 3] each.

    The patches after the `first` start on a new row.
    """
    places = [n if n < first else n - first + -(-first // 3) * 3 for n in range(len(patches))]
    rows = max([0, *places]) // 3 + 1
    figure, axes = new_sheet(7.2, 2.9 * rows + 0.5, rows, 3)
    for place, patch, caption in zip(places, patches, captions, strict=True):
        ax = axes.flat[place]
        ax.imshow(patch, interpolation="nearest")
        ax.set_title(caption, fontsize=8, y=-0.02, va="top", pad=0)
    figure.suptitle(title)
    save(figure, path)


def draw_learning_curve(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """Training and validation loss, and AUC and accuracy, by epoch."""
    figure, (left, right) = new_figure(9.0, 4.0, ncols=2)
    epochs = [row["epoch"] for row in rows]
    for ax, keys, label in (
        (left, ("train_loss", "valid_loss"), "loss (nats)"),
        (right, ("roc_auc", "accuracy"), "validation"),
    ):
        for n, key in enumerate(keys):
            name = {"roc_auc": "AUC"}.get(key, key.replace("_", " "))
            style = {"marker": "os"[n], "linestyle": ("-", "--")[n], "linewidth": 2}
            ax.plot(epochs, [row[key] for row in rows], label=name, **style)
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(frameon=False)
    figure.suptitle("Learning curve")
    save(figure, path)


def draw_lr_find(path: Path, rates: Sequence[float], losses: Sequence[float], lr: float) -> None:
    """The learning rate finder's losses against its rates, and the rate it suggests."""
    figure, ax = new_figure(6.4, 4.2)
    ax.plot(rates, losses, linewidth=2)
    ax.axvline(lr, color=COLOURS[1], linestyle="--", label=f"suggested: {lr:.2g}")
    ax.set(xscale="log", xlabel="learning rate", ylabel="loss (smoothed)")
    ax.set_title("Learning rate finder")
    ax.legend(frameon=False)
    save(figure, path)
