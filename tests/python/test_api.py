"""The functions of `histo`: those of the commands, with the same figures, quiet."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import histo
from histo.config import CheckConfig, TrainConfig
from tests.commands.test_doctor import broken  # noqa: F401  (a fixture)
from tests.conftest import rows_of, run_histo
from tests.python.conftest import TINY

FUNCTIONS = (
    *("check", "compare", "demo", "doctor", "draw_patches", "evaluate", "export", "import_pcam"),
    *("interpret", "load", "merge", "predict", "train"),
)
WORDS = ("--arch", "squeezenet1_1", "--weights", "none", "--freeze-epochs", 1, "--epochs", 2)
WORDS = (*WORDS, "--no-store", "--batch-size", 16, "--device", "cpu")
"""TINY, as the command line has it."""


def in_process(code: str, *words: object, **kwargs: object) -> str:
    """What Python code prints in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_histo_loads_nothing_heavy():
    """So that it takes no second."""
    code = "import histo, sys; print([m for m in ('torch', 'numpy', 'pandas') if m in sys.modules])"
    assert in_process(code).strip() == "[]"


def test_all_functions_are_there_and_explained():
    for name in FUNCTIONS:
        assert name in dir(histo)
        assert getattr(histo, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        histo.trian  # noqa: B018


@pytest.mark.parametrize(("function", "config"), [("train", TrainConfig), ("check", CheckConfig)])
def test_help_shows_every_setting_with_its_default(function, config):
    """Those of the commands; a setting that there is not is Python's own TypeError."""
    shown = inspect.signature(getattr(histo, function)).parameters
    own = inspect.signature(config).parameters
    for name in own.keys() - {"data", "given"}:
        assert shown[name].default == own[name].default
        assert shown[name].kind is inspect.Parameter.KEYWORD_ONLY
    with pytest.raises(TypeError, match="epoch"):
        getattr(histo, function)("data", epoch=1)


@pytest.mark.slow
def test_train_is_the_command_and_says_nothing(trained, dataset, tmp_path, monkeypatch, capfd):
    """The same tables, byte for byte; a path may be text, and what is given is recorded as given."""
    result = run_histo("train", dataset, *WORDS, "--out", tmp_path / "cli")
    assert result.exit_code == 0
    capfd.readouterr()
    monkeypatch.chdir(dataset.parent)
    run = histo.train(dataset.name, out=str(tmp_path / "python"), seed=0, **TINY)
    assert capfd.readouterr() == ("", "")
    for name in ("predictions.csv", "split.csv"):
        assert (run.path / name).read_bytes() == (tmp_path / "cli" / name).read_bytes()
        assert (run.path / name).read_bytes() == (trained.path / name).read_bytes()
    config = json.loads((run.path / "config.json").read_text())
    assert config["seed"] == {"value": 0, "source": "given"}, "it equals the default"
    assert config["data"] == {"value": dataset.name, "source": "given"}
    assert config["valid_pct"]["source"] == "default"
    assert run.path == tmp_path / "python"


def test_a_run_has_tables_figures_and_a_picture_of_itself(trained):
    assert list(trained.history["epoch"]) == [1, 2, 3]
    assert list(trained.predictions.columns) == ["id", "label", "p_0", "p_1"]
    assert trained.metrics.roc_auc == pytest.approx(trained.history["roc_auc"].max(), abs=1e-5)
    assert trained.settings["arch"] == "squeezenet1_1"
    again = histo.Run(str(trained.path))
    assert again.predictions.equals(trained.predictions)
    html = trained._repr_html_()
    assert str(trained.path) in html
    assert "<td>3</td>" in html
    assert repr(trained) == f"Run('{trained.path}')"


@pytest.mark.slow
def test_interpret_is_the_command_and_says_nothing(trained, tmp_path, capfd):
    result = run_histo("interpret", trained.path, "--sensitivity", 0.9, "--out", tmp_path / "cli")
    assert result.exit_code == 0
    capfd.readouterr()
    report = trained.interpret(sensitivity=0.9, out=str(tmp_path / "python"))
    assert capfd.readouterr() == ("", "")
    written = (tmp_path / "python" / "metrics.json").read_text()
    assert written == (tmp_path / "cli" / "metrics.json").read_text()
    assert report.metrics.roc_auc == json.loads(written)["roc_auc"]
    assert report.page == tmp_path / "python" / "report.html"
    html = report._repr_html_()
    assert html.count("<img") == len(report.figures) > 3
    assert "src='data:image/png;base64," in html


def test_predict_is_the_command_and_says_nothing(bundle, dataset, tmp_path, capfd):
    """Also merged from two parts, and by a loaded model."""
    result = run_histo("predict", bundle, dataset / "test", "--out", tmp_path / "cli.csv")
    assert result.exit_code == 0
    for part in ("1/2", "2/2"):
        words = ("--shard", part, "--out", tmp_path / "parts.csv")
        assert run_histo("predict", bundle, dataset / "test", *words).exit_code == 0
    capfd.readouterr()
    out = tmp_path / "python.csv"
    table = histo.predict(str(bundle), str(dataset / "test"), out=str(out))
    parts = sorted(str(path) for path in tmp_path.glob("parts*.csv"))
    merged = histo.merge(parts)
    assert capfd.readouterr() == ("", "")
    assert merged == tmp_path / "parts.csv"
    assert out.read_bytes() == (tmp_path / "cli.csv").read_bytes() == merged.read_bytes()
    assert list(table.columns) == ["id", "predicted", "p_0", "p_1"]
    model = histo.load(bundle).predict(dataset / "test")
    numbers = [f"{value:.9g}" for value in model["p_1"]]
    assert numbers == [row["p_1"] for row in rows_of(out)]
    assert model["predicted"].tolist() == [row["predicted"] for row in rows_of(out)]


def test_load_predicts_files_folders_arrays_batches_and_lists_without_torch(bundle, dataset):
    """On a CPU; the probabilities of a patch are the same however it is handed over."""
    code = """
import sys, histo, numpy as np
from pathlib import Path
model = histo.load(sys.argv[1])
folder = Path(sys.argv[2])
files = sorted(folder.iterdir())[:3]
from histo.data.decode import read_patch
one, two, three = map(read_patch, files)
tables = [model.predict(what) for what in (
    files, [str(file) for file in files], [one, two, three], np.stack([one, two, three]),
    [files[0], np.stack([two, three])], folder)]
for table in tables[:-1]:
    assert np.allclose(table["p_1"], tables[0]["p_1"], atol=1e-6), table
assert model.predict(str(files[0]))["id"].tolist() == [files[0].stem]
assert model.predict(one)["p_1"][0] == model.predict(files[0])["p_1"][0]
assert len(tables[-1]) == 24
print(model.vocab, tables[4]["id"].tolist() == [files[0].stem, "1-0", "1-1"], "torch" in sys.modules)
"""
    assert in_process(code, bundle, dataset / "test") == "['0', '1'] True False"


def test_what_is_no_patch_is_named(bundle, tmp_path):
    model = histo.load(bundle)
    with pytest.raises(histo.HistoError, match=r"patch 1 is float64 \[48, 48, 3\], not uint8"):
        model.predict([np.zeros((48, 48, 3), np.uint8), np.zeros((48, 48, 3))])
    with pytest.raises(histo.HistoError, match="patch 0 is a NoneType"):
        model.predict([None])
    with pytest.raises(histo.HistoError, match="no image"):
        model.predict(tmp_path / "none.tif")


@pytest.mark.slow
def test_evaluate_and_compare_are_the_commands_and_say_nothing(bundle, dataset, tmp_path, capfd):
    test = {"labels": dataset / "test_labels.csv", "images": dataset / "test"}
    words = [word for name, path in test.items() for word in (f"--{name}", path)]
    result = run_histo("evaluate", bundle, dataset, *words, "--out", tmp_path / "cli")
    assert result.exit_code == 0
    capfd.readouterr()
    as_text = {name: str(path) for name, path in test.items()}
    run = histo.evaluate(str(bundle), str(dataset), out=str(tmp_path / "python"), **as_text)
    found = histo.compare(run, str(tmp_path / "cli"), out=str(tmp_path / "both.json"))
    assert capfd.readouterr() == ("", "")
    table = (run.path / "predictions.csv").read_bytes()
    assert table == (tmp_path / "cli" / "predictions.csv").read_bytes()
    assert run.metrics.patches == found.patches == 24
    assert found.difference["roc_auc"].value == 0
    assert json.loads((tmp_path / "both.json").read_text()) == found.as_dict()
    with pytest.raises(histo.HistoError, match="is an evaluation: it has no learner"):
        run.learner  # noqa: B018


def test_check_gives_what_it_found_and_says_nothing(dataset, tmp_path, capfd):
    found = histo.check(str(dataset), out=str(tmp_path / "check"))
    assert capfd.readouterr() == ("", "")
    assert found.ready
    assert found.page.is_file()
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "train_labels.csv").write_text("id,label\na,0\nb,1\n")
    found = histo.check(tmp_path / "data", out=tmp_path / "check2")
    assert not found.ready
    assert any(finding.count == 2 for finding in found.findings)


