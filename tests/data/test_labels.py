"""The label CSV."""

from __future__ import annotations

from pathlib import Path

import pytest

from histo.data.groups import read_groups
from histo.data.labels import make_vocab, read_labels, without_repeats
from histo.data.patch_files import PatchIndex, list_patches
from histo.errors import HistoError


def table(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_byte_order_mark_windows_line_ends_and_blank_lines_are_read(tmp_path):
    rows = read_labels(table(tmp_path, b"\xef\xbb\xbfid,label\r\na,0\r\n\r\nb,1\r\n"))
    assert [(row.id, row.label, row.line) for row in rows] == [("a", "0", 2), ("b", "1", 4)]


def test_columns_may_have_other_names_and_stand_anywhere(tmp_path):
    path = table(tmp_path, "tissue,x,name\nstroma,9,a.png\ntumour,9,b.png\n")
    rows = read_labels(path, "name", "tissue")
    assert [(row.id, row.label) for row in rows] == [("a.png", "stroma"), ("b.png", "tumour")]


def test_whole_numbers_written_as_floats_are_the_same_class(tmp_path):
    rows = read_labels(table(tmp_path, "id,label\na,1.0\nb,0\nc,1\n"))
    assert [row.label for row in rows] == ["1", "0", "1"]


def test_classes_are_ordered_by_value_or_by_name():
    assert make_vocab(["10", "9", "9"]) == ["9", "10"]
    assert make_vocab(["stroma", "fat"]) == ["fat", "stroma"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("id,label\n", "no rows"),
        ("id,class\na,1\n", "no column 'label': it has id, class"),
        ("id,label\na,1\nb,\n", "line 3: the label of b is blank"),
        ("id,label\n,1\n", "line 2: the id is blank"),
        ("id,label\n../a,1\n", "line 2: the id '../a' is not a plain file name"),
        ("id,label\n..,1\n", "not a plain file name"),
        ("id,label\nc\\a,1\n", "not a plain file name"),
        ("id,label\na,1,2\n", "line 2: 3 values where the header has 2"),
        (b"id,label\n\xff,1\n", "not UTF-8"),
        ("\x00", "no column"),
    ],
)
def test_a_bad_table_is_one_line_that_names_the_place(tmp_path, text, said):
    with pytest.raises(HistoError, match=r".") as caught:
        read_labels(table(tmp_path, text))
    assert said in str(caught.value)
    assert "labels.csv" in str(caught.value)


def test_a_missing_table_says_the_way_out(tmp_path):
    with pytest.raises(HistoError, match="give labels= if"):
        read_labels(tmp_path / "none.csv")


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(HistoError, match="is a folder, not a CSV"):
        read_labels(tmp_path)


def test_a_split_is_train_or_valid(tmp_path):
    path = table(tmp_path, "id,label,part\na,1,train\nb,0,val\nc,0,test\n")
    with pytest.raises(HistoError, match="line 4: part is 'test', not train or valid"):
        read_labels(path, split_column="part")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a,s1\nb,\n", "line 3: the slide of b is blank"),
        ("a,s1\na.tif,s2\n", "line 3: id a.tif is of s2, but before of s1"),
    ],
)
def test_a_patch_is_of_one_group(tmp_path, rows, said):
    with pytest.raises(HistoError, match=said):
        read_groups(str(table(tmp_path, f"id,slide\n{rows}")), "id")


def test_a_repeat_is_dropped_and_a_contradiction_refused(tmp_path):
    same = read_labels(table(tmp_path, "id,label\na,1\na,1\nb,0\n"))
    rows, repeats = without_repeats(same, Path("labels.csv"))
    assert ([row.id for row in rows], repeats) == (["a", "b"], 1)
    other = read_labels(table(tmp_path, "id,label\na,1\na,0\n"))
    with pytest.raises(HistoError, match=r"line 3: id a is 0, but line 2 says 1"):
        without_repeats(other, Path("labels.csv"))


def test_ids_find_their_files_with_or_without_suffix(tmp_path):
    for name in ("a.tif", "b.PNG", "c.jpg", "c.png", "d.txt"):
        (tmp_path / name).touch()
    index = PatchIndex(tmp_path)
    assert index.find("a") == index.find("a.tif") == tmp_path / "a.tif"
    assert index.find("b") == tmp_path / "b.PNG"
    assert index.find("d") is None
    with pytest.raises(HistoError, match="several files"):
        index.find("c")


def test_files_are_held_by_name_and_given_as_paths(tmp_path):
    for name in ("c.tif", "a.png", "b.jpg", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    files = list_patches(tmp_path)
    assert list(files) == [tmp_path / name for name in ("a.png", "b.jpg", "c.tif")]
    assert list(files[1:]) == [tmp_path / "b.jpg", tmp_path / "c.tif"]
    assert (len(files), files[-1]) == (3, tmp_path / "c.tif")
