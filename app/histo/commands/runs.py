"""The result of `histo.train` and `histo.evaluate`: a run, its tables, metrics and learner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from histo.errors import HistoError
from histo.run.folder import RunFolder
from histo.screen import Screen

if TYPE_CHECKING:
    import pandas as pd
    from fastai.learner import Learner

    from histo.commands.interpret import Report
    from histo.commands.review import Review
    from histo.report.results import Metrics


class Run:
    """A run folder: `Run("runs/resnet50-1")`, or what `train` and `evaluate` return.

    Raises HistoError if the path is not a run folder.
    """

    def __init__(self, path: str | Path, learner: Learner | None = None) -> None:
        self.folder = RunFolder.open(Path(path))
        self._learner = learner

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting of config.json, by name."""
        return self.folder.settings()

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: losses, accuracy, AUC, seconds, patches a second."""
        import pandas as pd

        if not self.folder.history.is_file():
            raise HistoError(f"{self.path} has no history: no epoch of it ended")
        return pd.read_csv(self.folder.history)

    @property
    def predictions(self) -> pd.DataFrame:
        """One row per evaluated patch: id, label, p_CLASS…."""
        import pandas as pd

        if not self.folder.predictions.is_file():
            raise HistoError(f"{self.path} has no predictions: no epoch of it ended")
        texts = {"id": str, "label": str}
        return pd.read_csv(self.folder.predictions, dtype=texts, keep_default_na=False)

    @property
    def metrics(self) -> Metrics:
        """The metrics of the report: `run.metrics.roc_auc`, its intervals, the operating points."""
        from histo.commands.interpret import metrics_of

        return metrics_of(self.folder)

    @property
    def learner(self) -> Learner:
        """fastai's learner with the best weights; for an earlier run it is rebuilt from its data."""
        if self._learner is None:
            from histo.training.again import load_learner

            self._learner = load_learner(self.folder, Screen(quiet=True))
        return self._learner

    def interpret(self, **settings: Any) -> Report:
        """`histo.interpret` of this run."""
        from histo.commands.interpret import interpret

        return interpret(self.path, **settings)

    def review(self, **settings: Any) -> Review:
        """`histo.review` of this run."""
        from histo.commands.review import review

        return review(self.path, **settings)

    def export(self, **settings: Any) -> Path:
        """`histo.export` of this run."""
        from histo.commands.export import export

        return export(self.path, **settings)

    def __fspath__(self) -> str:
        """Its folder, so that functions that take a path also take the run."""
        return str(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """HTML for a notebook: the path, and the last rows of the history."""
        from html import escape

        head = f"<p><b>{escape(str(self.path))}</b></p>"
        if not self.folder.history.is_file():
            return head
        return head + str(self.history.tail(20).to_html(index=False, float_format="{:.4f}".format))