def test_draw_patches_makes_a_folder_to_train_on(tmp_path, capfd):
    data = histo.draw_patches(str(tmp_path / "data"), patches=8, test=4, side=48)
    assert capfd.readouterr() == ("", "")
    for name, count in (("train", 8), ("test", 4)):
        rows = rows_of(data / f"{name}_labels.csv")
        assert sum(row["label"] == "1" for row in rows) == count / 2
        assert {path.stem for path in (data / name).iterdir()} == {row["id"] for row in rows}
    with pytest.raises(histo.HistoError, match="is not empty"):
        histo.draw_patches(data)


def test_import_pcam_gives_the_folder_and_says_nothing(tmp_path, capfd):
    from tests.commands.test_import_pcam import write_pcam

    patches = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    write_pcam(tmp_path / "h5", "train", patches)
    data = histo.import_pcam(str(tmp_path / "h5"), str(tmp_path / "data"))
    assert capfd.readouterr() == ("", "")
    assert data == tmp_path / "data"
    assert len(rows_of(data / "train_labels.csv")) == 4


def test_doctor_gives_its_probes_and_says_nothing(broken, monkeypatch, capfd):  # noqa: F811
    """With packages that load at once in the place of the real ones, and no network."""
    monkeypatch.setenv("PYTHONPATH", str(broken))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    probes = histo.doctor()
    assert capfd.readouterr() == ("", "")
    assert any(probe.name == "torch" and not probe.fatal for probe in probes)


