"""`run.learner` and `callbacks=`: what a user of fastai does with them."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from fastai.callback.core import Callback
from fastai.callback.progress import CSVLogger, ShowGraphCallback
from fastai.callback.tensorboard import TensorBoardCallback
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Recorder

import histo
from histo.run.folder import RunFolder
from tests.conftest import rows_of
from tests.python.conftest import TINY


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """In a folder of its own, as fastai's callbacks write into the working directory; no window."""
    monkeypatch.chdir(tmp_path)
    backend = plt.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(backend)


@pytest.fixture(params=["just trained", "of an earlier run"])
def learn(request, trained):
    """The learner of a run that was trained in this process, and of one that was not."""
    return (trained if request.param == "just trained" else histo.Run(trained.path)).learner


def images_of(figure: plt.Figure) -> list[np.ndarray]:
    """The pictures that a figure holds."""
    return [image.get_array() for axes in figure.axes for image in axes.get_images()]


def test_show_batch_and_show_results_draw_the_patches_with_their_labels(learn):
    learn.dls.show_batch(max_n=9)
    drawn = images_of(plt.gcf())
    assert len(drawn) == 9
    assert all(image.shape == (48, 48, 3) and image.std() > 0.02 for image in drawn)
    assert {axes.get_title() for axes in plt.gcf().axes} == {"0", "1"}
    with learn.no_bar():
        learn.show_results(max_n=4)
    titles = [axes.get_title().split("\n") for axes in plt.gcf().axes]
    assert len(titles) == 4
    assert all(set(pair) <= {"0", "1"} for pair in titles)


def test_get_preds_are_the_table_of_the_run(learn, trained):
    with learn.no_bar():
        probabilities, labels = learn.get_preds()
    table = trained.predictions
    assert probabilities.numpy() == pytest.approx(table[["p_0", "p_1"]].to_numpy(), abs=1e-5)
    assert [learn.dls.vocab[i] for i in labels.tolist()] == table["label"].tolist()


def test_files_are_predicted_as_the_bundle_predicts_them(learn, bundle, dataset):
    """`dls.test_dl` takes paths, as `Path` or `str`; `predict` takes one."""
    files = sorted((dataset / "test").iterdir())[:5]
    expected = histo.load(bundle).predict(files, raw=True)[["p_0", "p_1"]].to_numpy()
    with learn.no_bar():
        for paths in (files, [str(file) for file in files]):
            found, _ = learn.get_preds(dl=learn.dls.test_dl(paths))
            assert found.numpy() == pytest.approx(expected, abs=1e-4)
        name, code, one = learn.predict(str(files[0]))
    assert one.numpy() == pytest.approx(expected[0], abs=1e-4)
    assert name == learn.dls.vocab[int(code)] == "01"[int(expected[0].argmax())]


def test_interpretation(learn, trained):
    """fastai's ClassificationInterpretation: confusion matrix, most confused, top losses."""
    with learn.no_bar():
        found = ClassificationInterpretation.from_learner(learn)
        matrix = found.confusion_matrix()
        assert matrix.tolist() == [list(row) for row in trained.metrics.confusion_matrix]
        found.plot_confusion_matrix()
        confused = found.most_confused()
        assert sum(count for *_, count in confused) == matrix.sum() - matrix.trace()
        losses, rows = found.top_losses(3)
        found.plot_top_losses(3)
    assert len(images_of(plt.gcf())) == 3
    table = trained.predictions
    own = -np.log([row[f"p_{row.label}"] for _, row in table.iterrows()])
    assert losses.numpy() == pytest.approx(np.sort(own)[::-1][:3], rel=1e-4)
    assert own[rows.numpy()] == pytest.approx(losses.numpy(), rel=1e-4)


