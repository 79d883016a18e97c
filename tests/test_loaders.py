"""The DataBlock and its batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fastai.torch_core import TensorImage

from histo import d4
from histo.data.loaders import StainJitter, UniformD4, make_loaders
from histo.data.store import Store
from histo.model.body import IMAGENET_MEAN, IMAGENET_STD

N, SIDE = 50, 8
PIXELS = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)
LABELS = [("a", "b", "c")[n % 3] for n in range(N)]
VALID = np.arange(N) % 5 == 0


def loaders(augment="none", batch_size=16):
    return make_loaders(
        Store(PIXELS, [""] * N),
        LABELS,
        VALID,
        ["a", "b", "c"],
        batch_size=batch_size,
        augment=augment,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        device=torch.device("cpu"),
    )


def normalised(rows) -> torch.Tensor:
    pixels = torch.from_numpy(PIXELS[rows]).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


def test_validation_gives_every_patch_once_in_order_normalised():
    xs, ys = zip(*loaders(batch_size=3).valid, strict=True)
    assert [len(y) for y in ys] == [3, 3, 3, 1]  # uneven last batch kept
    rows = np.flatnonzero(VALID)
    assert torch.allclose(torch.cat(list(xs)).as_subclass(torch.Tensor), normalised(rows))
    assert ["abc"[int(y)] for y in torch.cat(list(ys))] == [LABELS[r] for r in rows]


def test_training_gives_other_patches_each_once_shuffled_with_their_labels():
    dls = loaders(batch_size=10)
    xs, ys = zip(*dls.train, strict=True)
    x = torch.cat(list(xs)).as_subclass(torch.Tensor)
    expected = normalised(np.flatnonzero(~VALID))
    match = torch.cdist(x.flatten(1), expected.flatten(1)).argmin(1)
    assert sorted(match.tolist()) == list(range(40))
    assert match.tolist() != list(range(40))
    rows = np.flatnonzero(~VALID)[match.numpy()]
    assert ["abc"[int(y)] for y in torch.cat(list(ys))] == [LABELS[r] for r in rows]


def test_batches_are_channels_last():
    x, _ = loaders("stain").one_batch()
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_show_batch_and_test_dl_work():
    dls = loaders()
    dls.show_batch(max_n=4)
    (x,) = dls.test_dl([3, 4]).one_batch()
    assert torch.allclose(x.as_subclass(torch.Tensor), normalised([3, 4]))


def test_the_eight_views_are_all_of_d4_and_exact():
    patch = torch.arange(9).view(1, 3, 3, 1)
    ours = {tuple(d4.view(patch, k).flatten().tolist()) for k in range(8)}
    rotated = [torch.rot90(p, k, (1, 2)) for k in range(4) for p in (patch, patch.flip(1))]
    assert ours == {tuple(p.flatten().tolist()) for p in rotated}
    assert torch.equal(d4.view(patch, 0), patch)


def test_augmentation_gives_each_view_equally_often():
    torch.manual_seed(0)
    patch = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).expand(8000, 3, 4, 4)
    out = UniformD4()(TensorImage(patch), split_idx=0)[:, 0].flatten(1)
    counts = torch.unique(out, dim=0, return_counts=True)[1]
    assert len(counts) == 8
    chi2 = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi2 < 24.3  # 0.1 % of chi-square with 7 degrees of freedom


@pytest.mark.parametrize("tfm", [UniformD4(), StainJitter()])
def test_augmentation_leaves_validation_alone(tfm):
    x = TensorImage(torch.rand(4, 3, 8, 8))
    assert torch.equal(tfm(x, split_idx=1), x)


def test_stain_jitter_is_modest_differs_by_patch_and_stays_in_range():
    torch.manual_seed(0)
    x = TensorImage(torch.rand(64, 3, 8, 8) * 0.6 + 0.2)
    out = StainJitter()(x, split_idx=0)
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
    shift = (out - x).mean((2, 3)).abs()
    assert 0.001 < float(shift.mean()) < 0.1
    assert len(torch.unique(shift[:, 0])) == 64
