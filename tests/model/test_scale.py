"""One scale for probabilities and thresholds, in bundles of every format; bundles used without histo."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from histo.config import ModelCard
from histo.data.decode import read_patch
from histo.model.bundle import write_bundle
from histo.model.network import Mean, make_one
from histo.model.predictor import open_bundle
from histo.run.calls import apply_temperature
from tests.conftest import edit_card, rows_of, run_histo

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


def golden_patches(golden: Path) -> np.ndarray:
    """Its four patches."""
    return np.stack([read_patch(path) for path in sorted((golden / "patches").iterdir())])


@pytest.mark.parametrize("threshold", [0.3, 0.37, 0.4, 0.56, 0.565])
def test_an_old_bundle_keeps_its_calls(tmp_path, threshold):
    """Format 1: the threshold is for probabilities before the temperature."""
    bundle = shutil.copytree(GOLDEN / "bundle-1", tmp_path / "b")
    edit_card(bundle, threshold=threshold)
    model, patches = open_bundle(bundle, "cpu"), golden_patches(bundle)
    raw = model.predict(patches, raw=True)
    assert raw.called.tolist() == (raw.probabilities[:, 1] >= threshold).astype(int).tolist()
    published = model.predict(patches)
    assert published.called.tolist() == raw.called.tolist()
    scaled = apply_temperature(raw.probabilities, 1.25)
    assert np.abs(published.probabilities - scaled).max() < 1e-8


def test_a_new_bundle_gives_raw_probabilities_too(tmp_path):
    """With and without eight views, what a model without temperature gives."""
    patches = golden_patches(GOLDEN / "bundle-2")
    model = open_bundle(GOLDEN / "bundle-2", "cpu")
    for tta in (False, True):
        views = [np.rot90(p, k, (1, 2)) for p in (patches, patches[:, :, ::-1]) for k in range(4)]
        each = [model.predict(np.ascontiguousarray(v), raw=True) for v in views[: 8 if tta else 1]]
        raw = model.predict(patches, tta, raw=True).probabilities
        assert np.abs(raw - np.mean([e.probabilities for e in each], 0)).max() < 1e-6
    logits = np.log(raw_of(model, patches))
    published = model.predict(patches).probabilities
    assert np.abs(np.diff(logits) / 1.25 - np.diff(np.log(published))).max() < 1e-5


def raw_of(model, patches: np.ndarray) -> np.ndarray:
    """Probabilities without the temperature."""
    return model.predict(patches, raw=True).probabilities


@pytest.mark.slow
def test_a_bundle_of_folds_scales_the_mean(tmp_path):
    """In the graph as the predictor always did: mean of the models' probabilities, then temperature."""
    torch.manual_seed(0)
    card = ModelCard("squeezenet1_1", ["a", "b"], 48, None, None, [0.5] * 3, [0.5] * 3)
    models = [make_one(card).eval() for _ in range(2)]
    patches = golden_patches(GOLDEN / "bundle-2")
    each = []
    for n, model in enumerate(models):
        write_bundle(tmp_path / str(n), model, card, {}, pickled=False)
        each.append(open_bundle(tmp_path / str(n), "cpu").predict(patches).probabilities)
    both = ModelCard(**{**card.as_dict(), "models": 2, "temperature": 3.0})
    write_bundle(tmp_path / "both", Mean(models).eval(), both, {}, pickled=False)
    found = open_bundle(tmp_path / "both", "cpu").predict(patches).probabilities
    assert np.abs(found - apply_temperature(np.mean(each, 0), 3.0)).max() < 1e-6


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the documentation has it: a bundle of a ResNet, and patch.tif."""
    folder = tmp_path_factory.mktemp("plain")
    torch.manual_seed(0)
    mean, std = [0.7, 0.55, 0.7], [0.24, 0.28, 0.22]
    card = ModelCard("resnet18", ["IDC", "benign"], 64, None, None, mean, std, 16, 1.7, 0.3)
    card = ModelCard(**{**card.as_dict(), "positive": "IDC"})
    model = make_one(card).eval()
    write_bundle(folder / "runs" / "resnet50-1" / "export", model, card, {}, pickled=False)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "patch.tif")
    return folder


def blocks(page: str, word: str) -> list[str]:
    """The Python of a page that holds a word."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if word in b]


@pytest.mark.slow
@pytest.mark.parametrize("word", ["onnxruntime", "torchvision"])
def test_the_documented_lines_without_histo_predict_what_histo_does(resnet, word):
    """In a process where neither histo nor fastai can be imported, to 1e-5; README and docs agree."""
    (code,) = blocks("README.md", word)
    assert blocks("docs/predicting.md", word) == [code]
    bundle = resnet / "runs" / "resnet50-1" / "export"
    run_histo("predict", bundle, resnet / "patch.tif", "--out", resnet / "p.csv")
    (row,) = rows_of(resnet / "p.csv")
    before = "import sys; sys.modules.update(histo=None, fastai=None)\n"
    after = "\nprint(*(float(p) for p in probabilities))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", before + code + after],
        cwd=resnet,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    ours = [float(row["p_IDC"]), float(row["p_benign"])]
    assert [float(x) for x in last.split()] == pytest.approx(ours, abs=1e-5)
    if word == "onnxruntime":
        assert done.stdout.splitlines()[0].endswith(str(row["predicted"] == "IDC"))


@pytest.mark.slow
def test_a_class_called_location_does_not_make_its_own_bundle_refused(tmp_path):
    """By that word a model would name other files."""
    card = ModelCard("squeezenet1_1", ["location", "other"], 48, None, None, [0.5] * 3, [0.5] * 3)
    assert write_bundle(tmp_path / "b", make_one(card).eval(), card, {}, pickled=False)
    assert open_bundle(tmp_path / "b", "cpu").vocab == ["location", "other"]
