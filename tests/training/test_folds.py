"""train --folds: several models, every patch judged by one that did not see it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from histo.data.decode import read_patch
from histo.data.patch_files import list_patches
from histo.model.card import read_card
from histo.model.checkpoint import Checkpoint, Position, load_best
from histo.model.network import make_one
from histo.model.torch_engine import TorchEngine
from histo.run.folder import RunFolder
from histo.run.predictions import read_predictions
from tests.conftest import TINY, assert_one_line_error, rows_of, run_histo, unfinish

FOLDS = ("--weights", "none", "--epochs", 1, "--folds", 3)


@pytest.fixture(scope="module")
def folds(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three folds, interpreted and exported."""
    run = tmp_path_factory.mktemp("folds") / "run"
    result = run_histo("train", dataset, *TINY, *FOLDS, "--out", run)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("validate (random over patches") == 3
    for verb in ("interpret", "export"):
        assert run_histo(verb, run).exit_code == 0
    return run


def table_of(path: Path) -> dict[str, float]:
    return {row["id"]: float(row["p_1"]) for row in rows_of(path)}


def test_every_patch_is_predicted_by_the_model_that_did_not_see_it(folds):
    every = table_of(folds / "predictions.csv")
    side = {row["id"]: row["split"] for row in rows_of(folds / "split.csv")}
    assert len(every) == 160
    for number in (1, 2, 3):
        part = table_of(folds / f"fold-{number}" / "predictions.csv")
        assert {name for name in side if side[name] == f"fold-{number}"} == part.keys()
        assert all(every[name] == value for name, value in part.items())
    assert "in 3 folds" in (folds / "report" / "report.html").read_text()


@pytest.mark.slow
def test_folds_without_groups_warn_that_the_split_is_random(folds):
    """On the terminal and in the report."""
    warning = "The split is random over patches"
    assert f"note: {warning}" in run_histo("interpret", folds, "--out", folds / "again").stdout
    assert warning in (folds / "report" / "report.html").read_text()
    assert json.loads((folds / "report" / "metrics.json").read_text())["split"]["folds"] == 3


def test_the_bundle_averages_the_models(folds, dataset, tmp_path):
    card, _ = read_card(folds / "export")
    assert card.models == 3
    assert not (folds / "export" / "learner.pkl").exists()
    files, untempered = list_patches(dataset / "test"), replace(card, temperature=1.0)
    patches, each = np.stack([read_patch(path) for path in files]), []
    for number in range(3):
        model = make_one(card)
        load_best(RunFolder(folds).fold(number) / "checkpoint", model)
        engine = TorchEngine(untempered, model, torch.device("cpu"))
        each.append(engine.get(engine.run(engine.put(patches)))[:, 1])
    out = tmp_path / "all.csv"
    run_histo("predict", folds / "export", dataset / "test", "--raw", "--out", out)
    together = table_of(out)
    assert [together[path.stem] for path in files] == pytest.approx(np.mean(each, 0), abs=1e-5)
    assert np.abs(each[0] - each[1]).max() > 1e-3


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_folds_that_are_missing(folds, dataset, tmp_path):
    run = shutil.copytree(folds, tmp_path / "run")
    unfinish(run)
    (run / "predictions.csv").unlink()
    shutil.rmtree(run / "fold-2")
    unfinish(run / "fold-3")
    shutil.rmtree(run / "fold-3" / "checkpoint")  # as if killed before its first checkpoint
    result = run_histo("train", dataset, "--resume", run)  # a copy: names its data
    assert result.exit_code == 0, result.output
    assert result.stdout.count("already finished") == 1
    again, before = (read_predictions(place / "predictions.csv") for place in (run, folds))
    assert again.ids == before.ids
    assert np.array_equal(again.probabilities, before.probabilities)
    first, second, third = (
        json.loads((run / f"fold-{n}" / "config.json").read_text()) for n in (1, 2, 3)
    )
    assert sources_of(first) == sources_of(second) == sources_of(third)


def sources_of(config: dict[str, dict[str, object]]) -> dict[str, object]:
    return {name: entry["source"] for name, entry in config.items()}


def test_a_fold_that_was_cut_goes_on_with_the_device_given_now(folds, tmp_path):
    """Begun on a GPU that is not here; killed after its last checkpoint, before its end."""
    run = shutil.copytree(folds, tmp_path / "run")
    unfinish(run)
    (run / "predictions.csv").unlink()
    cut = RunFolder(run / "fold-2")
    unfinish(cut.path)
    rows = cut.read_history()
    model = load_file(cut.checkpoint / "best.safetensors")
    tensors = {f"model.{name}": value for name, value in model.items()}
    best = max(row["roc_auc"] for row in rows)
    Checkpoint(Position(len(rows)), tensors, {"rows": rows, "best": best}).write(cut.checkpoint)
    for place in (RunFolder(run), cut):
        config = json.loads(place.config.read_text())
        place.config.write_text(
            json.dumps(config | {"device": {"value": "cuda:9", "source": "given"}})
        )
    assert_one_line_error(run_histo("train", "--resume", run), "no device 'cuda:9'")
    done = run_histo("train", "--resume", run, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert cut.finished
    assert (run / "predictions.csv").read_bytes() == (folds / "predictions.csv").read_bytes()


def test_a_run_of_folds_is_never_overwritten_nor_gone_on_with_otherwise(folds, dataset, tmp_path):
    run = shutil.copytree(folds, tmp_path / "run")
    words = ("train", dataset, *TINY, *FOLDS, "--out", run)
    assert_one_line_error(run_histo(*words), "never overwritten")
    assert_one_line_error(run_histo("train", "--resume", run), "is finished")
    unfinish(run)
    assert_one_line_error(run_histo("train", "--resume", run, "--folds", 2), "folds 3, not 2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--folds", 81), "class '0' has 80 patches: too few for 81 folds"),
        (("--folds", 3, "--split-column", "label"), "leave --split-column out"),
    ],
)
def test_folds_that_cannot_be_made_are_refused(dataset, tmp_path, words, said):
    result = run_histo(
        "train", dataset, *TINY, "--weights", "none", *words, "--out", tmp_path / "r"
    )
    assert_one_line_error(result, said)
    assert not (tmp_path / "r").exists()
