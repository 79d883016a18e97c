"""train --probe: a linear head on the features of a frozen body, which are computed once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from histo.model.card import read_card
from histo.run.predictions import read_predictions
from histo.training.logistic import fit_head
from tests.conftest import assert_one_line_error, rows_of, run_histo, unfinish

PROBE = ("--probe", "--views", 2, "--arch", "squeezenet1_1", "--device", "cpu")


@pytest.fixture(scope="module")
def patches(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The patches in a folder of their own, where a store can lie."""
    folder = tmp_path_factory.mktemp("patches")
    return Path(shutil.copytree(dataset, folder, dirs_exist_ok=True))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    """A cache folder of their own, for the notes of what this user has made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def probe(patches: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe without its last forty patches, interpreted and exported."""
    folder = tmp_path_factory.mktemp("probe")
    ids = [row["id"] for row in rows_of(patches / "train_labels.csv")]
    (folder / "fewer.csv").write_text("\n".join(["id", *ids[-40:]]) + "\n")
    words = ["--exclude", folder / "fewer.csv", "--weights", weights, "--out", folder / "run"]
    result = run_histo("train", patches, *PROBE, *words)
    assert result.exit_code == 0, result.output
    assert "features: 216 views computed\n" in result.stdout  # 96 train in two views, 24 in one
    for verb in ("interpret", "export"):
        assert run_histo(verb, folder / "run").exit_code == 0
    return folder / "run"


def test_a_probe_is_a_run_like_any_other(probe):
    table = read_predictions(probe / "predictions.csv")
    assert len(table.ids) == 24
    settings = json.loads((probe / "config.json").read_text())
    assert settings["probe"] == {"value": True, "source": "given"}
    assert settings["views"]["value"] == 2
    assert settings["penalty"]["value"] > 0
    page = (probe / "report" / "report.html").read_text()
    assert "the epoch kept" not in page  # no epoch was chosen on these patches
    assert len(rows_of(probe / "history.csv")) == 1
    assert read_card(probe / "export")[0].head == 0
    compared = run_histo("compare", probe, probe)
    assert compared.exit_code == 0, compared.output


def test_onnx_and_fastais_learner_give_the_probabilities_of_the_run(probe, patches, tmp_path):
    from fastai.learner import load_learner

    table = read_predictions(probe / "predictions.csv")
    (tmp_path / "valid.csv").write_text("\n".join(["id", *table.ids]) + "\n")
    words = [probe / "export", tmp_path / "valid.csv", "--images", patches / "train"]
    found = {}
    for name, more in (("raw", ["--raw"]), ("tempered", [])):
        out = tmp_path / f"{name}.csv"
        assert run_histo("predict", *words, *more, "--out", out).exit_code == 0
        found[name] = np.array([float(row["p_1"]) for row in rows_of(out)])
    assert np.abs(found["raw"] - table.probabilities[:, 1]).max() < 1e-5
    learn = load_learner(probe / "export" / "learner.pkl")
    first = next((patches / "train").glob(f"{table.ids[0]}.*"))
    assert float(learn.predict(first)[2][1]) == pytest.approx(found["tempered"][0], abs=1e-5)


@pytest.mark.slow
def test_without_weights_the_same_seed_gives_the_same_body(patches, tmp_path):
    """So that its features are known again, in another run as after a kill."""
    words = ["train", patches, *PROBE, "--weights", "none", "--out"]
    assert run_histo(*words, tmp_path / "first", "--seed", 7).exit_code == 0
    again = run_histo(*words, tmp_path / "again", "--seed", 7)
    assert "features: 0 views computed, 288 known" in again.stdout
    tables = [(tmp_path / name / "predictions.csv").read_bytes() for name in ("first", "again")]
    assert tables[0] == tables[1]
    other = run_histo(*words, tmp_path / "other", "--seed", 8)
    assert "features: 288 views computed\n" in other.stdout


