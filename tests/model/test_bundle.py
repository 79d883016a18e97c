"""The bundle: what is sound loads in every later version, what is not is refused."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from histo.config import ModelCard
from histo.data.decode import read_patch
from histo.errors import HistoError
from histo.model.bundle import TrainedOn, write_bundle
from histo.model.bundle_files import BundleFiles
from histo.model.card import (
    CARD,
    LEARNER,
    ONNX,
    WEIGHTS,
    parse_trained,
    read_card,
    short_digests,
)
from histo.model.network import make_one, shapes_of
from histo.model.predictor import Predictor, open_bundle
from histo.model.torch_engine import TorchEngine
from tests.conftest import (
    Memory,
    assert_one_line_error,
    edit_card,
    replace_file,
    rows_of,
    run_histo,
)
from tests.corrupted import CORRUPTIONS, Evil, sound_bundle

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("bundle-*"))
MOST = 200 * 2**20
"""Bytes of memory that a refusal may take."""
CPU = torch.device("cpu")


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.name)
def test_a_bundle_of_every_format_loads_and_predicts_as_it_did(golden):
    """By ONNX Runtime and by torch, to 1e-4."""
    rows = rows_of(golden / "predictions.csv")
    patches = np.stack([read_patch(golden / "patches" / f"{row['id']}.png") for row in rows])
    expected = np.array([[float(row["p_normal"]), float(row["p_tumour"])] for row in rows])
    assert np.ptp(expected[:, 1]) > 0.4
    for model in (open_bundle(golden, "cpu"), by_torch(golden)):
        assert np.abs(model.probabilities(patches) - expected).max() < 1e-4
    card, _ = read_card(golden)
    assert (card.temperature, card.threshold) == (1.25, 0.4)
    assert card.positive == ("tumour" if card.format > 1 else None)
    assert open_bundle(golden).files.trained_on().tolist() == [0x0123456789ABCDEF]


def by_torch(folder: Path) -> Predictor:
    """A bundle at work by torch, as on a GPU."""
    files = BundleFiles.open(folder)
    return Predictor(files.card, TorchEngine.open(files, CPU), files)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound bundle whose learner.pkl would make a file called `touched` beside it."""
    folder = tmp_path_factory.mktemp("bundles")
    return sound_bundle(GOLDEN[0], folder / "sound", folder / "touched")


def test_the_sound_bundle_is_sound(sound):
    """Else every refusal below would be one of something else; its evil learner stays shut."""
    assert open_bundle(sound, "cpu").card == by_torch(sound).card
    assert not (sound.parent / "touched").exists()


def test_there_are_a_hundred_corruptions():
    assert len(CORRUPTIONS) >= 100


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupt_bundle_is_refused(sound, tmp_path, name):
    """On a CPU and by torch, in words, in little memory, and without opening the learner."""
    bundle = sound.parent / f"corrupt-{len(list(sound.parent.iterdir()))}"
    shutil.copytree(sound, bundle, copy_function=os.link)
    CORRUPTIONS[name](bundle)
    memory = Memory()
    # what only the ONNX model is wrong in, torch would not see
    loads = [lambda: open_bundle(bundle, "cpu")]
    if not name.startswith("ONNX"):
        loads.append(lambda: by_torch(bundle))
    for load in loads:
        with pytest.raises(HistoError) as refused:
            load()
        assert str(bundle.name) in str(refused.value) or "resnet0" in str(refused.value)
    assert memory.taken < MOST
    assert not (sound.parent / "touched").exists()


def test_a_file_that_changes_once_it_was_checked_is_refused(sound, tmp_path):
    """What is used is what was hashed."""
    bundle = shutil.copytree(sound, tmp_path / "b")
    files = BundleFiles.open(bundle)
    replace_file(bundle / WEIGHTS, (sound / WEIGHTS).read_bytes()[::-1])
    with pytest.raises(HistoError, match="has changed while it was opened"):
        files.read(WEIGHTS)


PLAIN = ModelCard("squeezenet1_1", ["a", "b"], 8, None, None, [0.5] * 3, [0.5] * 3)


class Undecided(nn.Module):
    """Looks at its input before it decides: torch.export cannot follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, 2]."""
        means = x.mean((2, 3))[:, :2]
        return means if means.sum() > 0 else -means


class Shifty(nn.Module):
    """Another model while it is converted than at work."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, 2]."""
        return x.mean((2, 3))[:, :2] * (9 if torch.compiler.is_compiling() else 1)


@pytest.mark.slow
@pytest.mark.parametrize("model", [Undecided(), Shifty()])
def test_a_model_that_cannot_be_converted_has_no_onnx_and_an_older_one_goes(model, tmp_path):
    (tmp_path / ONNX).write_bytes(b"of an older export")
    assert not write_bundle(tmp_path, model, PLAIN, {})
    assert not (tmp_path / ONNX).exists()
    _, facts = read_card(tmp_path)
    assert "onnx" not in facts
    assert ONNX not in facts["files"]


@pytest.mark.slow
def test_a_patch_is_known_by_the_first_eight_bytes_of_its_hash(tmp_path):
    """Sorted, so that what was trained on in which order is not told."""
    digests = ["ff23456789abcdef" + "0" * 24, "0123456789abcdef" + "1" * 24]
    assert short_digests(digests).tolist() == [0xFF23456789ABCDEF, 0x0123456789ABCDEF]
    write_bundle(tmp_path, Undecided(), PLAIN, {}, TrainedOn(digests))
    assert BundleFiles.open(tmp_path).trained_on().tolist() == [
        0x0123456789ABCDEF,
        0xFF23456789ABCDEF,
    ]


