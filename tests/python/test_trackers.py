"""`tracker=` and `--tracker`, by the files that the trackers themselves read back."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastai.callback.core import Callback

import histo
from histo.run.folder import RunFolder
from histo.training.trackers import OPEN
from tests.conftest import assert_one_line_error, run_histo
from tests.python.conftest import TINY

CURVES = {"train_loss", "valid_loss", "accuracy", "roc_auc", "seconds", "patches_per_second"}


class Cut(Callback):
    """Ctrl-C at the end of an epoch of the whole model."""

    def __init__(self, epoch: int) -> None:
        self.at = epoch

    def before_epoch(self) -> None:
        """fastai calls this."""
        if self.at == self.epoch and self.n_epoch > 1:
            raise KeyboardInterrupt


def cut_and_resumed(dataset: Path, out: Path, tracker: str) -> histo.Run:
    """A run that was cut after its second epoch of three, resumed and reported.

    tracker.json lacks the second, as if it had been killed between telling the tracker and writing.
    """
    with pytest.raises(KeyboardInterrupt):
        histo.train(dataset, out=out, tracker=tracker, callbacks=[Cut(1)], **TINY)
    assert len(RunFolder(out).read_history()) == 2
    known = json.loads((out / "tracker.json").read_text())
    assert known["epochs"] == 2
    (out / "tracker.json").write_text(json.dumps({**known, "epochs": 1}))
    run = histo.train(resume=out)
    run.interpret(tracker=tracker)
    return run


def kept(run: histo.Run) -> dict[str, float]:
    """The row of the history that the run kept."""
    rows = run.folder.read_history()
    return max(rows, key=lambda row: row["roc_auc"])


@pytest.mark.slow
def test_tensorboard_has_each_epoch_once_the_settings_and_the_report(dataset, tmp_path):
    """Also of a run that was killed and went on."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = cut_and_resumed(dataset, tmp_path / "run", "tensorboard")
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    history = run.folder.read_history()
    for name in CURVES:
        points = events.Scalars(name)
        assert [point.step for point in points] == [1, 2, 3]
        assert [p.value for p in points] == pytest.approx([row[name] for row in history], rel=1e-4)

    def last(name: str) -> float:
        return events.Scalars(name)[-1].value

    def text(name: str) -> str:
        return events.Tensors(f"{name}/text_summary")[-1].tensor_proto.string_val[0].decode()

    assert last("kept/roc_auc") == pytest.approx(kept(run)["roc_auc"], rel=1e-4)
    assert last("report/roc_auc") == pytest.approx(run.metrics.roc_auc, rel=1e-4)
    assert last("report/roc_auc_low") <= last("report/roc_auc") <= last("report/roc_auc_high")
    assert "| arch | squeezenet1_1 |" in text("settings")
    assert text("run_folder") == str(run.path)
    assert Path(text("report")) == run.path / "report" / "report.html"


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """MLflow with its files in a folder of the test."""
    found = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "patches")
    found.set_tracking_uri(None)
    return found


