"""interpret, export, predict, check and demo, as a user calls them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from histo.data.patch_files import list_patches
from histo.data.store import open_store
from histo.run.predictions import read_predictions, write_predictions
from histo.screen import Screen
from tests.conftest import assert_one_line_error, edit_card, rows_of, run_histo, write_image


def test_interpret_draws_every_figure_twice_and_prints_the_table(tiny_run, tmp_path):
    result = run_histo("interpret", tiny_run, "--out", tmp_path / "report")
    for name in ("roc", "confusion_matrix", "precision_recall", "scores", "mistakes"):
        for suffix in ("png", "svg"):
            assert (tmp_path / "report" / f"{name}.{suffix}").stat().st_size > 1000
    for word in ("AUC", "sensitivity", "specificity", "F1", "log loss", "(Youden)"):
        assert word in result.stdout


def test_interpret_reads_a_table_of_any_other_system(tmp_path):
    table = tmp_path / "theirs.csv"
    values = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6]])
    write_predictions(table, list("abcd"), ["n", "t", "t", "n"], values, ["n", "t"])
    result = run_histo("interpret", table, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["roc_auc"] == 0.75
    assert metrics["at_0.5"]["confusion_matrix"] == [[1, 1], [1, 1]]
    assert "give --images" in result.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the columns must be"),
        ("id,label,p_0,p_1\n", "has no rows"),
        ("id,label,p_0,p_1\na,0,0.5\n", "row 1: 3 values"),
        ("id,label,p_0,p_1\na,2,0.5,0.5\n", "row 1: label '2' has no column"),
        ("id,label,p_0,p_1\na,0,x,0.5\n", "row 1: a probability is not a number"),
        ("id,label,p_0,p_1\na,0,nan,0.5\n", "row 1: the probabilities do not add up"),
    ],
)
def test_a_bad_predictions_table_is_one_line(tmp_path, text, said):
    (tmp_path / "p.csv").write_text(text)
    assert_one_line_error(run_histo("interpret", tmp_path / "p.csv"), said)


@pytest.mark.parametrize("verb", ["interpret", "export"])
def test_what_is_no_run_is_refused(tmp_path, verb):
    assert_one_line_error(run_histo(verb, tmp_path / "none"), "no run folder")
    (tmp_path / "other").mkdir()
    assert_one_line_error(run_histo(verb, tmp_path / "other"), "is not a run folder")


def test_what_is_not_there_is_one_line(tiny_run, dataset, tmp_path):
    bundle, out = tiny_run / "export", ("--out", tmp_path / "p.csv")
    test = dataset / "test"
    for words, said in (
        (("predict", bundle, tmp_path / "none", *out), "no image, folder or CSV"),
        (("predict", tmp_path / "none", test, *out), "no bundle"),
        (("export", tiny_run, "--out", tiny_run), "exists and is not empty"),
        (("merge", tmp_path), "holds no parts, such as"),
    ):
        assert_one_line_error(run_histo(*words), said)
    result = run_histo("predict", bundle / "learner.pkl", test, "--trust-pickle", "--tta", *out)
    assert result.exit_code == 1
    assert "error: --tta needs a bundle" in result.stderr
    (tmp_path / "config.json").write_text("{}")
    assert_one_line_error(run_histo("export", tmp_path), "has no model: no epoch of it ended")
    assert_one_line_error(run_histo("interpret", tmp_path), "has no predictions")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_card_says_what_is_needed_to_use_the_model(tiny_run):
    card = json.loads((tiny_run / "export" / "model.json").read_text())
    assert card["format"] == 1
    assert card["arch"] == "squeezenet1_1"
    assert card["vocab"] == ["0", "1"]
    assert (card["patch_size"], card["channel_order"]) == (48, "RGB")
    assert card["metrics"]["roc_auc"] <= 1
    assert set(card["files"]) == {
        *["model.safetensors", "model.onnx", "learner.pkl", "trained.npy"]
    }
    assert card["onnx"] == {"opset": 18, "input": "patches", "output": "probabilities"}
    assert len(card["fingerprint"]["labels"]) == 64


def test_weights_and_learner_predict_what_the_run_did(tiny_run, dataset, tmp_path):
    """To 1e-5, the learner in a process where histo cannot be imported."""
    table = read_predictions(tiny_run / "predictions.csv")
    (tmp_path / "valid.csv").write_text("\n".join(["id", *table.ids]) + "\n")
    out = tmp_path / "p.csv"
    words = [tiny_run / "export", tmp_path / "valid.csv", "--images", dataset / "train"]
    assert run_histo("predict", *words, "--out", out, "--raw").exit_code == 0
    ours = np.array([[float(r["p_0"]), float(r["p_1"])] for r in rows_of(out)])
    assert np.abs(ours - table.probabilities).max() < 1e-5

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
    assert np.abs(theirs - table.probabilities[:6]).max() < 1e-5


def test_the_learner_holds_neither_histo_nor_a_path_of_the_data(tiny_run, dataset):
    data = (tiny_run / "export" / "learner.pkl").read_bytes()
    data = data.replace(sys.prefix.encode(), b"")  # fastai's own files may lie in a folder "histo"
    assert b"histo" not in data
    assert str(dataset).encode() not in data
    assert str(tiny_run).encode() not in data
    assert f"{tempfile.gettempdir()}/tmp".encode() not in data  # where the blank patch lay


def test_predict_writes_a_row_a_patch_and_kaggles_submission(tiny_run, dataset, tmp_path):
    out, kaggle = tmp_path / "p.csv", tmp_path / "s.csv"
    words = [tiny_run / "export", dataset / "test", "--out", out, "--submission", kaggle]
    assert run_histo("predict", *words, "--batch-size", 7).exit_code == 0
    rows = rows_of(out)
    assert [r["id"] for r in rows] == sorted(p.stem for p in (dataset / "test").iterdir())
    for row, sent in zip(rows, rows_of(kaggle), strict=True):
        assert float(row["p_0"]) + float(row["p_1"]) == pytest.approx(1, abs=1e-6)
        assert row["predicted"] == ("1" if float(row["p_1"]) > 0.5 else "0")
        assert sent == {"id": row["id"], "label": row["p_1"]}


def test_tta_is_the_mean_of_the_eight_views(tiny_run, dataset, tmp_path):
    from histo.data.decode import read_patch

    path = sorted((dataset / "test").iterdir())[0]
    pixels = read_patch(path)
    views = tmp_path / "views"
    views.mkdir()
    for k in range(4):
        write_image(views / f"{k}.png", np.rot90(pixels, k))
        write_image(views / f"{k + 4}.png", np.rot90(pixels[:, ::-1], k))
    run_histo("predict", tiny_run / "export", views, "--out", tmp_path / "each.csv", "--raw")
    run_histo("predict", tiny_run / "export", path, "--out", tmp_path / "tta.csv", "--tta", "--raw")
    each = [float(row["p_1"]) for row in rows_of(tmp_path / "each.csv")]
    assert float(rows_of(tmp_path / "tta.csv")[0]["p_1"]) == pytest.approx(np.mean(each), abs=1e-6)


@pytest.mark.parametrize("tta", [[], ["--tta"]])
def test_torch_and_onnx_predict_the_same(tiny_run, dataset, tmp_path, tta):
    """A bundle without its model.onnx is run by torch."""
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_run / "export", bundle)
    found = []
    for name in ("onnx", "torch"):
        out = tmp_path / f"{name}.csv"
        words = ["predict", bundle, dataset / "test", "--out", out, *tta]
        assert run_histo(*words).exit_code == 0
        found.append(np.array([float(row["p_1"]) for row in rows_of(out)]))
        (bundle / "model.onnx").unlink(missing_ok=True)
    assert np.abs(found[0] - found[1]).max() < 1e-5


def test_on_a_cpu_only_train_export_and_demo_need_torch(tiny_run, dataset, tmp_path):
    """The others never load torch or fastai."""
    code = """
