"""Foundation models by name: construction, names of tensors, pooling; with random weights alone."""

from __future__ import annotations

import json
import pickle
import re
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

pytest.importorskip("timm")

from histo.config import ModelCard
from histo.errors import HistoError
from histo.model.body import load_weights, make_body, normalisation
from histo.model.bundle import write_onnx
from histo.model.foundation import FOUNDATIONS
from histo.model.foundation_body import make_foundation
from tests.conftest import assert_one_line_error, run_histo

PUBLISHED = {
    "uni": (303.4, 1024),
    "uni2-h": (681.4, 1536),
    "virchow2": (631.2, 2560),
    "h-optimus-0": (1130, 1536),
    "h-optimus-1": (1130, 1536),
    "prov-gigapath": (1130, 1536),
    "hibou-b": (85.7, 768),
    "hibou-l": (303.7, 1024),
    "phikon-v2": (303.4, 1024),
    "midnight": (1140, 3072),
    "kaiko-vits16": (21.7, 384),
    "kaiko-vits8": (21.7, 384),
    "kaiko-vitb16": (85.8, 768),
    "kaiko-vitb8": (85.8, 768),
    "kaiko-vitl14": (304, 1024),
    "ctranspath": (27.5, 768),
}
"""Millions of parameters, and features, as published."""


@pytest.mark.slow
@pytest.mark.parametrize("arch", FOUNDATIONS)
def test_it_has_the_parameters_and_the_features_that_were_published(arch, monkeypatch):
    """The whole model takes no memory here; its features are computed by a model of one block."""
    millions, features = PUBLISHED[arch]
    with torch.device("meta"), monkeypatch.context() as context:
        # timm 1.0.3 reads rates of dropping paths from a tensor, which needs its values
        context.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
        whole = sum(p.numel() for p in make_foundation(arch).parameters()) / 1e6
    assert whole == pytest.approx(millions, rel=0.01)
    body = make_foundation(arch, depth=1).eval()
    with torch.no_grad():
        assert body(torch.zeros(1, 3, 224, 224)).shape == (1, features)
    assert normalisation(body) == tuple(list(part) for part in FOUNDATIONS[arch].stats)
    assert b"histo" not in pickle.dumps(body)  # so that learner.pkl loads where histo is not


def test_the_mean_of_tokens_leaves_registers_out():
    """Virchow2: the class token, four registers, the patches."""
    body = make_foundation("virchow2", depth=1).eval()
    assert isinstance(body, nn.Sequential)
    patches = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        tokens, found = body[0](patches), body(patches)
    assert tokens.shape == (2, 1 + 4 + 256, 1280)
    assert torch.allclose(found, torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], 1))


def dinov2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of DINOv2's own code, which Hibou's has; with registers, positions are of the class too."""
    found = {"mask_token": torch.zeros(1, state["cls_token"].shape[-1])}
    for name, value in state.items():
        new = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        found[new.replace("reg_token", "register_tokens")] = value
    if "register_tokens" in found:
        first = torch.rand_like(found["cls_token"])
        found["cls_token"] = found["cls_token"] - first
        found["pos_embed"] = torch.cat([first, found["pos_embed"]], 1)
    return found


GATED = {
    **{"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"},
    **{"mlp.w12": "mlp.weights_in", "mlp.w3": "mlp.weights_out"},
}


def transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of Dinov2Model of the package transformers, which Phikon-v2 and Midnight have."""
    found = {}
    wide, narrow = state["blocks.0.mlp.fc1.weight"], state["blocks.0.mlp.fc2.weight"]
    swiglu = wide.shape[0] == 2 * narrow.shape[1]
    source = dinov2(state) if "reg_token" in state else dict(state)
    for name, value in source.items():
        if match := re.match(r"blocks\.(\d+)\.attn\.qkv\.(\w+)", name):
            number, kind = match.groups()
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                place = f"encoder.layer.{number}.attention.attention.{part}.{kind}"
                found[place] = third.clone()
            continue
        new = re.sub(r"^blocks\.", "encoder.layer.", re.sub(r"^norm\.", "layernorm.", name))
        new = re.sub(r"^pos_embed$", "embeddings.position_embeddings", new)
        new = re.sub(r"^(cls_token|mask_token|register_tokens)", r"embeddings.\1", new)
        for ours, theirs in {
            "patch_embed.proj": "embeddings.patch_embeddings.projection",
            "attn.proj": "attention.output.dense",
            "ls1.gamma": "layer_scale1.lambda1",
            "ls2.gamma": "layer_scale2.lambda1",
            **(GATED if swiglu else {}),
        }.items():
            new = new.replace(ours, theirs)
        found[new] = value
    return {"embeddings.mask_token": torch.zeros(1, 1), **found}


def old_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of ctranspath.pth: downsampling at the end of a stage, and buffers."""
    found = {
        re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name): v
        for name, v in state.items()
    }
    return {**found, "layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "names"),
    [
        ("uni", dict),
        ("virchow2", dict),
        ("hibou-b", dinov2),
        ("hibou-b", transformers),
        ("kaiko-vitl14", dinov2),
        ("phikon-v2", transformers),
        ("midnight", transformers),
        ("ctranspath", old_swin),
    ],
)
def test_published_names_load_and_give_the_same_features(arch, names, tmp_path, monkeypatch):
    torch.manual_seed(0)
    first, second = (make_foundation(arch, depth=1).eval() for _ in range(2))
    inner = first[0] if FOUNDATIONS[arch].mean_of_tokens else first
    path = tmp_path / "published.safetensors"
    state = {k: v.contiguous() for k, v in names(inner.state_dict()).items()}
    save_file(state, path)
    loaded = load_weights(second, path)
    assert not loaded.new
    patches = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(first(patches), second(patches), atol=1e-4)


def test_positions_of_another_size_are_resampled(tmp_path):
    """kaiko's ViT-L/14 was published for 518 px."""
    import timm

    larger = timm.create_model(
        "vit_large_patch14_reg4_dinov2", img_size=518, num_classes=0, depth=1, dynamic_img_size=True
    ).eval()
    save_file(
        {k: v.contiguous() for k, v in larger.state_dict().items()}, tmp_path / "w.safetensors"
    )
    body = make_foundation("kaiko-vitl14", depth=1).eval()
    load_weights(body, tmp_path / "w.safetensors")
    patches = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(body(patches), larger(patches), atol=1e-4)


