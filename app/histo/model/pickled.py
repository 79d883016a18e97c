"""Predict with fastai's pickled learner, only if the user trusts the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fastai.learner import load_learner

from histo.errors import HistoError
from histo.model.device import resolve_device
from histo.model.predictor import Calls
from histo.run.calls import call


@dataclass(frozen=True)
class PickledLearner:
    """A loaded `learner.pkl`; fastai itself reads, resizes and normalises the files."""

    learn: Any
    vocab: list[str]
    engine_name: str

    @classmethod
    def open(cls, path: Path, device: str) -> PickledLearner:
        """Load a pickle, which runs any code in the file."""
        found = resolve_device(device)
        try:
            learn = load_learner(path, cpu=found.type == "cpu")
        except FileNotFoundError:
            raise HistoError(f"no file {path}") from None
        except Exception as error:  # a pickle can raise anything
            raise HistoError(f"{path} is not a fastai learner ({type(error).__name__})") from None
        vocab = [str(name) for name in learn.dls.vocab]
        return cls(learn, vocab, f"fastai, {found.type}")

    def predict(self, files: Sequence[Path]) -> Calls:
        """Probabilities as fastai gives them, and the class called: at 0.5, or the most probable."""
        with self.learn.no_bar():
            loader = self.learn.dls.test_dl(list(files), num_workers=0)
            probabilities, _ = self.learn.get_preds(dl=loader)
        found = np.asarray(probabilities, np.float64)
        return Calls(found, call(found))
