"""What training says of near-duplicates across the split, and of names that are formulas."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from histo.config import TrainConfig
from histo.data.dataset import load_dataset
from histo.data.decode import read_patch
from histo.data.label_table import read_label_table
from histo.screen import Screen
from tests.conftest import SHARED, run_histo, write_image


def load(data: Path) -> None:
    config = TrainConfig(data, split_column="split", no_store=True)
    load_dataset(config, read_label_table(config, Screen()), Screen())


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real patches are not here")
def test_turned_patches_on_both_sides_are_noted_before_training(tmp_path, capsys):
    """40 real patches; two of those that validate are training patches, turned and saved as JPEG."""
    images = tmp_path / "train"
    images.mkdir()
    real = sorted((SHARED / "pcam-mini" / "train").iterdir())[:40]
    for n, path in enumerate(real):
        shutil.copy(path, images / f"{n}.tif")
    rows = [f"{n},{n % 2},{'valid' if n < 20 else 'train'}" for n in range(40)]
    labels = tmp_path / "train_labels.csv"
    labels.write_text("\n".join(["id,label,split", *rows]))
    load(tmp_path)
    assert "nearly equal" not in capsys.readouterr().out
    for n in (3, 4):
        (images / f"{n}.tif").unlink()
        write_image(images / f"{n}.jpg", np.rot90(read_patch(real[30 + n])))
    load(tmp_path)
    said = "note: 2 of 20 validation patches compared nearly equal a training patch, as 3 and 33"
    assert said in capsys.readouterr().out


def test_names_that_a_spreadsheet_takes_for_formulas_are_noted(tmp_path, capsys):
    (tmp_path / "train").mkdir()
    for n, name in enumerate(["=1+1", "a", "-2", "@x"]):
        write_image(tmp_path / "train" / f"{name}.png", np.full((8, 8, 3), 9 * n, np.uint8))
    (tmp_path / "train_labels.csv").write_text(
        "id,label,split\n=1+1,0,train\na,1,train\n-2,0,valid\n@x,1,valid\n"
    )
    load(tmp_path)
    said = "note: 2 names that a spreadsheet takes for a formula, as '=1+1'"
    assert said in capsys.readouterr().out
    result = run_histo("predict", tmp_path / "none", tmp_path / "train")
    assert said in result.stdout