def test_weights_of_another_model_are_refused(tmp_path):
    other = make_foundation("kaiko-vits16", depth=1)
    save_file(
        {k: v.contiguous() for k, v in other.state_dict().items()}, tmp_path / "w.safetensors"
    )
    with pytest.raises(HistoError, match=r"w\.safetensors is not of uni: \d+ of its \d+ tensors"):
        load_weights(make_foundation("uni", depth=1), tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("arch", "other"), [("kaiko-vits8", "kaiko-vits16"), ("kaiko-vitb16", "kaiko-vitb8")]
)
def test_weights_for_patches_of_another_side_are_refused(arch, other, tmp_path):
    """Of the same width and depth: timm would resample them, to features of neither model."""
    state = make_foundation(other, depth=1).state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "w.safetensors")
    with pytest.raises(HistoError, match=rf"not of {arch}: 1 of its .*, patch_embed.proj.weight"):
        load_weights(make_foundation(arch, depth=1), tmp_path / "w.safetensors")


def test_the_teacher_of_a_checkpoint_is_what_is_loaded(tmp_path):
    """Checkpoints of self-supervised training hold a student too."""
    state = make_foundation("kaiko-vits16", depth=1).state_dict()
    teacher = {f"backbone.{name}": value for name, value in state.items()}
    student = {name: value * 0 for name, value in teacher.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 3}, tmp_path / "checkpoint.pth")
    body = make_foundation("kaiko-vits16", depth=1)
    assert not load_weights(body, tmp_path / "checkpoint.pth").new
    assert all(torch.equal(value, state[name]) for name, value in body.state_dict().items())


@pytest.mark.slow
def test_a_body_with_the_mean_of_tokens_becomes_onnx(tmp_path):
    body = make_foundation("virchow2", depth=1)
    model = nn.Sequential(nn.Sequential(body), nn.Sequential(nn.Linear(2560, 2)))
    mean, std = normalisation(body)
    card = ModelCard("virchow2", ["0", "1"], 224, None, 224, mean, std, head=0)
    assert write_onnx(tmp_path / "model.onnx", model.eval(), card) is not None


class Refuses(BaseHTTPRequestHandler):
    """A hub that says of every file that it is gated."""

    def do_HEAD(self) -> None:
        """What the hub sends."""
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on the screen."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The hub, here."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", here)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield
    server.shutdown()


def test_a_gated_hub_that_refuses_names_the_ways_out(hub, monkeypatch):
    """The body is not the slow part of the test: it has one block."""
    small = make_foundation("uni", depth=1)
    monkeypatch.setattr("histo.model.body.make_foundation", lambda _: small)
    with pytest.raises(HistoError) as refused:
        make_body("uni", imagenet=True)
    assert str(refused.value) == (
        "https://huggingface.co/MahmoodLab/UNI refuses its weights: its owners grant access on "
        "request (ask there, then log in to the hub: hf auth login, or give weights= a file that you "
        "copied here)"
    )


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_said_to_be_so(monkeypatch, tmp_path):
    nowhere = "http://127.0.0.1:9/{repo_id}/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    small = make_foundation("uni", depth=1)
    monkeypatch.setattr("histo.model.body.make_foundation", lambda _: small)
    with pytest.raises(HistoError, match="could not be downloaded: the hub cannot be reached"):
        make_body("uni", imagenet=True)


@pytest.fixture(scope="module")
def kaiko(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe on the smallest of them, with random weights in a file."""
    folder = tmp_path_factory.mktemp("kaiko")
    state = make_foundation("kaiko-vits16").state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "vits16.safetensors")
    words = ["--probe", "--views", 1, "--arch", "kaiko-vits16", "--no-store", "--device", "cpu"]
    words += ["--weights", folder / "vits16.safetensors", "--out", folder / "run"]
    result = run_histo("train", dataset, *words)
    assert result.exit_code == 0, result.output
    assert "kaiko-vits16: licence of its weights Kaiko Non-Commercial" in result.stdout
    assert run_histo("export", folder / "run", "--no-pickle").exit_code == 0
    return folder / "run"


@pytest.mark.long
def test_licence_and_access_are_in_the_card_of_the_bundle(kaiko):
    card = json.loads((kaiko / "export" / "model.json").read_text())
    assert (card["arch"], card["size"], card["patch_size"]) == ("kaiko-vits16", 224, 224)
    assert card["weights"] == {
        "source": "vits16.safetensors",
        "licence": "Kaiko Non-Commercial Public License 1",
        "repository": "https://huggingface.co/1aurent/vit_small_patch16_224."
        "kaiko_ai_towards_large_pathology_fms",
        "access": "open",
    }
    assert (card["mean"], card["std"]) == ([0.5] * 3, [0.5] * 3)


def test_a_missing_weights_file_of_a_foundation_model_is_one_line(dataset, tmp_path):
    words = ["--arch", "uni", "--weights", tmp_path / "none.pth", "--out", tmp_path / "run"]
    assert_one_line_error(run_histo("train", dataset, *words), "no weights file")
