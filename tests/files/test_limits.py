"""What is bounded, and what a person is told of it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from histo.data.decode import read_patch
from histo.data.labels import make_vocab, read_labels
from histo.data.patch_files import list_patches
from histo.data.store import open_store
from histo.errors import HistoError, plain
from histo.files.limits import CLASSES, NAME, ROWS, TABLE_BYTES, Limit, is_name, read_bytes
from histo.files.writing import read_json
from histo.pixels.fit import Fit
from histo.run.predictions import read_predictions
from histo.screen import Screen
from tests.conftest import assert_one_line_error, run_histo, write_image

ROOT = Path(__file__).parents[2]
SMALL = Limit("HISTO_MAX_TEST", 10, "bytes")


def test_a_file_within_the_limit_is_read_whole(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    assert read_bytes(tmp_path / "a", SMALL) == b"0123456789"
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_bytes(tmp_path / "link", SMALL) == b"0123456789"


@pytest.mark.slow
def test_a_file_of_more_than_two_gigabytes_is_read_whole(tmp_path):
    """As weights of the largest bodies are; one call to the system gives no more than 2 GB."""
    with (tmp_path / "large").open("wb") as file:
        file.seek(2**31)
        file.write(b"the end")
    found = read_bytes(tmp_path / "large", Limit("HISTO_TEST", 2**32, "bytes"))
    assert len(found) == 2**31 + 7
    assert found.endswith(b"the end")


def test_a_larger_one_is_refused_and_the_variable_of_its_name_raises_that(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(11))
    with pytest.raises(HistoError, match=r"a: more than 10 bytes .*HISTO_MAX_TEST raises"):
        read_bytes(tmp_path / "a", SMALL)
    monkeypatch.setenv("HISTO_MAX_TEST", "11")
    assert len(read_bytes(tmp_path / "a", SMALL)) == 11


@pytest.mark.parametrize("value", ["many", "-1", "1.5", "9" * 20, "٣"])
def test_a_variable_that_is_no_number_is_refused(monkeypatch, value):
    monkeypatch.setenv("HISTO_MAX_TEST", value)
    with pytest.raises(HistoError, match=r"HISTO_MAX_TEST=.* is not a positive whole number"):
        SMALL.check(1, "it")


def test_pipes_devices_and_rings_of_links_neither_hang_nor_pass(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "zero.tif").symlink_to("/dev/zero")
    (tmp_path / "ring.tif").symlink_to(tmp_path / "ring.tif")
    (tmp_path / "nowhere.tif").symlink_to(tmp_path / "none")
    for name, said in (
        ("pipe", "is a pipe or a device"),
        ("zero", "is a pipe or a device"),
        ("ring", "cannot be read"),
        ("nowhere", "no image"),
    ):
        with pytest.raises(HistoError, match=said):
            read_patch(tmp_path / f"{name}.tif")
    for read in (read_labels, read_json, read_predictions):
        with pytest.raises(HistoError, match="is a pipe or a device"):
            read(tmp_path / "pipe.tif")
    with pytest.raises(HistoError, match=r"nowhere.tif cannot be read"):
        open_store(list_patches(tmp_path)[:1], tmp_path / "store", Fit(), Screen(quiet=True))


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path, fstat = tmp_path / "a", os.fstat
    path.write_bytes(b"123")

    def slow(handle: int) -> os.stat_result:
        found = fstat(handle)
        with path.open("ab") as file:
            file.write(b"more")
        return found

    monkeypatch.setattr(os, "fstat", slow)
    with pytest.raises(HistoError, match="grows"):
        read_bytes(path, SMALL)


def test_check_goes_past_a_pipe_among_the_patches(tmp_path):
    """It is said to be unreadable, in the time that the others take."""
    (tmp_path / "train").mkdir()
    for name in "ab":
        write_image(tmp_path / "train" / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
    os.mkfifo(tmp_path / "train" / "c.png")
    (tmp_path / "train_labels.csv").write_text("id,label\na,0\nb,1\nc,1\n")
    done, words = [], ("check", tmp_path, "--out", tmp_path / "check")
    thread = threading.Thread(target=lambda: done.append(run_histo(*words)), daemon=True)
    thread.start()
    thread.join(30)
    assert done, "it hangs"
    assert "c.png is a pipe or a device" in done[0].stdout


def test_a_table_has_no_more_bytes_rows_and_classes_than_the_limits(tmp_path, monkeypatch):
    path = tmp_path / "labels.csv"
    path.write_text("id,label\na,x\nb,y\nc,z\n")
    for limit, said in ((ROWS, "labels.csv: more than 2 rows"), (CLASSES, "more than 2 classes")):
        monkeypatch.setenv(limit.name, "2")
        with pytest.raises(HistoError, match=rf"{said} .*{limit.name}"):
            read_labels(path)
        monkeypatch.setenv(limit.name, "3")
        assert len(read_labels(path)) == 3
    monkeypatch.setenv(TABLE_BYTES.name, "20")
    with pytest.raises(HistoError, match=r"more than 20 bytes"):
        read_labels(path)


def test_a_predictions_table_too(tmp_path, monkeypatch):
    path = tmp_path / "p.csv"
    path.write_text("id,label,p_x,p_y,p_z\na,x,1,0,0\nb,y,0,1,0\n")
    monkeypatch.setenv(CLASSES.name, "2")
    with pytest.raises(HistoError, match="more than 2 classes"):
        read_predictions(path)
    monkeypatch.setenv(CLASSES.name, "3")
    monkeypatch.setenv(ROWS.name, "1")
    with pytest.raises(HistoError, match="more than 1 rows"):
        read_predictions(path)
    path.write_text("id,label,p_x,p_y,p_y\na,x,1,0,0\n")
    with pytest.raises(HistoError, match="the columns must be"):
        read_predictions(path)


def test_a_class_has_a_name_that_fits_a_cell_and_a_line(tmp_path):
    for name in ("tumour, grade 2 – über", "سرطان", "می‌خواهم"):
        assert is_name(name)
    shown_backwards = ("\u202egnp", "a\u2066b", "a\u202c")
    ends_a_line = ("a\nb", "\x85", "a\u2028b", "a\u2029b")
    for name in ("", "a" * (NAME + 1), "a\x1b[2J", "\ud800", 3, *shown_backwards, *ends_a_line):
        assert not is_name(name)
    (tmp_path / "l.csv").write_text('id,label\na,0\nb,"x\ny"\n')
    with pytest.raises(HistoError, match=r"l.csv, line 4: the label 'x\\ny' cannot be"):
        read_labels(tmp_path / "l.csv")


def test_classes_come_in_one_order_whatever_they_are_called():
    """Names that are not finite numbers, or equal ones, once came in that of a hash."""
    assert make_vocab(["nan", "2", "10"]) == ["10", "2", "nan"]
    assert make_vocab(["1.50", "1.5", "0"]) == ["0", "1.5", "1.50"]


def test_an_error_is_one_line_of_plain_text(tmp_path):
    error = str(HistoError("a\nb\x1b[31m" + "x" * 5000))
    assert error.startswith(r"a\nb\x1b[31mxxx")
    assert (len(error), error[-2:]) == (1000, " …")
    (tmp_path / "l.csv").write_text("id,\x1b]0;title\x07\na,1\n")
    result = run_histo("check", tmp_path, "--labels", tmp_path / "l.csv", "--out", tmp_path / "out")
    assert_one_line_error(result, r"it has id, \x1b]0;title\x07")


def test_what_is_said_obeys_no_name_of_a_file(capsys):
    Screen().say("two\nlines \x1b[2J \udcff")
    assert capsys.readouterr().out == "two\nlines \\x1b[2J \\udcff\n"
    assert plain("Ärzte – 日本") == "Ärzte – 日本"


def test_a_file_name_that_is_no_text_is_named(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"a\xff.tif")).touch()
    except OSError:
        pytest.skip("this file system has text names only")
    with pytest.raises(HistoError, match=r"a\\udcff.tif', whose name is not UTF-8"):
        list_patches(tmp_path)


def test_the_security_page_lists_every_limit():
    """By its variable, and with the bound in force."""
    from histo.files import limits

    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    bounds = [x for x in vars(limits).values() if isinstance(x, Limit)]
    assert len(bounds) == 12
    for limit in bounds:
        (line,) = [line for line in page.splitlines() if f"| `{limit.name}`" in line]
        n = limit.default
        told = {
            f"{n:,}",
            f"{n >> 20:,} MB",
            f"{n >> 30} GB" if n >> 30 else "-",
            f"{n // 10**6} million",
        }
        assert any(word in line for word in told), limit
