"""The label CSV."""

from __future__ import annotations

from pathlib import Path

import pytest

from histo.data.groups import read_groups
from histo.data.labels import (
    first_of_each,
    make_vocab,
    missing_classes,
    read_labels,
    similar_classes,
)
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
        ("id,stage\na,1\n", "no column 'label': it has id, stage (give label_column= NAME)"),
        ("id,class,target\na,1,2\n", "no column 'label', and target or class may hold the labels"),
        ("name,file,label\na,b,1\n", "no column 'id', and file or name may hold the ids"),
        ("id,label\na,1\nb,\n", "line 3: the label of b is blank"),
        ("id,label\n,1\n", "line 2: the id is blank"),
        ("id,label\n../a,1\n", "line 2: the id '../a' is not a path below the images folder"),
        ("id,label\n..,1\n", "not a path below the images folder"),
        ("id,label\n.,1\n", "not a path below the images folder"),
        ("id,label\n/etc/a,1\n", "not a path below the images folder"),
        ("id,label\nc:\\a,1\n", "not a path below the images folder"),
        ("id,label\na/../../b,1\n", "not a path below the images folder"),
        ("id,label\na,1,2\n", "line 2: 3 values where the header has 2"),
        ('id,label\na,1\n"b,1\nc,0\n', "line 3: 1 values where the header has 2 (a quote is open"),
        ("id,label,label\na,1,0\n", "has 2 columns 'label' (rename all but one)"),
        (b"id,label\n\xff,1\n", "not UTF-8"),
        ("Title,,\nid,label,x\na,1,\n", "line 2 is the header"),
        ("# made in 2024\n# by us\nid;label\na;1\n", "is not a table (remove lines 1 to 2)"),
        ("\n\nfile name\tclass\na\t1\n", "line 3 is the header"),
        (",\nid,label\na,1\n", "is not a table (remove line 1)"),
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


def test_a_file_listed_twice_counts_once_and_a_contradiction_is_refused(tmp_path):
    same = read_labels(table(tmp_path, "id,label\na,1\na.png,1\nb,0\n"))
    assert first_of_each(same, ["a.png", "a.png", "b.png"], Path("labels.csv")) == [0, 2]
    other = read_labels(table(tmp_path, "id,label\na,1\na.png,0\n"))
    with pytest.raises(
        HistoError, match=r"line 3: id a.png is 0, but line 2 says 1 of the same file"
    ):
        first_of_each(other, ["a.png", "a.png"], Path("labels.csv"))


def test_ids_are_paths_with_slashes_whatever_wrote_them(tmp_path):
    rows = read_labels(table(tmp_path, "id,label\n./a.png,0\n8863\\1\\b.png,1\nc//d,1\n"))
    assert [row.id for row in rows] == ["a.png", "8863/1/b.png", "c/d"]


@pytest.mark.parametrize(
    "header", ["Id,Label", "image_id,target", "File Name,class", "filename,dx"]
)
def test_columns_called_nearly_so_are_taken_and_said(tmp_path, header):
    said = []
    rows = read_labels(table(tmp_path, f"{header}\na,x\nb,y\n"), say=said.append)
    assert [(row.id, row.label) for row in rows] == [("a", "x"), ("b", "y")]
    assert said == [
        f"{what} of labels.csv: column {name!r}"
        for what, name in zip(("ids", "labels"), header.split(","), strict=True)
    ]


def test_a_column_that_was_named_is_not_replaced_by_another(tmp_path):
    with pytest.raises(HistoError, match="no column 'grade'"):
        read_labels(table(tmp_path, "id,class\na,1\n"), "id", "grade")


@pytest.mark.parametrize("rows", ["0,a,x\n1,b,y\n", "1,a,x\n2,b,y\n"])
def test_row_numbers_are_passed_over(tmp_path, rows):
    """With a blank name, as pandas writes them, and with none, as R does."""
    for header in (",id,label", "Unnamed: 0,id,label", "id,label"):
        found = read_labels(table(tmp_path, f"{header}\n{rows}"))
        assert [(row.id, row.label) for row in found] == [("a", "x"), ("b", "y")]


def test_labels_are_compared_in_one_unicode_form(tmp_path):
    rows = read_labels(table(tmp_path, "id,label\na,Tümor\nb,Tu\u0308mor\n"))
    assert {row.label for row in rows} == {"Tümor"}


