"""histo check: what it says of good data and of bad."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from histo.data.patch_files import list_patches
from histo.data.store import open_store
from histo.pixels.fit import Fit
from histo.screen import Screen
from tests.conftest import run_histo, write_image


def test_check_of_good_data_ends_well(dataset, tmp_path):
    result = run_histo("check", dataset, "--out", tmp_path / "check")
    assert result.exit_code == 0
    assert "all 160 ids are the SHA-1 of their pixels" in result.stdout
    assert "is ready to train on" in result.stdout


def test_check_says_how_large_the_store_is_or_will_be(dataset, tmp_path):
    words = ("check", dataset, "--store", tmp_path / "store", "--out", tmp_path / "check")
    before = run_histo(*words).stdout
    assert "none yet; training will make one of 1.1 MB" in before
    assert pytest.approx(1.1, abs=0.05) == 160 * 48 * 48 * 3 / 1e6
    paths = list_patches(dataset / "train")
    open_store(paths, tmp_path / "store", Fit(), Screen(quiet=True))
    on_disk = sum(path.stat().st_size for path in (tmp_path / "store").iterdir())
    said = run_histo(*words).stdout
    assert f"store: {on_disk / 1e6:.1f} MB in " in said


def test_check_finds_what_is_wrong_and_names_it(tmp_path):
    (tmp_path / "train").mkdir()
    rng = np.random.default_rng(0)
    for name in "abcdef":
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        write_image(tmp_path / "train" / f"{name}.png", pixels)
    shutil.copy(tmp_path / "train" / "a.png", tmp_path / "train" / "same.png")
    write_image(tmp_path / "train" / "big.png", np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "train" / "bad.png").write_text("no")
    (tmp_path / "train_labels.csv").write_text(
        "id,label\na,0\nb,1\nc,0\nd,1\nbig,1\nbad,0\nsame,0\nghost,1\nc,1\nd,1\n"
    )
    result = run_histo("check", tmp_path, "--out", tmp_path / "check")
    assert result.exit_code == 1
    for said in (
        "1 label without a patch\n  ghost",
        "2 patches without a label\n  e.png\n  f.png",
        "1 id twice, with different labels\n  c (lines 4, 10)",
        "1 id twice, with the same label (train keeps one)\n  d (lines 5, 11)",
        "1 patch that cannot be read",
        "big.png: 20x20 px",
        "a.png, same.png",
    ):
        assert said in result.stdout