def test_fit_and_fine_tune_go_on_from_it(trained, capsys):
    """With fastai's own log, in which histo's metrics have a column."""
    learn = histo.Run(trained.path).learner
    before = [p.clone() for p in learn.model.parameters()]
    learn.fit(1, 1e-4)
    learn.fine_tune(1, 1e-4)
    assert any((p != old).any() for p, old in zip(learn.model.parameters(), before, strict=True))
    train_loss, valid_loss, accuracy, auc = learn.recorder.values[-1]
    assert 0 < train_loss < 3
    with learn.no_bar():
        assert list(learn.validate()) == pytest.approx([valid_loss, accuracy, auc], rel=1e-5)
    out = capsys.readouterr().out
    assert out.count("roc_auc") == 3  # the header of one fit, and of fine_tune's two


class Stock(Recorder):
    """fastai's own Recorder, beside histo's."""

    name = "stock"


@pytest.mark.slow
def test_the_recorder_holds_what_fastais_own_holds(dataset):
    """Losses, rates and the loss of validation, batch by batch; the plots; also with callbacks."""
    stock, shown = Stock(), ShowGraphCallback()
    tracked = TensorBoardCallback("events")  # by default it also traces the model
    saved = SaveModelCallback(monitor="roc_auc", fname="best")
    callbacks = [stock, CSVLogger("log.csv", append=True), tracked, saved, shown]
    run = histo.train(dataset, out="run", callbacks=callbacks, **TINY)
    own, history = run.learner.recorder, run.folder.read_history()
    assert [float(loss) for loss in own.losses] == [float(loss) for loss in stock.losses]
    assert own.lrs == stock.lrs
    assert own.iters == stock.iters == [8, 16]
    names = ["train_loss", "valid_loss", "accuracy", "roc_auc"]
    assert list(own.metric_names) == ["epoch", *names, "time"]
    assert [list(row) for row in own.values] == [[r[n] for n in names] for r in _rows(history[1:])]
    assert [row[1] for row in own.values] == pytest.approx([row[1] for row in stock.values])
    assert len(own.log) == len(own.metric_names)
    own.plot_loss(skip_start=0)
    assert [len(line.get_xdata()) for line in plt.gca().lines] == [16, 2]
    own.plot_sched()
    logged = [
        line for line in rows_of(Path("log.csv")) if line["roc_auc"] and line["epoch"] != "epoch"
    ]
    assert [float(line["roc_auc"]) for line in logged] == pytest.approx(
        [row["roc_auc"] for row in history], abs=1e-5
    )
    assert Path("models/best.pth").is_file()
    assert list(Path("events").iterdir())


def _rows(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Rows of history.csv, which has six digits, that compare as such."""
    return [
        {name: pytest.approx(value, rel=1e-5) for name, value in row.items()} for row in history
    ]


@pytest.mark.slow
def test_early_stopping_ends_a_run_that_is_then_finished(dataset):
    stop = EarlyStoppingCallback(monitor="roc_auc", min_delta=2, patience=1)
    run = histo.train(dataset, out="run", callbacks=[stop], **{**TINY, "epochs": 9})
    assert len(run.history) == 3
    assert run.folder.finished
    assert (run.path / "predictions.csv").is_file()


class Cut(Callback):
    """Ctrl-C before the last epoch."""

    def before_epoch(self) -> None:
        """fastai calls this."""
        if self.epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_callbacks_of_a_resumed_run_see_the_epochs_before(dataset):
    """fastai skips those epochs, and its callbacks look at the figures of each."""
    longer = {**TINY, "epochs": 3}
    with pytest.raises(KeyboardInterrupt):
        histo.train(dataset, out="run", callbacks=[Cut()], **longer)
    watch = EarlyStoppingCallback(monitor="valid_loss", patience=9)
    run = histo.train(resume="run", callbacks=[watch, CSVLogger("log.csv")])
    own = run.learner.recorder
    history = RunFolder(run.path).read_history()
    assert len(own.values) == 3
    assert [row[1] for row in own.values] == pytest.approx(
        [row["valid_loss"] for row in history[1:]], rel=1e-5
    )
    assert own.iters == [0, 0, 8]
    assert len(own.losses) == len(own.lrs) == 8
    assert watch.best == pytest.approx(min(row["valid_loss"] for row in history[1:]), rel=1e-5)
    own.plot_loss(skip_start=1)
