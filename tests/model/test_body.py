"""Bodies and the weights they start from."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from histo.errors import HistoError
from histo.model.body import features_of, load_weights, make_body
from histo.model.weights import read_weights
from tests.conftest import SHARED, TINY, Memory, assert_one_line_error, run_histo

REAL = SHARED / "weights" / "squeezenet1_1-imagenet.safetensors"


@pytest.mark.parametrize(
    ("arch", "features"),
    [
        ("resnet18", 512),
        ("squeezenet1_1", 512),
        ("mobilenet_v3_small", 1024),
        ("shufflenet_v2_x0_5", 1024),
        ("mnasnet0_5", 1280),
        ("googlenet", 1024),
        ("densenet121", 1024),
        ("regnet_y_400mf", 440),
    ],
)
def test_a_torchvision_classifier_becomes_a_body(arch, features):
    assert features_of(make_body(arch), 96, arch) == features


def test_a_timm_name_becomes_a_body():
    pytest.importorskip("timm")
    assert features_of(make_body("resnet10t"), 64, "resnet10t") == 512


def test_an_unknown_arch_names_the_nearest():
    with pytest.raises(HistoError, match=r"no arch 'UNI2': the nearest are .*uni2-h"):
        make_body("UNI2")
    with pytest.raises(HistoError, match=r"no arch 'resnet5': the nearest are .*resnet50"):
        make_body("resnet5")


def test_an_arch_that_needs_another_size_says_so():
    with pytest.raises(
        HistoError, match=r"vit_b_32 does not take patches of 96x96 px.*size=, 224 px"
    ):
        features_of(make_body("vit_b_32"), 96, "vit_b_32")


def test_a_failed_download_names_both_ways_out(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(
        HistoError, match=r"could not be downloaded.*weights= a .safetensors.*weights= none"
    ):
        make_body("squeezenet1_1", imagenet=True)


def test_inception_has_the_same_tensors_with_published_weights_and_without(monkeypatch):
    """With them torchvision leaves the auxiliary head there, which no forward pass reaches."""
    new = make_body("inception_v3").state_dict().keys()
    published = torchvision.models.inception_v3(weights=None, init_weights=False)
    assert "AuxLogits.fc.weight" in published.state_dict()
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: published)
    assert make_body("inception_v3", imagenet=True).state_dict().keys() == new


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_weights_of_the_whole_model_load_by_name(tmp_path, suffix, prefix):
    torch.manual_seed(1)
    state = torchvision.models.resnet18(num_classes=10).state_dict()
    path = tmp_path / f"w{suffix}"
    named = {prefix + name: value for name, value in state.items()}
    save_file(named, path) if suffix == ".safetensors" else torch.save({"state_dict": named}, path)
    body = make_body("resnet18")
    loaded = load_weights(body, path)
    assert loaded.new == []
    assert sorted(loaded.left_over) == [f"{prefix}fc.bias", f"{prefix}fc.weight"]
    assert all(torch.equal(value, state[name]) for name, value in body.state_dict().items())


def test_a_timm_file_fits_a_torchvision_arch_by_order(tmp_path):
    timm = pytest.importorskip("timm")
    state = timm.create_model("mobilenetv2_100").state_dict()
    torch.save(state, tmp_path / "w.pth")
    body = make_body("mobilenet_v2")
    loaded = load_weights(body, tmp_path / "w.pth")
    assert not [name for name in loaded.new if not name.endswith("num_batches_tracked")]
    assert torch.equal(body.features[0][0].weight, state["conv_stem.weight"])
    assert torch.equal(body.features[18][0].weight, state["conv_head.weight"])


def test_what_is_new_and_left_over_is_said(tmp_path):
    state = make_body("squeezenet1_1").state_dict()
    first = next(iter(state))
    kept = {k: v for k, v in state.items() if k != first} | {"extra": torch.zeros(2)}
    save_file(kept, tmp_path / "w.safetensors")
    said = str(load_weights(make_body("squeezenet1_1"), tmp_path / "w.safetensors"))
    assert said == f"49 tensors matched, 1 new ({first}), 1 left over (extra)"


def test_weights_of_another_arch_are_an_error(tmp_path):
    save_file({"a.weight": torch.zeros(3, 3)}, tmp_path / "w.safetensors")
    with pytest.raises(HistoError, match="none of its 1 tensors fits"):
        load_weights(make_body("squeezenet1_1"), tmp_path / "w.safetensors")


class Evil:
    """A pickle that would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_code_in_a_pth_is_refused_and_not_run(tmp_path):
    torch.save({"weight": Evil(tmp_path / "owned")}, tmp_path / "evil.pth")
    with pytest.raises(HistoError, match="could run code"):
        load_weights(make_body("squeezenet1_1"), tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil(tmp_path / "owned")))
    with pytest.raises(HistoError):
        load_weights(make_body("squeezenet1_1"), tmp_path / "raw.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "of",
    [
        lambda t: torch.empty(t.shape, device="meta"),
        lambda t: t.to_sparse(),
        lambda t: t.to(torch.complex64),
    ],
    ids=["no numbers", "sparse", "complex"],
)
def test_tensors_that_are_no_weights_are_one_line(tmp_path, of):
    """Each has the right shape."""
    state = make_body("squeezenet1_1").state_dict()
    torch.save({name: of(value) for name, value in state.items()}, tmp_path / "w.pth")
    with pytest.raises(HistoError, match=r"w\.pth is refused: .* does not hold plain numbers"):
        load_weights(make_body("squeezenet1_1"), tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\xff" * 8 + b"{}"])
def test_a_damaged_weights_file_is_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HistoError, match=name):
        load_weights(make_body("squeezenet1_1"), tmp_path / name)