import sys
from histo.cli import main
try:
    main()
finally:
    assert not {"torch", "fastai"} & sys.modules.keys()
"""
    lines = [
        ["check", dataset],
        ["interpret", tiny_run, "--out", tmp_path / "report"],
        ["predict", tiny_run / "export", dataset / "test", "--tta", "--device", "cpu"],
    ]
    for words in lines:
        command = [sys.executable, "-c", code, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert len(rows_of(tmp_path / "predictions.csv")) == 24


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx", "learner.pkl"])
def test_a_bundle_with_a_changed_byte_is_refused(tiny_run, dataset, tmp_path, name):
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_run / "export", bundle)
    path = bundle / name
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    result = run_histo("predict", bundle, dataset / "test", "--out", tmp_path / "p.csv")
    assert_one_line_error(result, "SHA-256")
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "update histo"),
        ({"vocab": ["a"]}, "damaged"),
        ({"patch_size": 10**9}, "damaged"),
        ({"mean": "grey"}, "damaged"),
        ({"files": None}, "not the card of a bundle"),
    ],
)
def test_a_bad_card_is_refused(tiny_run, dataset, tmp_path, change, said):
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_run / "export", bundle)
    edit_card(bundle, **change)
    assert_one_line_error(run_histo("predict", bundle, dataset / "test"), said)


def test_a_pickle_is_loaded_only_on_trust(tiny_run, dataset, tmp_path):
    pickle = tiny_run / "export" / "learner.pkl"
    assert_one_line_error(run_histo("predict", pickle, dataset / "test"), "--trust-pickle")
    words = ["--trust-pickle", "--out", tmp_path / "p.csv"]
    result = run_histo("predict", pickle, dataset / "test", *words)
    assert result.exit_code == 0, result.output
    assert "runs whatever code" in result.stderr
    run_histo(
        "predict", tiny_run / "export", dataset / "test", "--raw", "--out", tmp_path / "q.csv"
    )
    for a, b in zip(rows_of(tmp_path / "p.csv"), rows_of(tmp_path / "q.csv"), strict=True):
        assert float(a["p_1"]) == pytest.approx(float(b["p_1"]), abs=1e-5)


def test_bad_images_leave_no_table(tiny_run, tmp_path):
    (tmp_path / "in").mkdir()
    out = tmp_path / "p.csv"
    words = ["predict", tiny_run / "export", tmp_path / "in", "--out", out]
    assert_one_line_error(run_histo(*words), "holds no TIF, PNG or JPEG")
    write_image(tmp_path / "in" / "a.png", np.zeros((48, 48, 3), np.uint8))
    write_image(tmp_path / "in" / "b.png", np.zeros((50, 50, 3), np.uint8))
    assert_one_line_error(run_histo(*words), "b.png is 50x50 px where 48x48 px are expected")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_check_of_good_data_ends_well(dataset, tmp_path):
    result = run_histo("check", dataset, "--out", tmp_path / "check")
    assert result.exit_code == 0
    assert "all 160 ids are the SHA-1 of their pixels" in result.stdout
    assert "is ready to train on" in result.stdout


def test_check_says_how_large_the_store_is_or_will_be(dataset, tmp_path):
    words = ("check", dataset, "--store", tmp_path / "store", "--out", tmp_path / "check")
    before = run_histo(*words).stdout
    assert "none yet; training will make one of 1.1 MB" in before
    assert pytest.approx(1.1, abs=0.05) == 160 * 48 * 48 * 3 / 1e6
    paths = list_patches(dataset / "train")
    open_store(paths, tmp_path / "store", None, None, Screen(quiet=True))
    on_disk = sum(path.stat().st_size for path in (tmp_path / "store").iterdir())
    said = run_histo(*words).stdout
    assert f"store: {on_disk / 1e6:.1f} MB in " in said


def test_check_finds_what_is_wrong_and_names_it(tmp_path):
    (tmp_path / "train").mkdir()
    rng = np.random.default_rng(0)
    for name in "abcdef":
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        write_image(tmp_path / "train" / f"{name}.png", pixels)
    shutil.copy(tmp_path / "train" / "a.png", tmp_path / "train" / "same.png")
    write_image(tmp_path / "train" / "big.png", np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "train" / "bad.png").write_text("no")
    (tmp_path / "train_labels.csv").write_text(
        "id,label\na,0\nb,1\nc,0\nd,1\nbig,1\nbad,0\nsame,0\nghost,1\nc,1\nd,1\n"
    )
    result = run_histo("check", tmp_path, "--out", tmp_path / "check")
    assert result.exit_code == 1
    for said in (
        "1 label without a patch\n  ghost",
        "2 patches without a label\n  e.png\n  f.png",
        "1 id twice, with different labels\n  c (lines 4, 10)",
        "1 id twice, with the same label (train keeps one)\n  d (lines 5, 11)",
        "1 patch that cannot be read",
        "big.png: 20x20 px",
        "a.png, same.png",
    ):
        assert said in result.stdout


def test_the_demo_runs_the_very_commands(tmp_path, monkeypatch):
    from histo.commands import demo
    from histo.data import labels

    monkeypatch.setattr(demo, "TRAIN", 64)
    monkeypatch.setattr(demo, "TEST", 16)
    monkeypatch.setattr(demo, "COLOUR", 40)
    monkeypatch.setattr(
        demo,
        "TRAINING",
        ("--arch", "squeezenet1_1", "--weights", "none", "--epochs", "1", "--no-store"),
    )
    result = run_histo("demo", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    for verb in ("check", "train", "interpret", "export", "predict"):
        assert f"$ histo {verb}" in result.stdout
    assert "on 16 patches it never saw: AUC" in result.stdout
    assert len(rows_of(tmp_path / "demo" / "predictions.csv")) == 16
    assert len(labels.read_labels(tmp_path / "demo" / "data" / "train_labels.csv")) == 64
    assert_one_line_error(run_histo("demo", tmp_path / "demo"), "is not empty")


def test_a_wrong_option_is_status_2_and_help_needs_no_torch():
    assert run_histo("train", "x", "--epochs", "many").exit_code == 2
    code = "import sys, histo.cli as c\ntry: c.app(['--help'])\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