def test_a_card_that_resizes_to_another_size_than_its_patches_is_refused(sound, tmp_path):
    """16 patches of 200 MB took 4 GB before the size was found wrong."""
    shutil.copytree(sound, tmp_path / "b")
    edit_card(tmp_path / "b", size=8192)
    result = run_histo("predict", tmp_path / "b", GOLDEN[0] / "patches", "--out", tmp_path / "p")
    assert_one_line_error(result, "is damaged: a value is missing or out of bounds")


def test_a_card_that_asks_for_another_order_of_colours_is_refused(sound, tmp_path):
    """histo reads RGB: to predict such a model on it would be wrong without a word."""
    shutil.copytree(sound, tmp_path / "b")
    edit_card(tmp_path / "b", channel_order="BGR")
    result = run_histo("predict", tmp_path / "b", GOLDEN[0] / "patches", "--out", tmp_path / "p")
    assert_one_line_error(result, "is damaged: a value is missing or out of bounds")


def test_a_refusal_is_one_line_to_the_user(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "b")
    edit_card(tmp_path / "b", format=7)
    result = run_histo("predict", tmp_path / "b", GOLDEN[0] / "patches", "--out", tmp_path / "p")
    assert_one_line_error(result, "is of format 7; this histo reads 2 (update histo)")
    assert not (tmp_path / "p").exists()


def test_an_evil_learner_is_refused_and_not_opened(sound, tmp_path):
    learner = tmp_path / "learner.pkl"
    learner.write_bytes(pickle.dumps(Evil(tmp_path / "touched")))
    result = run_histo("predict", learner, GOLDEN[0] / "patches", "--out", tmp_path / "p.csv")
    assert_one_line_error(result, "runs whatever code it holds", "--trust-pickle")
    result = run_histo("predict", sound, GOLDEN[0] / "patches", "--out", tmp_path / "p.csv")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "touched").exists()
    assert not (sound.parent / "touched").exists()


def test_an_onnx_model_that_fails_at_work_is_one_line(sound, tmp_path):
    """A model that gives another number of answers than there are patches."""
    from onnx import helper, numpy_helper

    from tests.corrupted import strange_onnx

    shutil.copytree(sound, tmp_path / "b")
    two = numpy_helper.from_array(np.full((2, 2), 0.5, np.float32), "two")
    strange_onnx([helper.make_node("Identity", ["two"], ["probabilities"])], two)(tmp_path / "b")
    model = open_bundle(tmp_path / "b", "cpu")
    with pytest.raises(HistoError, match="does not fit its card"):
        model.predict(np.zeros((3, 48, 48, 3), np.uint8))
    with pytest.raises(HistoError, match="fails in prediction"):
        model.predict(np.zeros((2, 47, 48, 3), np.uint8))


@pytest.mark.slow
def test_no_pickle_leaves_the_learner_out_of_an_old_folder_too(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    assert (run / "export" / LEARNER).is_file()
    assert run_histo("export", run, "--no-pickle").exit_code == 0
    assert not (run / "export" / LEARNER).exists()
    _, facts = read_card(run / "export")
    assert sorted(facts["files"]) == sorted(facts["bytes"])
    assert sorted(facts["files"]) == [
        "model.onnx",
        "model.safetensors",
        "trained.npy",
        "trained_near.npy",
    ]
    open_bundle(run / "export", "cpu")


def test_a_bundle_says_nothing_of_the_machine_it_was_made_on(tiny_run):
    """Torch puts stack traces into what it converts."""
    for name in (CARD, ONNX):
        data = (tiny_run / "export" / name).read_bytes()
        assert b"site-packages" not in data
        assert str(Path(__file__).parents[2]).encode() not in data


@pytest.mark.parametrize("arch", ["shufflenet_v2_x0_5", "regnet_y_400mf"])
def test_the_shapes_of_a_model_are_known_before_it_is_made(arch):
    card = ModelCard(arch, ["a", "b"], 64, None, None, [0.5] * 3, [0.5] * 3, head=4)
    made = {name: tuple(tensor.shape) for name, tensor in make_one(card).state_dict().items()}
    assert shapes_of(card) == made


def test_every_torchvision_arch_has_shapes_without_memory():
    """Two gigabytes would be needed for the largest alone; timm's names are tried by one."""
    archs = [a for a in torchvision.models.list_models(module=torchvision.models) if "128gf" in a]
    for arch in (*archs, "vit_h_14", "resnet10t"):
        memory = Memory()
        shapes = shapes_of(ModelCard(arch, ["a", "b"], 224, None, None, [0.5] * 3, [0.5] * 3))
        assert len(shapes) > 50
        assert memory.taken < MOST


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY\x01\x00",
        b"PK\x03\x04" + bytes(100),
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '<u8', 'fortran_order': False, 'shape': (10**12,), }".ljust(
            127
        )
        + b"\n",
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '<u8', 'fortran_order': False, 'shape': (9,), }".ljust(
            127
        )
        + b"\n"
        + bytes(64),
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O', 'fortran_order': False, 'shape': (8,), }".ljust(
            127
        )
        + b"\n"
        + bytes(64),
    ],
)
def test_damaged_hashes_are_refused(data):
    with pytest.raises(HistoError, match="damaged"):
        parse_trained(data, Path("trained.npy"))
