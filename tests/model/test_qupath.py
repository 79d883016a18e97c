"""histo export --qupath: a model folder for QuPath's WSInfer extension."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonschema import Draft4Validator

from histo.data.decode import read_patch
from tests.conftest import TINY, assert_one_line_error, rows_of, run_histo

SCHEMA = json.loads(Path(__file__).with_name("wsinfer.schema.json").read_text())
"""model-config.schema.json of WSInfer's model zoo (Apache-2.0), without its descriptions."""


@pytest.fixture(scope="module")
def folds_run(dataset, weights, tmp_path_factory):
    """A run of two folds."""
    run = tmp_path_factory.mktemp("folds") / "folded"
    words = [*TINY, "--weights", weights, "--epochs", 1, "--folds", 2, "--out", run]
    assert run_histo("train", dataset, *words).exit_code == 0
    return run


def as_the_extension_does(folder, patches):
    """Probabilities as WSInfer.java computes them: the transforms of config.json, softmax."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (model,) = folder.glob("*.pt")
    batch = torch.from_numpy(patches).permute(0, 3, 1, 2)
    for transform in config["transform"]:
        arguments = transform.get("arguments", {})
        if transform["name"] == "Resize":
            assert batch.shape[2:] == (arguments["size"], arguments["size"])
        elif transform["name"] == "ToTensor":
            batch = batch.float() / 255
        else:
            mean, std = (torch.tensor(arguments[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
            batch = (batch - mean) / std
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.softmax(torch.jit.load(str(model))(batch), 1).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("which", ["tiny_run", "folds_run"])
def test_qupath_gives_the_probabilities_of_predict(which, request, dataset, tmp_path):
    """To 1e-5, temperature and folds included, for any number of patches at once; by the schema."""
    run, bundle = request.getfixturevalue(which), tmp_path / "bundle"
    done = run_histo("export", run, "--out", bundle, "--qupath", "--mpp", 0.972)
    assert done.exit_code == 0, done.output
    assert "Warning" not in done.output
    folder = bundle / "qupath" / run.name
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    Draft4Validator(SCHEMA).validate(config)
    assert (config["patch_size_pixels"], config["spacing_um_px"]) == (48, 0.972)
    assert config["class_names"] == ["0", "1"]

    out = tmp_path / "p.csv"
    assert run_histo("predict", bundle, dataset / "test", "--out", out).exit_code == 0
    rows = rows_of(out)
    theirs = np.array([[float(row["p_0"]), float(row["p_1"])] for row in rows])
    patches = np.stack([read_patch(dataset / "test" / f"{row['id']}.tif") for row in rows])
    for batch in (1, 7, len(patches)):
        ours = as_the_extension_does(folder, patches[:batch])
        assert np.abs(ours - theirs[:batch]).max() < 1e-5
    card = json.loads((bundle / "model.json").read_text())
    assert card["temperature"] != 1
    assert card["mpp"] == 0.972


def test_qupath_needs_the_pixel_size(tiny_run, tmp_path):
    result = run_histo("export", tiny_run, "--out", tmp_path / "b", "--qupath")
    assert_one_line_error(result, "does not say at how many µm per px", "give --mpp")
    assert not (tmp_path / "b" / "model.json").exists()


def test_a_pixel_size_that_cannot_be_is_refused(tiny_run, tmp_path):
    for mpp in (0.02, 100):
        result = run_histo("export", tiny_run, "--out", tmp_path / "b", "--qupath", "--mpp", mpp)
        assert result.exit_code == 2


@pytest.mark.slow
def test_a_later_export_leaves_no_model_of_an_earlier_one(folds_run):
    """In the run's own folder, which each export replaces."""
    assert run_histo("export", folds_run, "--qupath", "--mpp", 1).exit_code == 0
    assert list((folds_run / "export").rglob("*.pt"))
    assert run_histo("export", folds_run).exit_code == 0
    assert not list((folds_run / "export").rglob("*.pt"))
