"""Sets that ship as folders: which level is the class, the patient, the split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histo.config import TrainConfig
from histo.data.dataset import Dataset, load_dataset
from histo.data.label_table import LabelTable, read_label_table
from histo.errors import HistoError
from histo.screen import Screen
from tests.conftest import write_image

RNG = np.random.default_rng(3)


def tree(folder: Path, *names: str) -> Path:
    """Random patches of 8 px under these relative paths."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return folder


def read(folder: Path, **settings: object) -> LabelTable:
    return read_label_table(TrainConfig(folder, **settings), Screen())  # type: ignore[arg-type]


def load(folder: Path, **settings: object) -> Dataset:
    config = TrainConfig(folder, no_store=True, **settings)  # type: ignore[arg-type]
    return load_dataset(config, read_label_table(config, Screen()), Screen())


IDC = [f"{8000 + p}/{c}/{n}.png" for p in range(5) for c in range(2) for n in range(3)]


def test_a_folder_for_each_class(tmp_path, capsys):
    """As NCT-CRC-HE and many others ship; ids are the paths."""
    names = [f"{c}/{n}.png" for c in ("benign", "malignant") for n in range(5)]
    table = read(tree(tmp_path, *names))
    assert [(row.id, row.label) for row in table.rows] == [(n, n.split("/")[0]) for n in names]
    assert table.vocab == ["benign", "malignant"]
    assert "classes from level 1: benign, malignant (2)" in capsys.readouterr().out


def test_patients_with_a_folder_for_each_class_are_split_by_patient(tmp_path, capsys):
    """As IDC ships: without a CSV no patient is on both sides."""
    data = load(tree(tmp_path, *IDC))
    assert data.vocab == ["0", "1"]
    assert data.groups == [name.split("/")[0] for name in data.ids]
    assert (data.split.kind, data.split.groups) == ("grouped", 5)
    pairs = zip(data.groups, data.valid.tolist(), strict=True)
    assert len(set(pairs)) == 5
    said = capsys.readouterr().out
    assert "classes from level 2: 0, 1 (2); groups from level 1: 8000, 8001, 8002, … (5)" in said


def test_classes_with_a_folder_for_each_of_many_patients(tmp_path):
    names = [f"{c}/{c}{p:02d}/{n}.png" for c in "ab" for p in range(10) for n in range(2)]
    table = read(tree(tmp_path, *names))
    assert table.vocab == ["a", "b"]
    assert {row.group for row in table.rows} == {f"{c}{p:02d}" for c in "ab" for p in range(10)}


def test_folders_called_train_and_valid_are_the_split(tmp_path):
    """A test folder is not trained on."""
    names = [
        f"{s}/{c}/{s}{n}.png" for s in ("train", "val", "test") for c in "ab" for n in range(4)
    ]
    data = load(tree(tmp_path, *names))
    assert [name.split("/")[0] for name in data.ids] == ["train"] * 8 + ["val"] * 8
    assert data.valid.tolist() == [False] * 8 + [True] * 8
    assert data.split.kind == "folders"


def test_a_split_by_folders_that_leaks_is_refused_as_one_by_a_column_is(tmp_path):
    names = [f"{s}/{c}/{n}.png" for s in ("train", "valid") for c in "ab" for n in range(2)]
    folder = tree(tmp_path, *names)
    (folder / "valid/a/0.png").write_bytes((folder / "train/a/0.png").read_bytes())
    with pytest.raises(HistoError, match="the given split leaks: 1 patch"):
        load(folder)
    assert load(folder, allow_leak=True).split.leak


def test_levels_with_one_name_say_nothing(tmp_path):
    table = read(tree(tmp_path, *(f"set/img/{c}/{n}.png" for c in "ab" for n in range(3))))
    assert table.vocab == ["a", "b"]


SUPER = [f"{organ}/{organ}_{c}/{n}.png" for organ in ("lung", "colon") for c in "ab" for n in "12"]


def test_where_two_levels_could_be_the_class_it_is_asked_for(tmp_path):
    """As in LC25000: lung and colon, each with its own classes."""
    folder = tree(tmp_path, *SUPER)
    with pytest.raises(HistoError, match=r"which folders .* level 1: colon, lung \(2\); level 2"):
        read(folder)
    table = read(folder, label_from="2")
    assert (table.vocab, table.unit) == (["colon_a", "colon_b", "lung_a", "lung_b"], "")
    assert read(folder, label_from="1").vocab == ["colon", "lung"]


def test_labels_and_groups_from_a_regular_expression_over_the_path(tmp_path):
    """File names that hold both, as IDC's do; a group of the expression gives the unit its name."""
    names = [f"{p}_idx5_x{n}_class{n % 2}.png" for p in range(8863, 8867) for n in range(4)]
    table = read(tree(tmp_path, *names), label_from=r"class(\d)", group_from=r"^(?P<patient>\d+)_")
    assert (table.vocab, table.unit) == (["0", "1"], "patient")
    assert {row.group for row in table.rows} == {"8863", "8864", "8865", "8866"}
    with pytest.raises(HistoError, match=r"8863_idx5_x0_class0.png has no grade"):
        read(tmp_path, label_from=r"grade(\d)")
    with pytest.raises(HistoError, match="is no regular expression"):
        read(tmp_path, label_from="(")


def test_groups_of_a_label_csv_come_from_its_paths_too(tmp_path):
    folder = tree(tmp_path / "idc", *IDC)
    rows = "".join(f"{name},{name.split('/')[1]}\n" for name in IDC)
    (tmp_path / "idc.csv").write_text(f"id,label\n{rows}")
    data = load(folder, labels=tmp_path / "idc.csv", group_from="1")
    assert data.groups == [name.split("/")[0] for name in IDC]


def test_groups_that_folders_name_can_be_left_out(tmp_path):
    assert load(tree(tmp_path, *IDC), group_from="none", label_from="2").split.kind == "random"


def test_a_table_of_groups_counts_before_the_folders(tmp_path):
    folder = tree(tmp_path / "idc", *IDC)
    rows = "".join(f"{name},h{int(name[3]) % 5}\n" for name in IDC)
    (tmp_path / "g.csv").write_text(f"id,hospital\n{rows}")
    assert load(folder, groups=str(tmp_path / "g.csv")).unit == "hospital"


def test_excluded_paths_are_left_out(tmp_path):
    (tmp_path / "out.csv").write_text("id\n8000/0/0.png\n8001\\1\\2.png\n")
    table = read(tree(tmp_path / "idc", *IDC), exclude=tmp_path / "out.csv")
    assert len(table.rows) == len(IDC) - 2


def test_patches_that_lie_in_no_folder_name_no_class(tmp_path):
    with pytest.raises(HistoError, match=r"no label CSV .*a folder for each class"):
        read(tree(tmp_path, "a.png", "b.png"))
    with pytest.raises(HistoError, match="no label CSV"):  # Kaggle's folders, without the table
        read(tree(tmp_path / "kaggle", "train/a.png", "test/b.png"))
    tree(tmp_path, "x/a.png", "y/a.png")
    with pytest.raises(HistoError, match="not all patches lie in a folder"):
        read(tmp_path)


def test_histos_own_pictures_are_no_patches(tmp_path):
    """A run, and the report of a check, in the folder of the data."""
    names = [f"{c}/{n}.png" for c in "ab" for n in range(3)]
    tree(tmp_path, *names, "runs/r-1/report/roc.png", "check/sheet.png", ".histo/x.png")
    (tmp_path / "runs/r-1/environment.json").touch()
    (tmp_path / "check/findings.json").touch()
    assert [row.id for row in read(tmp_path).rows] == names
