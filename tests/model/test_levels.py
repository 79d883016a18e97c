"""A probe's head sees the blocks of a convolutional body, not its last features alone."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from histo.errors import HistoError
from histo.model.body import features_of, make_body
from histo.model.levels import Levels, blocks_of
from histo.model.predictor import open_bundle
from tests.conftest import assert_one_line_error, edit_card, run_histo

SIDE = 64


@pytest.mark.parametrize(
    ("arch", "features", "some"),
    [
        ("squeezenet1_1", 2560, "features.3"),  # each of its eight Fire modules
        ("resnet18", 1920, "layer1.0"),  # each of its eight blocks
        ("resnet50", 3840, "layer3.5"),  # the last of each of its four sizes
        ("densenet121", 2816, "features.denseblock1"),
        ("convnext_tiny", 2880, "features.1"),
    ],
)
def test_the_features_of_a_convolutional_body_are_of_all_its_depths(arch, features, some):
    body = make_body(arch)
    names = blocks_of(body, SIDE)
    assert some in names
    assert features_of(Levels(body, names), SIDE, arch) == features


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["swin_t", "vit_b_16"])
def test_those_of_a_transformer_are_its_own(arch):
    assert blocks_of(make_body(arch), 224) == []


def test_each_level_is_the_mean_of_a_blocks_output_and_the_bodys_own_features_are_last():
    body = make_body("resnet18").eval()
    patches = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        found = Levels(body, ["layer1.0", "layer2"]).eval()(patches)
        stem = body.maxpool(body.relu(body.bn1(body.conv1(patches))))
        first, second = body.layer1[0](stem), body.layer2(body.layer1(stem))
        plain = body(patches)
    expected = torch.cat([first.mean((2, 3)), second.mean((2, 3)), plain], 1)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.fixture(scope="module")
def probe(dataset: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a probe."""
    run = tmp_path_factory.mktemp("levels") / "run"
    words = ["--arch", "squeezenet1_1", "--weights", weights, "--device", "cpu", "--out", run]
    assert run_histo("train", dataset, "--probe", "--no-store", *words).exit_code == 0
    assert run_histo("export", run).exit_code == 0
    return run / "export"


def test_the_card_names_the_levels_and_every_file_of_the_bundle_agrees(probe):
    card = json.loads((probe / "model.json").read_text())
    assert card["levels"][0] == "features.3"
    shape = (4, card["patch_size"], card["patch_size"], 3)
    patches = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    onnx = open_bundle(probe, "cpu", "fp32").predict(patches).probabilities
    from histo.model.bundle_files import BundleFiles
    from histo.model.torch_engine import TorchEngine

    engine = TorchEngine.open(BundleFiles.open(probe), torch.device("cpu"))
    eager = engine.get(engine.run(engine.put(patches)))
    assert np.allclose(onnx, eager, atol=1e-4)


def test_fastais_learner_of_a_probe_holds_no_histo(probe):
    """Its blocks are read by a traced graph, which fastai opens where histo is not installed."""
    data = (probe / "learner.pkl").read_bytes().replace(sys.prefix.encode(), b"")
    assert b"histo" not in data


@pytest.mark.slow
def test_a_body_that_cannot_be_traced_has_no_learner_and_export_says_so(probe, tmp_path):
    def forward(_: object) -> None:
        raise RuntimeError("no trace")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Levels, "without_histo", forward)
        result = run_histo("export", probe.parent, "--out", tmp_path / "bundle")
    assert result.exit_code == 0, result.output
    assert "no learner.pkl: a probe of squeezenet1_1" in result.output
    assert not (tmp_path / "bundle" / "learner.pkl").exists()


@pytest.mark.parametrize("names", [["nothing"], ["classifier.0"], 5, [3], ["a"] * 2, "features.3"])
def test_a_card_that_names_other_levels_is_refused_in_one_line(probe, dataset, tmp_path, names):
    folder = Path(shutil.copytree(probe, tmp_path / "bundle"))
    edit_card(folder, levels=names)
    result = run_histo("features", folder, dataset / "train", "--out", tmp_path / "f.h5")
    assert_one_line_error(result)


def test_a_name_that_the_body_does_not_have_is_refused():
    with pytest.raises(HistoError, match="no block 'layer9'"):
        Levels(make_body("resnet18"), ["layer9"])
