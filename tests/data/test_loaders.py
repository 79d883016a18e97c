"""The DataBlock and its batches."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from fastai.learner import load_learner
from fastai.torch_core import TensorImage, set_seed

from histo.config import ModelCard
from histo.data.augment import TURNS, D4AndStain, UniformD4, colour_change, recolour, turn
from histo.data.decode import cv2
from histo.data.loaders import FromStore, equal_batches, make_loaders, to_device
from histo.data.store import Store
from histo.distributed.prefetch import prefetch
from histo.model.body import IMAGENET_MEAN, IMAGENET_STD, make_body
from histo.model.learner import build_learner
from histo.pixels import d4
from tests.conftest import write_image

N, SIDE = 50, 8
PIXELS = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)
LABELS = [("a", "b", "c")[n % 3] for n in range(N)]
VALID = np.arange(N) % 5 == 0


def loaders(augment="none", batch_size=16, **share):
    return make_loaders(
        Store(PIXELS, np.empty(N, "S40")),
        LABELS,
        VALID,
        ["a", "b", "c"],
        batch_size=batch_size,
        augment=augment,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        device=torch.device("cpu"),
        **share,
    )


def normalised(rows) -> torch.Tensor:
    pixels = torch.from_numpy(PIXELS[rows]).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


def test_validation_gives_every_patch_once_in_order_normalised():
    xs, ys = zip(*loaders(batch_size=3).valid, strict=True)
    assert [len(y) for y in ys] == [3, 3, 2, 2]  # none is left over
    rows = np.flatnonzero(VALID)
    assert torch.allclose(
        torch.cat(list(xs)).as_subclass(torch.Tensor), normalised(rows), atol=1e-6
    )
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
    assert torch.allclose(x.as_subclass(torch.Tensor), normalised([3, 4]), atol=1e-6)


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


@pytest.mark.parametrize("tfm", [UniformD4(), D4AndStain()])
def test_augmentation_leaves_validation_alone(tfm):
    x = TensorImage(torch.rand(4, 3, 8, 8))
    assert torch.equal(tfm(x, split_idx=1), x)


def test_stain_is_a_change_of_colour_after_the_turns_of_d4():
    x = TensorImage(torch.randint(50, 206, (64, 3, 8, 8), dtype=torch.uint8))
    turned, coloured = (
        seeded(tfm)(x, split_idx=0).float() / 255 for tfm in (UniformD4, D4AndStain)
    )
    assert float((coloured - turned).abs().mean((1, 2, 3)).max()) < 0.1
    assert float((coloured - x.float() / 255).abs().mean((1, 2, 3)).max()) > 0.1


def seeded(tfm):
    torch.manual_seed(0)
    return tfm()


def test_stain_is_modest_and_differs_by_patch():
    torch.manual_seed(0)
    x = TensorImage(torch.randint(50, 206, (64, 3, 8, 8), dtype=torch.uint8))
    out = D4AndStain()(x, split_idx=0)
    assert out.dtype == torch.uint8
    shift = (out.float() - x.float()).mean((2, 3)).abs() / 255
    assert 0.001 < float(shift.mean()) < 0.1
    assert len(torch.unique(shift, dim=0)) == 64


def test_a_gpus_turns_are_the_cpus():
    patches = torch.from_numpy(PIXELS[:8])
    ours = turn(patches, torch.arange(8))
    for k in range(8):
        assert torch.equal(ours[k : k + 1], d4.view(patches[k : k + 1], k))
        out = np.empty_like(PIXELS[k])
        TURNS[k](PIXELS[k], out)
        assert np.array_equal(out, ours[k].numpy())
        assert np.array_equal(d4.view(PIXELS[k : k + 1], k)[0], out)


def test_a_gpus_colours_are_the_cpus_to_rounding():
    torch.manual_seed(0)
    patches = torch.from_numpy(PIXELS)
    matrix, brightness = colour_change(torch.rand(N, 4) * 2 - 1)
    ours = recolour(patches, matrix, 255 * brightness)
    torch.manual_seed(0)
    for n in range(N):
        affine = np.hstack([matrix[n].numpy(), np.full((3, 1), 255 * float(brightness[n]))])
        out = cv2.transform(PIXELS[n], affine)
        assert np.abs(out.astype(int) - ours[n].numpy()).max() <= 1


def test_a_batch_comes_map_ahead_and_in_order():
    """As on a GPU: while a batch is used, the next is under way; an error still arrives."""
    made = []

    def make(n):
        made.append(n)
        return 10 // n

    batches = prefetch(make, [10, 5, 2, 0])
    assert next(batches) == 1
    for _ in range(100):
        if len(made) > 1:
            break
        time.sleep(0.01)
    assert made[:2] == [10, 5]
    assert [next(batches), next(batches)] == [2, 5]
    with pytest.raises(ZeroDivisionError):
        next(batches)


def test_the_order_is_another_each_epoch_and_the_same_for_the_same_seed():
    def two_epochs():
        set_seed(3)
        dls = loaders()
        return [torch.cat([y for _, y in dls.train]).tolist() for _ in range(2)]

    first, second = two_epochs()
    assert first != second
    assert two_epochs() == [first, second]


@pytest.mark.parametrize("start", [0, 1, 3])
def test_an_epoch_goes_on_from_any_batch_to_the_same_end(start: int):
    """From behind its last batch, too: there it ends at once, and the next is whole."""
    whole, late = loaders("stain", seed=1).train, loaders("stain", seed=1).train
    late.start = start
    for skipped in (start, 0):
        for (x, y), (x_late, y_late) in zip([*whole][skipped:], late, strict=True):
            assert torch.equal(x, x_late)
            assert torch.equal(y, y_late)


def test_a_store_that_fits_is_gathered_from_the_device_alike():
    source = FromStore(Store(PIXELS, np.empty(N, "S40")), torch.device("cpu"))
    rows = np.array([4, 1, 4])
    from_disk = source.batch(source.asked(rows))
    source.resident = to_device(source.store, torch.device("cpu"))
    assert torch.equal(source.batch(source.asked(rows)), from_disk)


def test_an_exported_learner_leaves_the_patches_out_and_still_reads_files(tmp_path):
    card = ModelCard("squeezenet1_1", ["a", "b", "c"], 32, None, 32, IMAGENET_MEAN, IMAGENET_STD)
    pixels = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)
    store = Store(pixels, np.empty(N, "S40"))
    where = {"batch_size": 16, "augment": "stain", "mean": card.mean, "std": card.std}
    dls = make_loaders(store, LABELS, VALID, card.vocab, device=torch.device("cpu"), **where)
    learn = build_learner(dls, make_body(card.arch), 512, card, "fp32")
    expected, targets = learn.get_preds()
    assert [dls.vocab[t] for t in targets] == [LABELS[r] for r in np.flatnonzero(VALID)]
    write_image(tmp_path / "a.png", pixels[VALID][0])
    learn.export(tmp_path / "learn.pkl")
    again = load_learner(tmp_path / "learn.pkl")
    with again.no_bar():
        got, _ = again.get_preds(dl=again.dls.test_dl([tmp_path / "a.png"]))
    assert torch.allclose(got[0], expected[0], atol=1e-5)
    assert pixels[0].tobytes() not in (tmp_path / "learn.pkl").read_bytes()


@pytest.mark.parametrize("world", [2, 4])
def test_shares_of_several_processes_are_the_batches_of_one(world: int):
    """No patch twice, none left out, the same order, and the same augmentation of each."""
    one = list(loaders(batch_size=7, augment="stain").train)
    shares = [
        list(loaders(batch_size=7, augment="stain", rank=r, world=world).train)
        for r in range(world)
    ]
    for number, (patches, labels) in enumerate(one):
        for rank in range(world):
            mine, known = shares[rank][number]
            assert torch.equal(mine, patches[rank::world])
            assert torch.equal(known, labels[rank::world])


def test_no_patch_is_left_over_whatever_the_number_of_processes():
    """1,003 patches in batches of 64 over 4 processes."""
    batches = equal_batches(np.arange(1003), 64)
    assert {len(batch) for batch in batches} == {62, 63}
    shares = [batch[rank::4] for rank in range(4) for batch in batches]
    assert sorted(np.concatenate(shares).tolist()) == list(range(1003))
