"""histo export: the card, the weights and fastai's learner."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from histo.model import bundle
from histo.run.predictions import PROBABILITY, read_predictions
from tests.conftest import rows_of, run_histo


def test_the_card_says_what_is_needed_to_use_the_model(tiny_run):
    card = json.loads((tiny_run / "export" / "model.json").read_text())
    assert card["format"] == 2
    assert card["arch"] == "squeezenet1_1"
    assert card["vocab"] == ["0", "1"]
    assert (card["patch_size"], card["channel_order"]) == (48, "RGB")
    assert card["metrics"]["roc_auc"] <= 1
    assert set(card["files"]) == {
        *["model.safetensors", "model.onnx", "learner.pkl", "trained.npy", "trained_near.npy"]
    }
    assert card["onnx"] == {"opset": 18, "input": "patches", "output": "probabilities"}
    assert len(card["fingerprint"]["labels"]) == 64


@pytest.mark.slow
def test_weights_and_learner_predict_what_the_run_did(tiny_run, dataset, tmp_path):
    """To 1e-5: raw what the run did, and the learner, where histo cannot be imported, what predict does."""
    table = read_predictions(tiny_run / "predictions.csv")
    (tmp_path / "valid.csv").write_text("\n".join(["id", *table.ids]) + "\n")
    out = tmp_path / "p.csv"
    words = [tiny_run / "export", tmp_path / "valid.csv", "--images", dataset / "train"]
    assert run_histo("predict", *words, "--out", out, "--raw").exit_code == 0
    ours = np.array([[float(r["p_0"]), float(r["p_1"])] for r in rows_of(out)])
    assert np.abs(ours - table.probabilities).max() < 1e-5
    assert run_histo("predict", *words, "--out", out).exit_code == 0
    ours = np.array([[float(r["p_0"]), float(r["p_1"])] for r in rows_of(out)])
    assert np.abs(ours - table.probabilities).max() > 1e-3  # there is a temperature

    code = """
import json, sys
sys.modules["histo"] = None
from fastai.learner import load_learner
learn = load_learner(sys.argv[1])
with learn.no_bar():
    print(json.dumps([learn.predict(path)[2].tolist() for path in sys.argv[2:]]))
"""
    files = [str(dataset / "train" / f"{name}.tif") for name in table.ids[:6]]
    command = [sys.executable, "-W", "ignore", "-c", code, str(tiny_run / "export" / "learner.pkl")]
    done = subprocess.run(
        [*command, *files], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    theirs = np.array(json.loads(done.stdout.splitlines()[-1]))
    assert np.abs(theirs - ours[:6]).max() < 1e-5


def test_the_learner_holds_neither_histo_nor_a_path_of_the_data(tiny_run, dataset):
    data = (tiny_run / "export" / "learner.pkl").read_bytes()
    data = data.replace(sys.prefix.encode(), b"")  # fastai's own files may lie in a folder "histo"
    assert b"histo" not in data
    assert str(dataset).encode() not in data
    assert str(tiny_run).encode() not in data
    assert f"{tempfile.gettempdir()}/tmp".encode() not in data  # where the blank patch lay


@pytest.mark.slow
def test_without_fingerprint_nothing_tells_what_it_was_trained_on(tiny_run, dataset, tmp_path):
    """No hash of a patch, nor of all of them; evaluate says that overlap cannot be found."""
    out = tmp_path / "bundle"
    words = ("export", tiny_run, "--out", out, "--no-fingerprint", "--no-pickle")
    assert run_histo(*words).exit_code == 0
    card = json.loads((out / "model.json").read_text())
    assert "fingerprint" not in card
    assert (
        set(card["files"])
        == {"model.safetensors", "model.onnx"}
        == {p.name for p in out.iterdir() if p.name != "model.json"}
    )
    result = run_histo("evaluate", out, dataset, "--out", tmp_path / "e", "--device", "cpu")
    assert "does not say what it was trained on" in result.stdout


def test_a_model_too_large_for_one_onnx_file_is_exported_without_it(
    tiny_run, dataset, tmp_path, monkeypatch
):
    """As the largest foundation models are; its weights predict, by torch on a CPU too."""
    monkeypatch.setattr(bundle, "ONNX_BYTES", 1000)
    out = tmp_path / "bundle"
    result = run_histo("export", tiny_run, "--out", out, "--no-pickle")
    assert result.exit_code == 0, result.output
    assert "no model.onnx: squeezenet1_1 is too large or cannot be converted" in result.stdout
    assert not (out / "model.onnx").exists()
    for place, folder in (("a.csv", out), ("b.csv", tiny_run / "export")):
        words = ("predict", folder, dataset / "test", "--device", "cpu", "--out", tmp_path / place)
        assert run_histo(*words, "--precision", "fp32").exit_code == 0
    mine, theirs = (
        [float(row[f"{PROBABILITY}1"]) for row in rows_of(tmp_path / name)]
        for name in ("a.csv", "b.csv")
    )
    assert np.abs(np.subtract(mine, theirs)).max() < 1e-5