def test_progress_speaks(bundle, dataset, tmp_path, capsys):
    out = tmp_path / "table.csv"
    histo.predict(bundle, dataset / "test", out=out, progress=True)
    assert f"predictions: {out} (24 patches)" in capsys.readouterr().out


def test_errors_spell_settings_as_python_does(dataset, tmp_path):
    with pytest.raises(histo.HistoError, match=r"images="):
        histo.train(dataset, images=tmp_path / "none")
    with pytest.raises(histo.HistoError, match="give a folder of data, or a run to resume"):
        histo.train()
    with pytest.raises(histo.HistoError, match="is not a run folder"):
        histo.Run(tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs is 0: it must be at least 1"),
        ({"augment": "foo"}, "augment is 'foo': give one of none, d4, stain"),
        ({"valid_pct": 95}, "valid_pct is 95: it must be from 1 to 90"),
        ({"lr": "fast"}, "learning rate 'fast' is not a positive number"),
        ({"tracker": "excel"}, "tracker is 'excel': give one of tensorboard, mlflow, wandb"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_read(setting, message):
    with pytest.raises(histo.HistoError, match=message):
        histo.train("no-such-folder", **setting)


def test_a_config_takes_paths_as_text():
    config = TrainConfig("data", labels="a.csv")
    assert config.images_folder == Path("data", "train")
    assert config.labels_csv == Path("a.csv")


@pytest.mark.long
def test_global_state_is_left_as_it_was(dataset, tmp_path):
    """Importing every module, training and a report change neither variables, logging, backend, umask."""
    code = """
import json, logging, os, pkgutil, sys
from importlib import import_module
import fastai.vision.learner, matplotlib, sklearn.metrics  # they set variables of their own
import cv2 as _  # likewise
os.umask(0o027)
def state():
    return {"environ": dict(os.environ), "logging": logging.root.manager.disable,
            "backend": matplotlib.rcParams._get("backend"), "umask": os.umask(0o027),
            "handlers": len(logging.root.handlers)}
matplotlib.use("svg")
before = state()
import histo
for module in pkgutil.walk_packages(histo.__path__, "histo."):
    if module.name != "histo.__main__":
        import_module(module.name)
assert state() == before, "importing"
run = histo.train(sys.argv[1], out=sys.argv[2], **json.loads(sys.argv[3]))
assert state() == before, "training"
run.interpret()
assert state() == before, "interpreting"
mode = (run.path / "report" / "report.html").stat().st_mode
print(oct(mode & 0o777))
"""
    short = json.dumps({**TINY, "epochs": 1, "freeze_epochs": 0})
    assert in_process(code, dataset, tmp_path / "run", short) == "0o640"
