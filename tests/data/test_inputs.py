"""What is predicted, and under which ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from histo.data.inputs import Inputs, find_inputs
from histo.errors import HistoError
from histo.screen import Screen


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def find(*given: Path, images: Path | None = None) -> Inputs:
    return find_inputs(given, images, "id", Screen())


def test_plain_names_have_plain_ids_and_files_in_folders_their_paths(tmp_path):
    found = find(touch(tmp_path, "a.tif", "b.png", "8863/1/x.png"))
    assert found.ids == ["8863/1/x.png", "a", "b"]
    assert list(found.paths) == [tmp_path / name for name in ("8863/1/x.png", "a.tif", "b.png")]


def test_two_files_that_differ_in_the_suffix_have_two_ids(tmp_path):
    assert find(touch(tmp_path, "a.png", "a.tif", "b.png")).ids == ["a.png", "a.tif", "b"]
    assert len(set(find(tmp_path / "a.png", tmp_path / "a.tif").ids)) == 2


def test_several_files_and_folders_at_once(tmp_path):
    touch(tmp_path, "s1/a.png", "s2/b.png", "c.png")
    found = find(tmp_path / "s1", tmp_path / "s2", tmp_path / "c.png")
    assert found.ids == ["a", "b", "c"]
    assert list(found.paths) == [tmp_path / name for name in ("s1/a.png", "s2/b.png", "c.png")]


def test_ids_that_would_clash_begin_with_the_folder_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(touch(tmp_path, "s1/a.png", "s2/a.png"))
    assert find(Path("s1"), Path("s2")).ids == ["s1/a", "s2/a"]


def test_a_patch_that_is_named_twice_is_taken_once_and_that_is_said(tmp_path, capsys):
    touch(tmp_path, "a.png", "b.png")
    assert find(tmp_path / "a.png", tmp_path).ids == ["a", "b"]
    (tmp_path / "names.csv").write_text("id\na\na.png\nb\n")
    assert len(find(tmp_path / "names.csv")) == 2
    assert capsys.readouterr().out.count("1 patch named twice, taken once") == 2


def test_one_file_by_two_spellings_of_its_path_is_one_patch(tmp_path, monkeypatch):
    monkeypatch.chdir(touch(tmp_path, "s/a.png", "s/b.png"))
    (tmp_path / "link").symlink_to("s")
    found = find(tmp_path / "s", Path("s/a.png"), Path("s/../s/b.png"), Path("link"))
    assert found.ids == ["a", "b"]


def test_the_names_of_a_csv_may_be_paths(tmp_path):
    touch(tmp_path, "8863/1/x.png", "y.png")
    (tmp_path / "names.csv").write_text("Id\n8863\\1\\x.png\n./y.png\n")
    assert find(tmp_path / "names.csv").ids == ["8863/1/x.png", "y"]
    (tmp_path / "names.csv").write_text("id\n../y.png\n")
    with pytest.raises(HistoError, match=r"line 2: the id '../y.png' is not a path below"):
        find(tmp_path / "names.csv")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(HistoError, match="no image, folder or CSV"):
        find(tmp_path / "none.png")
    with pytest.raises(HistoError, match="holds no image"):
        find(tmp_path)