def test_classes_that_look_alike_are_found():
    """In case, blanks, invisible characters, full width, leading zeros and `.0`."""
    names = ["False", "FALSE", "True", "high grade", "high\u200bgrade", "low", "\uff4cow"]
    assert similar_classes([*names, "1", "01", "10", "1.0", "1.5", "1.50"]) == [
        ["False", "FALSE"],
        ["high grade", "high\u200bgrade"],
        ["low", "\uff4cow"],
        ["1", "01", "1.0"],
    ]
    assert missing_classes(["0", "nan", "N/A", "nano"]) == ["nan", "N/A"]


def test_ids_find_their_files_with_or_without_suffix(tmp_path):
    for name in ("a.tif", "b.PNG", "c.jpg", "c.png", "d.txt"):
        (tmp_path / name).touch()
    index = PatchIndex(tmp_path)
    assert index.find("a") == index.find("a.tif") == tmp_path / "a.tif"
    assert index.find("b") == tmp_path / "b.PNG"
    assert index.find("c.png") == tmp_path / "c.png"
    assert index.find("d") is None
    with pytest.raises(HistoError, match="several files"):
        index.find("c")


def test_ids_find_files_in_folders_by_path_or_by_a_name_that_is_the_only_one(tmp_path):
    for name in ("8863/1/x.png", "8863/0/y.png", "8864/0/y.png", "z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    index = PatchIndex(tmp_path)
    for name in ("8863/1/x.png", "8863/1/x", f"{tmp_path.name}/8863/1/x.png", "x.png", "x"):
        assert index.find(name) == tmp_path / "8863/1/x.png"
    assert index.find("8864/0/y") == tmp_path / "8864/0/y.png"
    assert index.find("8864/1/y") is None
    with pytest.raises(HistoError, match=r"id y fits several files .*8863/0/y.png"):
        index.find("y")


def test_a_missing_patch_is_named_with_the_one_that_is_nearly_called_so(tmp_path):
    for name in ("p000.png", "p001.png", "Slide7.tif"):
        (tmp_path / name).touch()
    index = PatchIndex(tmp_path)
    for name, there in (("p0", "p000.png"), ("P001.jpg", "p001.png"), ("slide07", "Slide7.tif")):
        rows = read_labels(table(tmp_path, f"id,label\n{name},1\n"))
        with pytest.raises(HistoError, match=rf"line 2: no patch {name} in .*there is {there}"):
            index.locate(rows, tmp_path / "labels.csv")


def test_a_file_whose_name_is_in_another_unicode_form_is_found(tmp_path):
    (tmp_path / "Tu\u0308mor1.png").touch()
    assert PatchIndex(tmp_path).find("Tümor1") == tmp_path / "Tu\u0308mor1.png"


def test_links_to_folders_outside_are_refused_and_those_inside_counted_once(tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "x.png").touch()
    (tmp_path / "data" / "b").symlink_to("a")
    assert list_patches(tmp_path / "data").names == ["a/x.png"]
    (tmp_path / "else").mkdir()
    (tmp_path / "data" / "c").symlink_to(tmp_path / "else")
    with pytest.raises(HistoError, match=r"data/c is a link out of"):
        list_patches(tmp_path / "data")
    (tmp_path / "there").symlink_to(tmp_path / "data" / "a")
    assert list_patches(tmp_path / "there").names == ["x.png"]  # the folder itself may be a link


def test_groups_of_two_files_that_differ_in_the_suffix_are_two(tmp_path):
    rows = "a.png,s1\na.tif,s2\nb.png,s1\nc,s3\n"
    _, groups = read_groups(str(table(tmp_path, f"id,slide\n{rows}")), "id")
    names = ("a.png", "a.tif", "a", "b", "b.png", "c.tif", "d")
    assert [groups.get(name) for name in names] == ["s1", "s2", None, "s1", "s1", "s3", None]


def test_files_are_held_by_name_and_given_as_paths(tmp_path):
    for name in ("c.tif", "a.png", "b.jpg", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    files = list_patches(tmp_path)
    assert list(files) == [tmp_path / name for name in ("a.png", "b.jpg", "c.tif")]
    assert list(files[1:]) == [tmp_path / "b.jpg", tmp_path / "c.tif"]
    assert (len(files), files[-1]) == (3, tmp_path / "c.tif")
