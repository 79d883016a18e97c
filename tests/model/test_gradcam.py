"""Grad-CAM: maps that a model makes at the end of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from histo.config import ModelCard
from histo.model.body import make_body
from histo.model.checkpoint import on_cpu, save_best
from histo.model.gradcam import SAMPLE, SHEET, choose, grad_cam, last_map, save_gradcam
from histo.pixels import d4
from histo.run.folder import RunFolder
from histo.run.gradcam import GRADCAM, GradCam, read_gradcam
from histo.run.predictions import Predictions, read_predictions, write_predictions
from histo.screen import Screen

CARD = ModelCard("tiny", ["no", "yes"], 32, None, None, [0.5] * 3, [0.5] * 3)


def small_model(channels: int = 8) -> nn.Sequential:
    """A body with an 8x8 map of 32 px patches, nested as fastai nests it, and a head."""
    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(4),
        nn.Conv2d(channels, channels, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return nn.Sequential(nn.Sequential(body), nn.Linear(channels, 2))


def spotted(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise [N, 3, 32, 32]; half with a red spot of 4 px in one of 8x8 cells; labels; the cells."""
    draw = torch.Generator().manual_seed(seed)
    patches = 0.3 * torch.randn(n, 3, 32, 32, generator=draw)
    labels = torch.arange(n) % 2
    cells = torch.randint(8, (n, 2), generator=draw)
    for patch, label, (row, column) in zip(patches, labels, cells.tolist(), strict=True):
        if label:
            patch[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 3
    return patches, labels, cells


def test_a_model_that_learnt_a_spot_is_seen_to_look_at_the_spot():
    """Nothing but the spot tells the classes apart: the map's peak must be its cell."""
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(60):
        patches, labels, _ = spotted(64, step)
        optimizer.zero_grad()
        cross_entropy(model(patches), labels).backward()
        optimizer.step()
    patches, labels, cells = spotted(200, 1000)
    maps, called = grad_cam(model.eval(), last_map(model[0], 32), patches)
    assert (called == labels).float().mean() > 0.95
    found = (called == 1) & (labels == 1)
    peaks = maps.flatten(1).argmax(1)
    hit = peaks[found] == (8 * cells[:, 0] + cells[:, 1])[found]
    assert hit.float().mean() > 0.95
    assert maps.amax((1, 2))[found].tolist() == pytest.approx([1] * int(found.sum()))


def test_what_moves_all_logits_alike_moves_no_map():
    """No answer changes by it, so no reason does."""
    model, patches = small_model().eval(), spotted(8, 0)[0]
    before, _ = grad_cam(model, "0.4", patches)
    with torch.no_grad():
        model[1].weight += torch.randn(1, 8)
    after, _ = grad_cam(model, "0.4", patches)
    assert torch.allclose(before, after, atol=1e-5)


def test_a_turned_patch_has_a_turned_map():
    model, patches = small_model().eval(), spotted(8, 0)[0]
    model[0][0][0] = nn.Conv2d(3, 8, 1)  # sees no direction
    maps, _ = grad_cam(model, "0.4", patches)
    for k in range(d4.VIEWS):
        turned = d4.view(patches.permute(0, 2, 3, 1), k).permute(0, 3, 1, 2).contiguous()
        seen, _ = grad_cam(model, "0.4", turned)
        assert torch.allclose(d4.view(maps[..., None], k)[..., 0], seen, atol=1e-5), k


def test_the_map_is_selvarajus_by_hand():
    """One linear layer over the mean of the map: channel weights are differences of its rows."""
    model, patches = small_model().eval(), spotted(8, 0)[0]
    features = model[0][0][:5](patches)
    called = model(patches).argmax(1)
    rows = model[1].weight[called] - model[1].weight[1 - called]
    expected = (rows[:, :, None, None] * features).sum(1).relu()
    expected = expected / expected.amax((1, 2), keepdim=True).clamp(min=1e-30)
    maps, said = grad_cam(model, "0.4", patches)
    assert torch.equal(said, called)
    assert torch.allclose(maps, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "layer", "cells"),
    [
        ("resnet18", "0.layer4", 3),
        ("squeezenet1_1", "0.features", 5),
        ("densenet121", "0.features", 3),
        ("convnext_tiny", "0.features", 3),
        ("efficientnet_b0", "0.features", 3),
        ("resnet10t", "0.layer4", 3),  # timm's
    ],
)
def test_the_last_map_is_found_whatever_the_architecture(arch, layer, cells):
    if arch == "resnet10t":
        pytest.importorskip("timm")
    body = nn.Sequential(make_body(arch)).eval()
    assert last_map(body, 96) == layer
    with torch.no_grad():
        features = body(torch.zeros(1, 3, 96, 96)).shape[1]
    model = nn.Sequential(body, nn.Linear(features, 2))
    maps, _ = grad_cam(model, layer, torch.randn(2, 3, 96, 96))
    assert maps.shape == (2, cells, cells)


