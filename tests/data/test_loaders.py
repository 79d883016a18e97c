"""The DataBlock and its batches."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from fastai.learner import load_learner
from fastai.torch_core import TensorImage, set_seed

from histo.config import ModelCard, TrainConfig
from histo.data.augment import (
    AUGMENTATIONS,
    Draw,
    change_colours,
    colour_change,
    d4,
    gather_views,
    none,
    stain,
)
from histo.data.dataset import Dataset
from histo.data.decode import cv2
from histo.data.loaders import FromStore, equal_batches, to_device
from histo.data.store import Store
from histo.data.transforms import Augmented
from histo.distributed.prefetch import prefetch
from histo.model.body import IMAGENET_MEAN, IMAGENET_STD, make_body
from histo.pixels.d4 import view
from histo.run.split import Split
from histo.training.recipe import make_learner, make_loaders
from tests.conftest import write_image

N, SIDE = 50, 8
PIXELS = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)
LABELS = [("a", "b", "c")[n % 3] for n in range(N)]
VALID = np.arange(N) % 5 == 0
CPU = torch.device("cpu")


def loaders(augment="none", batch_size=16, *, pixels=PIXELS, seed=0, share=(0, 1)):
    """The loaders of `pixels`, 40 of which train and 10 validate."""
    store = Store(pixels, np.empty(N, "S40"))
    data = Dataset(
        [str(n) for n in range(N)], LABELS, VALID, ["a", "b", "c"], store, Split("random")
    )
    config = TrainConfig("unused", augment=augment, seed=seed)
    return make_loaders(data, card_of(pixels.shape[1]), config, CPU, batch_size, share)


def card_of(side):
    return ModelCard(
        "squeezenet1_1", ["a", "b", "c"], side, None, None, IMAGENET_MEAN, IMAGENET_STD
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


def draw(count, seed=0):
    """Random numbers for `count` patches, from a seed."""
    torch.manual_seed(seed)
    return Draw(count, CPU)


def test_the_eight_views_are_all_of_d4_and_exact():
    patch = torch.arange(9).view(1, 3, 3, 1)
    ours = {tuple(view(patch, k).flatten().tolist()) for k in range(8)}
    rotated = [torch.rot90(p, k, (1, 2)) for k in range(4) for p in (patch, patch.flip(1))]
    assert ours == {tuple(p.flatten().tolist()) for p in rotated}
    assert torch.equal(view(patch, 0), patch)


def test_each_view_is_given_equally_often():
    patches = torch.arange(16, dtype=torch.uint8).view(1, 4, 4, 1).expand(8000, 4, 4, 3)
    out = d4(patches.contiguous(), draw(8000))[..., 0].flatten(1)
    counts = torch.unique(out, dim=0, return_counts=True)[1]
    assert len(counts) == 8
    chi2 = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi2 < 24.3  # 0.1 % of chi-square with 7 degrees of freedom


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_validation_is_not_augmented(name):
    """Neither on the way into the loader's batches."""
    x = TensorImage(torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8))
    augmented = Augmented(AUGMENTATIONS[name], 4)
    assert torch.equal(augmented(x, split_idx=1), x)
    assert torch.equal(augmented(x, split_idx=0), x) == (name == "none")


def test_none_leaves_the_patches_as_they_are():
    assert torch.equal(none(torch.from_numpy(PIXELS), draw(N)), torch.from_numpy(PIXELS))


def test_stain_is_a_modest_change_of_colour_after_the_turns_of_d4():
    patches = torch.randint(50, 206, (64, 8, 8, 3), dtype=torch.uint8)
    turned, coloured = (made(patches, draw(64)).float() / 255 for made in (d4, stain))
    assert float((coloured - turned).abs().mean((1, 2, 3)).max()) < 0.1
    assert float((coloured - patches.float() / 255).abs().mean((1, 2, 3)).max()) > 0.1
    shift = (coloured - turned).mean((1, 2)).abs()
    assert 0.001 < float(shift.mean()) < 0.1
    assert len(torch.unique(shift, dim=0)) == 64


def test_views_on_a_gpu_are_those_on_a_cpu():
    """Both are the views of the prediction, whichever way they are computed."""
    patches = torch.from_numpy(PIXELS)
    numbers = draw(N).integers(8)
    expected = torch.cat([view(patches[n : n + 1], int(k)) for n, k in enumerate(numbers)])
    assert torch.equal(gather_views(patches, numbers), expected)
    assert torch.equal(d4(patches, draw(N)), expected)


def test_colours_on_a_gpu_are_those_on_a_cpu_to_rounding():
    patches = torch.from_numpy(PIXELS)
    matrix, brightness = colour_change(draw(N).uniform(4) * 2 - 1)
    ours = change_colours(patches, matrix, 255 * brightness)
    for n in range(N):
        affine = np.hstack([matrix[n].numpy(), np.full((3, 1), 255 * float(brightness[n]))])
        expected = cv2.transform(PIXELS[n], affine)
        assert np.abs(expected.astype(int) - ours[n].numpy()).max() <= 1


def test_batches_are_made_ahead_and_come_in_order():
    """As for a GPU: while a batch is used, the next is being made; an error still arrives."""
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
    source = FromStore(Store(PIXELS, np.empty(N, "S40")), CPU)
    rows = np.array([4, 1, 4])
    from_disk = source.batch(source.rows_on_device(rows))
    source.resident = to_device(source.store, CPU)
    assert torch.equal(source.batch(source.rows_on_device(rows)), from_disk)


def test_an_exported_learner_leaves_the_patches_out_and_still_reads_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)
    dls, card = loaders("stain", pixels=pixels), card_of(32)
    learn = make_learner(dls, make_body(card.arch), 512, card)
    with learn.no_bar():
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
        list(loaders(batch_size=7, augment="stain", share=(r, world)).train) for r in range(world)
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
