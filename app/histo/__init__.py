"""histo: from a folder of histology patches to an evaluated, portable classifier.

Each command is a function of the same name, imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from histo.errors import HistoError as HistoError

if TYPE_CHECKING:
    from histo.commands.check import check as check
    from histo.commands.compare import compare as compare
    from histo.commands.cut import cut as cut
    from histo.commands.demo import demo as demo
    from histo.commands.doctor import doctor as doctor
    from histo.commands.draw_patches import draw_patches as draw_patches
    from histo.commands.evaluate import evaluate as evaluate
    from histo.commands.export import export as export
    from histo.commands.features import features as features
    from histo.commands.import_pcam import import_pcam as import_pcam
    from histo.commands.interpret import interpret as interpret
    from histo.commands.load import load as load
    from histo.commands.map import map as map
    from histo.commands.merge import merge as merge
    from histo.commands.predict import predict as predict
    from histo.commands.review import review as review
    from histo.commands.runs import Run as Run
    from histo.commands.serve import serve as serve
    from histo.commands.train import train as train

__version__ = "0.2.0"

_HOME = {
    "Run": "runs",
    "check": "check",
    "compare": "compare",
    "cut": "cut",
    "demo": "demo",
    "doctor": "doctor",
    "draw_patches": "draw_patches",
    "evaluate": "evaluate",
    "export": "export",
    "features": "features",
    "import_pcam": "import_pcam",
    "interpret": "interpret",
    "load": "load",
    "map": "map",
    "merge": "merge",
    "predict": "predict",
    "review": "review",
    "serve": "serve",
    "train": "train",
}
"""The module of histo.commands that holds each name."""


def __getattr__(name: str) -> Any:
    """A command's function, or Run, on first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'histo' has no attribute {name!r}")
    return getattr(import_module(f"histo.commands.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