class Tokens(nn.Module):
    """A transformer in little: a map that becomes a list of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mix = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 8)

    def forward(self, x):
        """Normalised patches to features [B, 8]."""
        return self.mix(self.patches(x).flatten(2).mT).mean(1)


def test_a_model_without_a_last_map_is_said_to_have_none(tmp_path, capsys):
    model = nn.Sequential(nn.Sequential(Tokens()), nn.Linear(8, 2))
    run = RunFolder(tmp_path)
    save_best(run.checkpoint, on_cpu(model.state_dict()))
    save_gradcam(
        run, model, CARD, np.zeros((0, 32, 32, 3), np.uint8).take, np.zeros(0, int), 8, Screen()
    )
    assert capsys.readouterr().out == (
        "note: tiny has no last feature map: no picture of where it looked\n"
    )
    assert not (run.path / GRADCAM).exists()


def test_a_patch_that_shrinks_to_one_place_within_a_block_has_no_map():
    """Half a block's way is not all of the evidence."""
    assert last_map(nn.Sequential(make_body("resnet50")).eval(), 32) is None


def test_mistakes_come_the_surest_first_then_typical_hits_of_each_class_then_a_sample():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=500)
    scores = np.clip(rng.normal(0.3 + 0.4 * labels, 0.25), 0.01, 0.99)
    table = Predictions(
        [str(n) for n in range(500)], labels, np.stack([1 - scores, scores], 1), ["a", "b"]
    )
    rows, drawn = choose(table)
    mistakes, hits, sample = rows[:SHEET], rows[SHEET : 2 * SHEET], rows[drawn]
    called, sure = table.probabilities.argmax(1), table.probabilities.max(1)
    wrong = np.flatnonzero(called != labels)
    assert sure[mistakes].tolist() == sorted(sure[wrong], reverse=True)[:SHEET]
    assert sorted(called[hits]) == [0] * 3 + [1] * 3
    for c in (0, 1):
        right = (called == c) & (labels == c)
        assert np.abs(sure[hits[called[hits] == c]] - np.median(sure[right])).max() < 0.02
    assert len(sample) == len(set(sample)) == SAMPLE
    assert np.array_equal(choose(table)[0], rows)


@pytest.fixture
def looked(tiny_run: Path) -> GradCam:
    """What the session's run kept."""
    found = read_gradcam(tiny_run)
    assert found is not None
    return found


def test_a_run_keeps_maps_of_its_validation_patches(tiny_run, looked):
    table = read_predictions(tiny_run / "predictions.csv")
    assert looked.drawn.sum() == len(table.ids)  # fewer than the sample would be
    assert set(looked.ids) == set(table.ids)
    assert looked.side == 48
    assert looked.maps.shape[1:] == (2, 2)
    assert 0 <= looked.maps.min() < looked.maps.max() == 1
    called = dict(zip(table.ids, table.probabilities.argmax(1), strict=True))
    assert looked.called == [table.vocab[called[name]] for name in looked.ids]


def test_patches_of_a_model_that_is_one_class_sure_are_no_trouble(tmp_path):
    """No mistakes, no hits of one class: the sheet has what there is."""
    write_predictions(
        tmp_path / "p.csv", list("abc"), ["a", "a", "a"], [[0.9, 0.1]] * 3, ["a", "b"]
    )
    rows, drawn = choose(read_predictions(tmp_path / "p.csv"))
    assert sorted(rows[~drawn]) == [0, 1, 2]