@pytest.mark.skipif(not REAL.is_file(), reason="the real weights are not beside this checkout")
def test_the_real_weights_fit_whole():
    body = make_body("squeezenet1_1")
    loaded = load_weights(body, REAL)
    assert (len(loaded.matched), loaded.new, loaded.left_over) == (50, [], [])
    assert torch.equal(body.features[0].weight, load_file(REAL)["features.0.weight"])


def test_an_evil_file_of_weights_says_one_line(dataset, tmp_path):
    """Given to --weights: torch's own warnings about it stay away, and no run is made."""
    torch.save({"weight": Evil(tmp_path / "owned")}, tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil(tmp_path / "owned")))
    for name in ("evil.pth", "raw.pth"):
        words = ("--weights", tmp_path / name, "--out", tmp_path / "run")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert_one_line_error(run_histo("train", dataset, *TINY, *words), name)
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("header", [2**31, 2**63, 2**64 - 1, 100_000_000])
def test_a_vast_header_is_refused_before_it_is_read(tmp_path, header):
    path = tmp_path / "w.safetensors"
    with path.open("wb") as file:
        file.write(header.to_bytes(8, "little") + b"{}")
        file.truncate(min(header, 3 * 2**30) + 8)  # sparse: the file is there, and large
    memory = Memory()
    with pytest.raises(HistoError, match=f"claims a header of {header:,} bytes"):
        read_weights(path)
    assert memory.taken < 2**24


def test_a_zip_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    """A .pth is a zip, and torch packs nothing tighter: a megabyte could be a gigabyte."""
    torch.save(make_body("squeezenet1_1").state_dict(), tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as stored,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in stored.namelist():
            packed.writestr(name, bytes(len(stored.read(name))))
    with pytest.raises(HistoError, match="would unpack to"):
        read_weights(tmp_path / "bomb.pth")
    assert read_weights(tmp_path / "w.pth").keys() == make_body("squeezenet1_1").state_dict().keys()


def test_weights_from_a_pipe_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    with pytest.raises(HistoError, match="is a pipe or a device"):
        read_weights(tmp_path / "w.pth")
