"""The best epoch's weights, kept whole on disk at every moment."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from histo.errors import HistoError
from histo.model.learner import state_on_cpu
from histo.run import written

BEST = "best.safetensors"


def save_best(folder: Path, model: nn.Module) -> None:
    """Write the weights beside the last best, then take its place."""
    folder.mkdir(exist_ok=True)
    with written(folder / BEST) as file:
        file.write(save(state_on_cpu(model)))


def load_best(folder: Path, model: nn.Module) -> None:
    """Load the best epoch's weights into a model of the same shape."""
    try:
        model.load_state_dict(load_file(folder / BEST))
    except FileNotFoundError:
        raise HistoError(f"{folder.parent} has no checkpoint: no epoch of it ended") from None
    except (SafetensorError, RuntimeError, OSError):
        raise HistoError(f"{folder / BEST} is damaged or of another model") from None