@pytest.mark.slow
def test_more_patches_cost_only_their_own_features(probe, patches, weights, tmp_path):
    """And other settings of the head cost none."""
    words = ["train", patches, *PROBE, "--weights", weights]
    more = run_histo(*words, "--out", tmp_path / "more")
    computed = int(more.stdout.partition("features: ")[2].split()[0])
    known = int(more.stdout.partition("computed, ")[2].split()[0])
    assert computed + known == 2 * 128 + 32
    assert 60 <= computed <= 80 + 32  # those of 40 patches, and second views of some
    again = run_histo(*words, "--folds", 2, "--out", tmp_path / "folds")
    assert again.exit_code == 0, again.output
    lines = [line for line in again.stdout.splitlines() if line.startswith("features: ")]
    assert lines[1] == "features: 0 views computed, 240 known" or "known" in lines[1]
    assert len(read_predictions(tmp_path / "folds" / "predictions.csv").ids) == 160
    settings = json.loads((tmp_path / "folds" / "config.json").read_text())
    assert settings["precision"]["value"] == "fp32"


@pytest.mark.slow
def test_features_that_another_wrote_are_not_used(probe, patches, weights, tmp_path, monkeypatch):
    parts = {path: path.read_bytes() for path in (patches / ".histo").glob("features-*/*.npz")}
    words = ["train", patches, *PROBE, "--weights", weights, "--out"]
    for path, whole in parts.items():
        path.write_bytes(whole[:-300] + bytes(100) + whole[-200:])
    changed = run_histo(*words, tmp_path / "changed")
    assert "features: 0 views" not in changed.stdout
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # another user's
    other = run_histo(*words, tmp_path / "other")
    assert "features: 288 views computed\n" in other.stdout
    one, two = (
        read_predictions(tmp_path / name / "predictions.csv") for name in ("changed", "other")
    )
    assert np.abs(one.probabilities - two.probabilities).max() < 1e-4


def test_a_probe_that_was_killed_is_resumed_and_ends_the_same(probe, patches, tmp_path):
    run = Path(shutil.copytree(probe, tmp_path / "run"))
    before = rows_of(run / "predictions.csv")
    unfinish(run)
    (run / "predictions.csv").unlink()
    result = run_histo("train", patches, "--resume", run)  # a copy: names its data
    assert result.exit_code == 0, result.output
    again = rows_of(run / "predictions.csv")
    assert [row["id"] for row in again] == [row["id"] for row in before]
    p = [[float(row["p_1"]) for row in rows] for rows in (before, again)]
    # features may round otherwise in another batch, and the fit ends near its optimum, not at it
    assert p[0] == pytest.approx(p[1], abs=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--probe", "--epochs", 3),
            "a probe trains no body: it has no epochs (leave --epochs out",
        ),
        (("--probe", "--lr", "find"), "it has no lr (leave --lr out"),
        (("--views", 2), "views are for a probe (leave --views out, or give --probe)"),
    ],
)
def test_settings_that_a_probe_has_no_use_for_are_refused(dataset, tmp_path, words, said):
    result = run_histo("train", dataset, *words, "--weights", "none", "--out", tmp_path / "run")
    assert_one_line_error(result, said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_is_scikit_learns_logistic_regression(classes):
    """On features as they are, whatever their scale, with a penalty that it says."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 150)
    features = rng.normal(labels[:, None, None], 2, (150, 1, 5)).astype(np.float32) * 7 + 3
    rows = features[:, 0].copy()
    head = fit_head(features.copy(), labels, None, 0)
    logits = rows @ head.weight.T + head.bias
    found = np.exp(logits - np.logaddexp.reduce(logits, 1, keepdims=True))
    scaled = (rows - rows.mean(0)) / rows.std(0)
    theirs = LogisticRegression(C=1 / (head.penalty * 150), tol=1e-6).fit(scaled, labels)
    assert np.abs(found - theirs.predict_proba(scaled)).max() < 2e-3


def test_the_penalty_is_chosen_between_groups():
    """Features that tell the patient, and no class, are penalised where patients are known."""
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(30), 10)
    labels = rng.integers(0, 2, 30)[patients]
    features = rng.normal(0, 1, (30, 1, 40))[patients] + rng.normal(0, 0.1, (300, 1, 40))
    features = features.astype(np.float32)
    known = fit_head(features.copy(), labels, [str(n) for n in patients], 0)
    unknown = fit_head(features.copy(), labels, None, 0)
    assert known.penalty > 10 * unknown.penalty
