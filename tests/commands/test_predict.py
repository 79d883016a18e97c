"""histo predict, by ONNX Runtime, torch and fastai."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tests.conftest import assert_one_line_error, edit_card, rows_of, run_histo, write_image


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
        ({"format": 3}, "update histo"),
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
    run_histo("predict", tiny_run / "export", dataset / "test", "--out", tmp_path / "q.csv")
    for a, b in zip(rows_of(tmp_path / "p.csv"), rows_of(tmp_path / "q.csv"), strict=True):
        assert float(a["p_1"]) == pytest.approx(float(b["p_1"]), abs=1e-5)


def test_bad_images_leave_no_table(tiny_run, tmp_path):
    (tmp_path / "in").mkdir()
    out = tmp_path / "p.csv"
    words = ["predict", tiny_run / "export", tmp_path / "in", "--out", out]
    assert_one_line_error(run_histo(*words), "holds no image")
    write_image(tmp_path / "in" / "a.png", np.zeros((48, 48, 3), np.uint8))
    write_image(tmp_path / "in" / "b.png", np.zeros((50, 50, 3), np.uint8))
    assert_one_line_error(run_histo(*words), "b.png is 50x50 px where 48x48 px are expected")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
