"""Labels, groups, exclusions and split of a run, joined."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from histo.config import TrainConfig
from histo.data.dataset import Dataset, load_dataset
from histo.data.label_table import read_label_table
from histo.errors import HistoError
from histo.run.split import Leak
from histo.screen import Screen
from tests.conftest import write_image


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """40 patches of 8 slides, of which p01 is a copy of p00."""
    (tmp_path / "train").mkdir()
    rng = np.random.default_rng(0)
    for n in range(40):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        write_image(tmp_path / "train" / f"p{n:02d}.png", pixels)
    shutil.copy(tmp_path / "train" / "p00.png", tmp_path / "train" / "p01.png")
    sides = ["valid" if n % 5 == 0 else "train" for n in range(40)]
    write(
        tmp_path / "train_labels.csv", "id,label,side", [f"{n % 2},{sides[n]}" for n in range(40)]
    )
    write(tmp_path / "slides.csv", "id,slide", [f"s{n // 5}" for n in range(40)])
    return tmp_path


def write(path: Path, header: str, values: list[str]) -> None:
    rows = [f"p{n:02d},{value}" for n, value in enumerate(values)]
    path.write_text("\n".join([header, *rows]) + "\n")


def read(data: Path, **settings: object) -> Dataset:
    config = TrainConfig(data, no_store=True, **settings)  # type: ignore[arg-type]
    screen = Screen(quiet=True)
    return load_dataset(config, read_label_table(config, screen), screen)


def test_a_random_split_keeps_copies_together(data):
    for seed in range(10):
        patches = read(data, seed=seed)
        assert patches.split.kind == "random"
        assert patches.valid[0] == patches.valid[1]
        assert patches.split.leak == Leak()


def test_groups_stay_on_one_side_and_are_named(data):
    patches = read(data, groups=str(data / "slides.csv"))
    assert patches.groups == [f"s{n // 5}" for n in range(40)]
    assert (patches.split.kind, patches.split.column, patches.split.groups) == (
        "grouped",
        "slide",
        8,
    )
    assert len({(g, v) for g, v in zip(patches.groups, patches.valid, strict=True)}) == 8


def test_groups_that_look_alike_are_noted_before_training(data, capsys):
    write(
        data / "slides.csv", "id,slide", [["S1 ", "s1", "2", "2.0", "x"][n // 8] for n in range(40)]
    )
    config = TrainConfig(data, no_store=True, groups=str(data / "slides.csv"))
    load_dataset(config, read_label_table(config, Screen()), Screen())
    said = capsys.readouterr().out
    assert "note: names of groups (slide) that look alike: 'S1', 's1'\n" in said
    assert "note: names of groups (slide) that look alike: '2', '2.0'\n" in said


def test_the_column_of_the_groups_can_be_named(data):
    table = data / "slides.csv"
    table.write_text(table.read_text().replace("id,slide", "id,hall"))
    assert read(data, groups=f"{table}:hall").split.column == "hall"
    assert read(data, groups=str(table)).split.column == "hall"
    with pytest.raises(HistoError, match="no column 'ward'"):
        read(data, groups=f"{table}:ward")


def test_a_patch_without_a_group_is_one_line(data):
    table = data / "slides.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(HistoError, match="names no group for the patch p39"):
        read(data, groups=str(table))


def test_a_given_split_that_leaks_is_refused_unless_it_is_allowed(data):
    given = {"split_column": "side", "groups": str(data / "slides.csv")}
    with pytest.raises(HistoError, match="8 slides on both sides, as s0, s1, s2") as error:
        read(data, **given)
    assert "1 patch with equals on the other side, as p00" in str(error.value)
    assert "allow_leak= trains all the same" in str(error.value)
    assert "s0, s1, s2" in str(read(data, **given, allow_leak=True).split.leak)


def test_excluded_patches_are_left_out(data):
    (data / "out.csv").write_text("id\np00\np39\nunknown\n")
    ids = read(data, exclude=data / "out.csv").ids
    assert len(ids) == 38
    assert not {"p00", "p39"} & set(ids)


def test_exclusions_that_leave_nothing_are_refused(data):
    (data / "out.csv").write_text("\n".join(["id", *(f"p{n:02d}" for n in range(40))]))
    with pytest.raises(HistoError, match=r"out.csv leaves no patch to train on"):
        read(data, exclude=data / "out.csv")