@pytest.mark.slow
def test_mlflow_has_each_epoch_once_the_settings_and_the_report(mlflow, dataset, tmp_path):
    """Also of a run that was killed and went on."""
    run = cut_and_resumed(dataset, tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("patches")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == json.loads((run.path / "tracker.json").read_text())["id"]
    assert found.info.status == "FINISHED"
    history = run.folder.read_history()
    for name in CURVES:
        points = client.get_metric_history(found.info.run_id, name)
        assert [point.step for point in points] == [1, 2, 3]
        assert [p.value for p in points] == pytest.approx([row[name] for row in history], rel=1e-4)
    assert found.data.params["arch"] == "squeezenet1_1"
    assert found.data.params["epochs"] == "2"
    assert found.data.metrics["kept/epoch"] == kept(run)["epoch"]
    assert found.data.metrics["report/roc_auc"] == pytest.approx(run.metrics.roc_auc)
    assert found.data.tags["run_folder"] == str(run.path)
    assert found.data.tags["report"] == str(run.path / "report" / "report.html")
    assert mlflow.active_run() is None


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of an offline file: LevelDB's log format after a header of seven bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of its parts
            yield whole
            whole = b""


def test_wandb_has_each_epoch_the_settings_and_the_report(dataset, tmp_path, monkeypatch):
    """wandb offline, its file read back."""
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    run = histo.train(dataset, out=tmp_path / "run", tracker="wandb", **TINY)
    run.interpret(tracker="wandb")
    assert wandb.run is None
    wandb.teardown()  # as at the end of a process: wandb's own may write on after a run is finished
    config, summary, steps = {}, {}, []
    for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")):
        for data in wandb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            config |= {item.key: item.value_json for item in record.run.config.update}
            config |= {item.key: item.value_json for item in record.config.update}
            for item in record.summary.update:
                summary[item.key or "/".join(item.nested_key)] = item.value_json
            named = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
            if "roc_auc" in named:
                steps.append((int(named["_step"]), float(named["roc_auc"])))
    history = run.folder.read_history()
    assert [step for step, _ in steps] == [1, 2, 3]
    assert [v for _, v in steps] == pytest.approx([r["roc_auc"] for r in history], rel=1e-4)
    assert config["arch"] == '"squeezenet1_1"'
    assert float(summary["report/roc_auc"]) == pytest.approx(run.metrics.roc_auc)
    assert json.loads(summary["report"]) == str(run.path / "report" / "report.html")


@pytest.mark.slow
def test_each_fold_is_a_run_of_its_own(dataset, tmp_path):
    short = {**TINY, "epochs": 1, "freeze_epochs": 0}
    run = histo.train(dataset, out=tmp_path / "run", folds=2, tracker="tensorboard", **short)
    folders = [p.parent for p in run.path.rglob("tracker.json")]
    assert sorted(folder.name for folder in folders) == ["fold-1", "fold-2"]
    assert all(list((folder / "tensorboard").glob("events.*")) for folder in folders)
    assert not (run.path / "tensorboard").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_figures_of_a_run_are_sent_nowhere_unasked(trained, tmp_path, monkeypatch, name):
    """A run may be a stranger's, with a tracker.json that names a tracker of this user's."""
    run = Path(shutil.copytree(trained.path, tmp_path / "run"))
    set_tracker(run, name, "theirs")
    opened: list[object] = []
    monkeypatch.setitem(OPEN, name, lambda *given: opened.append(given))
    result = run_histo("interpret", run)
    assert result.exit_code == 0
    assert f"not sent to the run's tracker (give --tracker {name})" in result.stdout
    assert opened == []
    assert not (run / "tensorboard").exists()


@pytest.mark.parametrize("tracker", [None, "5", '{"tracker": "mlflow", "id": 5, "epochs": 1}'])
def test_a_tracker_that_the_training_had_not_is_refused(trained, tmp_path, tracker):
    run = Path(shutil.copytree(trained.path, tmp_path / "run"))
    if tracker:
        (run / "tracker.json").write_text(tracker)
    result = run_histo("interpret", run, "--tracker", "tensorboard")
    assert_one_line_error(result, "damaged" if tracker else "not trained with the tracker tensorb")


@pytest.mark.slow
def test_events_stay_in_the_run_whatever_its_tracker_json_says(trained, tmp_path):
    run = Path(shutil.copytree(trained.path, tmp_path / "run"))
    set_tracker(run, "tensorboard", "../elsewhere")
    assert run_histo("interpret", run, "--tracker", "tensorboard").exit_code == 0
    assert list((run / "tensorboard").glob("events.*"))
    assert not (tmp_path / "elsewhere").exists()


def set_tracker(run: Path, name: str, known: str) -> None:
    """Let a run say that it was trained with a tracker."""
    (run / "tracker.json").write_text(json.dumps({"tracker": name, "id": known, "epochs": 1}))


def test_off_unless_asked_for(trained):
    assert not (trained.path / "tracker.json").exists()
    assert not (trained.path / "tensorboard").exists()


def test_a_tracker_that_is_not_installed_is_said_before_anything_is_read(tmp_path, monkeypatch):
    """With the way out; a folder that a tracker has left under its name is no package."""
    monkeypatch.chdir(tmp_path)
    Path("wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    missing = _without(monkeypatch, "wandb")
    result = run_histo("train", "no-such-folder", "--tracker", missing)
    assert_one_line_error(result, "wandb is not installed", "pip install 'histolearn[wandb]'")
    assert "leave --tracker out" in result.stderr


def _without(monkeypatch: Any, name: str) -> str:
    """Hide a package from the search for it, its folder in the working directory excepted."""
    import importlib.machinery
    import importlib.util

    spec = importlib.machinery.ModuleSpec(name, None)  # as Python finds a folder without a package
    real = importlib.util.find_spec
    hide = lambda wanted: spec if wanted == name else real(wanted)  # noqa: E731
    monkeypatch.setattr("histo.training.trackers.find_spec", hide)
    return name


@pytest.mark.slow
def test_a_tracker_that_fails_is_said_once_and_ends_nothing(
    dataset, tmp_path, monkeypatch, mlflow, capsys
):
    """A server that is not there; a folder in the place of the file that names the tracker's run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    short = {**TINY, "epochs": 1}
    run = histo.train(dataset, out=tmp_path / "a", tracker="mlflow", progress=True, **short)
    assert capsys.readouterr().out.count("note: the run continues without mlflow") == 1
    assert run.folder.finished

    class Block(Callback):
        """Breaks the tracking of an epoch in the middle of the run."""

        def after_train(self) -> None:
            path = tmp_path / "b" / "tracker.json"
            if path.is_file():
                path.unlink()
                path.mkdir()

    how = {"tracker": "tensorboard", "progress": True, "callbacks": [Block()], **short}
    run = histo.train(dataset, out=tmp_path / "b", **how)
    assert capsys.readouterr().out.count("note: the run continues without tensorboard") == 1
    assert run.folder.finished
