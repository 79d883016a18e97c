"""A figure without pyplot, and its saving: no global state of matplotlib is changed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter

from histo.files.writing import written
from histo.text import visible

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito's palette (2008), which colour-blind readers can tell apart."""
STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "figure.constrained_layout.use": True,
    "savefig.dpi": 150,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "histo",
}


def new_figure(width: float = 5.6, height: float = 5.0, **kwargs: Any) -> tuple[Figure, Any]:
    """A figure (inches) and its axes, `kwargs` as those of `Figure.subplots`.

    Without pyplot, which would choose a backend for the whole process and keep the figure.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        return figure, figure.subplots(**kwargs)


def new_sheet(width: float, height: float, rows: int, columns: int) -> tuple[Figure, Any]:
    """Places for patches, [rows, columns], without axes: ticks, unseen, would take half the time."""
    figure, axes = new_figure(width, height, nrows=rows, ncols=columns, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.axis("off")
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    """Write PATH.png and PATH.svg, each whole or not at all; a `$` in a name is that, not mathematics."""
    with matplotlib.rc_context(STYLE):
        take_literally(figure)
        for kind, metadata in (("png", None), ("svg", {"Date": None})):
            whole = written(path.with_name(f"{path.name}.{kind}"))
            with whole as file, warnings.catch_warnings():  # what the font lacks is drawn as a box
                warnings.filterwarnings("ignore", "Glyph .* missing from font")
                figure.savefig(file, format=kind, metadata=metadata)
            figure.set_layout_engine("none")  # a second layout would take as long as the first


def take_literally(figure: Figure) -> None:
    """Draw each text as it is written: class names may hold `$`, and characters that no one sees."""
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        if axis.get_scale() == "log":
            axis.set_major_formatter("{x:g}")  # matplotlib's own is mathematics: 10 to the power of
            axis.set_minor_formatter(NullFormatter())
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_usetex(False)  # which a matplotlibrc in the working folder may ask for
        text.set_text(visible(text.get_text()))
