"""Outputs on a file system that is mounted twice, and names that differ in case alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from histo.data.synth import write_dataset
from histo.screen import Screen
from tests.conftest import assert_one_line_error, run_histo
from tests.slides.made import tissue_slide, write_slide

GOLDEN = Path(__file__).parents[1] / "golden" / "bundle-2"
"""Patches of 48 px, classes normal and tumour."""


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    """A folder of patches that the bundle takes."""
    write_dataset(tmp_path / "data", 8, 0, Screen(quiet=True), side=48, labels=False)
    return tmp_path / "data" / "test"


@pytest.fixture
def mount() -> Iterator[Callable[[Path, Path], None]]:
    """Give a folder or a file a second place (mount --bind)."""
    places: list[Path] = []

    def bind(path: Path, place: Path) -> None:
        place.mkdir() if path.is_dir() else place.touch()
        words = ["mount", "--bind", str(path), str(place)]
        if os.name != "posix" or os.geteuid() or subprocess.run(words, check=False).returncode:
            pytest.skip("mounting needs root")
        places.append(place)

    yield bind
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


def ignores_case(folder: Path) -> bool:
    """Whether `Aa` and `aa` are one name here, as on most disks of macOS and Windows."""
    (folder / "Aa").touch()
    return (folder / "aa").exists()


def test_a_patch_is_not_written_over_through_a_second_mount_of_its_folder(patches, mount, tmp_path):
    mount(patches, tmp_path / "inner")
    patch = sorted(patches.iterdir())[0]
    before = patch.read_bytes()
    for given in (patches, patches.parent):
        words = ("predict", GOLDEN, given, "--out", tmp_path / "inner" / patch.name, "--force")
        assert_one_line_error(run_histo(*words), "is an input", "--out")
    assert patch.read_bytes() == before


def test_two_outputs_are_not_one_file_through_two_mounts(patches, mount, tmp_path):
    mount(patches.parent, tmp_path / "again")
    words = ("predict", GOLDEN, patches, "--positive", "tumour")
    tables = ("--out", patches.parent / "p.csv", "--submission", tmp_path / "again" / "p.csv")
    assert_one_line_error(run_histo(*words, *tables), "given for two outputs", "--submission")


def test_a_file_that_is_itself_a_mount_is_refused_before_the_work(patches, mount, tmp_path):
    """As `docker run --volume p.csv:/p.csv` makes one; nothing can be renamed to it."""
    kept = tmp_path / "kept of mine.csv"
    kept.touch()
    mount(kept, tmp_path / "p of mine.csv")
    result = run_histo("predict", GOLDEN, patches, "--out", tmp_path / "p of mine.csv", "--force")
    assert_one_line_error(result, "p of mine.csv is mounted as a file", "mount its folder")
    assert not list(tmp_path.glob("*.part"))


def test_tables_whose_names_differ_in_case_are_both_written_or_refused(patches, tmp_path):
    tables = ("--out", tmp_path / "P.csv", "--submission", tmp_path / "p.csv")
    result = run_histo("predict", GOLDEN, patches, *tables, "--positive", "tumour")
    if ignores_case(tmp_path):
        assert_one_line_error(result, "given for two outputs", "--submission")
    else:
        assert result.exit_code == 0
        head = "id,predicted,p_normal,p_tumour"
        texts = [(tmp_path / name).read_text() for name in ("P.csv", "p.csv")]
        assert [text.splitlines()[0] for text in texts] == [head, "id,label"]
        assert not list(tmp_path.glob(".*.histo"))


def test_slides_whose_names_differ_in_case_both_get_a_map_or_are_refused(tmp_path):
    for name in ("one/S", "two/s"):
        (tmp_path / name).parent.mkdir()
        write_slide(tmp_path / f"{name}.tif", tissue_slide(96, 96), 0.5)
    slides = (tmp_path / "one", tmp_path / "two")
    result = run_histo("map", GOLDEN, *slides, "--out", tmp_path / "maps", "--mpp", "0.5")
    if ignores_case(tmp_path):
        assert_one_line_error(result, "S and s are one name", "--out")
    else:
        assert result.exit_code == 0
        assert {path.name for path in (tmp_path / "maps").iterdir() if path.is_dir()} == {"S", "s"}
