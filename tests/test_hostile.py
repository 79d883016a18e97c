"""Any bytes are a result or a HistoError: never a traceback, a way out of the folder, or a bomb.

Hypothesis makes the bytes, the same in every run; what it, the fuzzers in tests/fuzz and people
have found stands here as cases.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from histo.data.decode import cv2, decode_patch
from histo.data.groups import read_groups
from histo.data.ids import check_id
from histo.data.labels import Row, make_vocab, read_labels
from histo.data.patch_files import PatchIndex
from histo.data.tiff_tags import first_directory
from histo.errors import HistoError
from histo.files.limits import CLASSES, IMAGE_PIXELS, is_name
from histo.model.card import CARD, FORMAT, SEAL, read_card, seal_of
from histo.run.predictions import read_predictions
from tests.conftest import Memory

same = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""The same examples each time, however slow the machine."""
PATH = Path("patch.tif")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One folder for all examples: a file in it is written over and over."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


cells = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["a", "b", "0", "1", "1.0", "nan", "0.5", "..", "a/b", "", '"', "\r\n", "\0", "é"]
    ),
)


@st.composite
def tables(draw: st.DrawFn, header: list[str]) -> bytes:
    """A CSV that is nearly right: rows of about the header's length, then a few bytes changed."""
    file = io.StringIO()
    rows = draw(st.lists(st.lists(cells, max_size=len(header) + 1), max_size=6))
    with suppress(csv.Error):
        csv.writer(file).writerows([header, *rows])
    data = bytearray(file.getvalue().encode("utf-8", "surrogatepass"))
    for at, value in draw(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), max_size=2)):
        data[at % len(data)] = value
    return bytes(data)


@pytest.mark.slow
@same
@given(data=st.one_of(st.binary(max_size=99), tables(["id", "label", "split"])))
def test_any_bytes_are_labels_or_refused(folder, data):
    """And what is read may be said, written, and looked for."""
    path = folder / "labels.csv"
    path.write_bytes(data)
    for split in (None, "split"):
        with suppress(HistoError):
            rows = read_labels(path, split_column=split)
            assert all(is_name(row.label) and row.line <= data.count(b"\n") + data.count(b"\r") + 1
                       for row in rows)  # fmt: skip
            vocab = make_vocab([row.label for row in rows])
            assert sorted(vocab) == sorted({row.label for row in rows})
            for row in rows:
                check_id(row.id, "")
    with suppress(HistoError):
        read_groups(str(path), "id")


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=12)


@same
@given(
    ids=st.lists(st.one_of(names, st.text(max_size=8), st.just("../out"))), there=st.lists(names)
)
def test_an_id_leads_to_a_file_of_the_folder_or_nowhere(folder, ids, there):
    """Whatever it is called: only what is in the folder is ever found."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    (folder / "out.png").touch()
    for old in images.iterdir():
        old.unlink()
    for name in there:
        with suppress(OSError, ValueError):
            (images / f"{name}.png").touch()
    index = PatchIndex(images)
    present = {path.name for path in images.iterdir()}
    for name in [*ids, *there, "../out", str(folder / "out.png")]:
        with suppress(HistoError):
            found = index.find(name)
            assert found is None or (found.parent == images and found.name in present)
        with suppress(HistoError):
            (path,) = index.locate([Row(name, "", 1)], PATH)
            assert path.name in present


@same
@given(data=st.one_of(st.binary(max_size=99), tables(["id", "label", "p_0", "p_1"])))
def test_any_bytes_are_predictions_or_refused(folder, data):
    path = folder / "predictions.csv"
    path.write_bytes(data)
    with suppress(HistoError):
        table = read_predictions(path)
        assert table.probabilities.shape == (len(table.ids), len(table.vocab))
        assert len(table.labels) == len(table.ids) > 0
        assert np.abs(table.probabilities.sum(1) - 1).max() < 1e-3


values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(), max_size=5)
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
SOUND = {
    "format": FORMAT,
    "arch": "squeezenet1_1",
    "vocab": ["0", "1"],
    "patch_size": 48,
    "crop": None,
    "size": None,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "head": 8,
    "temperature": 1.0,
    "threshold": 0.5,
    "models": 1,
    "files": {"model.onnx": "0" * 64},
    "bytes": {"model.onnx": 1},
}


@pytest.mark.slow
@same
@given(
    changes=st.dictionaries(st.sampled_from(sorted(SOUND)), values, max_size=2),
    sealed=st.booleans(),
)
def test_any_values_are_a_card_or_refused(folder, changes, sealed):
    facts = {**SOUND, **changes}
    if sealed:
        facts[SEAL] = seal_of(facts)
    (folder / CARD).write_text(json.dumps(facts))
    try:
        card, read = read_card(folder)
    except HistoError:
        assert changes or not sealed
        return
    assert sealed
    assert 2 <= len(card.vocab) <= CLASSES.value
    assert all(map(is_name, card.vocab))
    assert np.isfinite([*card.mean, *card.std, card.temperature, card.threshold]).all()
    assert all(Path(name).name == name for name in read["files"])


@same
@given(data=st.one_of(st.binary(max_size=300), st.text().map(str.encode)))
def test_any_bytes_are_a_card_or_refused(folder, data):
    (folder / CARD).write_bytes(data)
    with suppress(HistoError):
        read_card(folder)


def saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


IMAGES = [
    saved("TIFF"),
    saved("TIFF", compression="tiff_lzw"),
    saved("TIFF", "RGBA"),
    saved("TIFF", "1", compression="group4"),
    saved("PNG"),
    saved("PNG", "P"),
    saved("TIFF", compression="tiff_adobe_deflate"),
    saved("TIFF", compression="packbits"),
    saved("TIFF", "L", compression="zstd"),
    saved("TIFF", "CMYK", compression="lzma"),
    saved("TIFF", compression="jpeg"),
    saved("JPEG"),
    saved("JPEG", progressive=True),
    saved("JPEG", "CMYK"),
    saved("BMP"),
    saved("BMP", "P"),
    saved("WEBP"),
    saved("WEBP", "RGBA", lossless=True),
]


@st.composite
def images(draw: st.DrawFn) -> bytes:
    """An image with some bytes changed, a part cut out, and a tail."""
    data = bytearray(draw(st.sampled_from(IMAGES)))
    for at, value in draw(
        st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=4)
    ):
        data[at % len(data)] = value
    start, length = draw(st.integers(0, len(data))), draw(st.sampled_from([0, 0, 1, 4, 100]))
    del data[start : start + length]
    return bytes(data) + draw(st.binary(max_size=8))


@pytest.mark.slow
@settings(same, max_examples=500)
@given(data=st.one_of(st.binary(max_size=200), images()))
def test_any_bytes_are_a_patch_or_refused(data):
    with suppress(HistoError):
        pixels = decode_patch(data, PATH)
        assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
        assert pixels.shape[0] * pixels.shape[1] <= IMAGE_PIXELS.value


def tiff(*tags: tuple[int, int, int], big: bool = False, order: str = "<") -> bytes:
    """A TIFF of tags (number, type, value) with one value each, and nothing behind them."""
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}H", 43 if big else 42)
    start += struct.pack(
        f"{order}HHQQ" if big else f"{order}II", *((8, 0, 16, len(tags)) if big else (8, 0))
    )
    if not big:
        start = start[:8] + struct.pack(f"{order}H", len(tags))
    forms = {3: "H", 4: "I", 16: "Q", 12: "d"}
    room = 8 if big else 4
    for tag, kind, value in tags:
        cell = struct.pack(order + forms[kind], value)
        start += struct.pack(f"{order}HH{'Q' if big else 'I'}", tag, kind, 1) + cell.ljust(
            room, b"\0"
        )
    return start + bytes(8)


def size_of(width: int, height: int) -> tuple[tuple[int, int, int], ...]:
    return ((256, 4, width), (257, 4, height))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_tells_its_sizes_in_either_form_and_order(big, order):
    made = tiff(*size_of(7, 9), (258, 3, 16), (277, 3, 3), big=big, order=order)
    assert first_directory(made) == {256: (7,), 257: (9,), 258: (16,), 277: (3,)}
    assert first_directory(saved("TIFF"))[258] == (8, 8, 8)


def bomb_tiff(compression: int) -> bytes:
    """16x16 px whose strip holds 64 MB."""
    pack = zlib.compress if compression == 8 else lzma.compress
    strip = pack(bytes(64 << 20))
    head = tiff(
        *size_of(16, 16), (258, 3, 8), (259, 3, compression), (262, 3, 1), (273, 4, 200), (277, 3, 1),
        (279, 4, len(strip)),
    )  # fmt: skip
    return head.ljust(200, b"\0") + strip


@pytest.mark.parametrize(
    ("data", "said"),
    [
        # each of 64 bits: eight times the memory, and Pillow's traceback where there is alpha
        (tiff(*size_of(9, 9), (258, 3, 64)), "64-bit samples"),
        (tiff(*size_of(9, 9), (258, 3, 32), order=">"), "32-bit samples"),
        (tiff(*size_of(9, 9), (277, 3, 200)), "200 channels"),
        # 778 kB, 16x16 px, in one tile of 20,000x20,000: 767 MB
        (tiff(*size_of(16, 16), (322, 4, 20_000), (323, 4, 20_000)), "tiles of 400,000,000"),
        (tiff(*size_of(16, 16), (322, 16, 2**40), (323, 4, 1), big=True), "in tiles of"),
        (tiff(*size_of(16, 16), (322, 4, 9), (322, 4, 2**30), (323, 4, 1)), "truncated or damaged"),
        (tiff((256, 12, 16), (257, 4, 16)), "truncated or damaged"),  # a width that is no integer
        (b"II*\0\xff\xff\xff\xff", "truncated or damaged"),
        (b"II+\0\x08\0\0\0" + b"\xff" * 8, "truncated or damaged"),
        (b"II*\0", "truncated or damaged"),
        # found by fuzzing: 496 bytes, a chunk of 3.2 GB promised, and OpenCV made room for it
        (
            saved("PNG")[:33] + struct.pack(">I4s", 0xC2FFD8FF, b"\x01\x0fID") + saved("PNG")[33:],
            "truncated or damaged",
        ),
        (saved("PNG")[:-12], "truncated or damaged"),
        # 207 kB, 49 million pixels, 200 scans of 75 bytes: five seconds, and a minute for a megabyte
        (saved("JPEG").replace(b"\xff\xda", b"\xff\xda" * 101, 1), "more than 100 scans"),
        # other decoders of OpenCV's and Pillow's are not asked
        (cv2.imencode(".jp2", np.zeros((64, 64, 3), np.uint8))[1].tobytes(), "it is a JPEG 2000 file"),
        (cv2.imencode(".hdr", np.zeros((9, 9, 3), np.float32))[1].tobytes(), "is not a TIF"),
        (saved("GIF"), "it is a GIF"),
        # a strip that inflates to a gigabyte, of a page of 256 bytes
        (bomb_tiff(8), "truncated or damaged: strip 1: it holds more than its rows"),
        (bomb_tiff(34925), "truncated or damaged: strip 1: it holds more than its rows"),
        # as many strips as the file has bytes, and more
        (tiff(*size_of(1, 40_000_000), (258, 3, 8), (262, 3, 1), (278, 3, 1)), "cut into 40,000,000 strips"),
        # a BMP and a WebP of more pixels than the limit, in a few bytes
        (saved("BMP")[:18] + struct.pack("<ii", 100_000, 100_000) + saved("BMP")[26:], "larger than"),
        (b"RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0/\xff\xff\xff\x0f" + bytes(5), "larger than 50000000"),
    ],
)  # fmt: skip
def test_what_was_found_is_refused(data, said):
    with pytest.raises(HistoError, match=said):
        decode_patch(data, PATH)


def test_a_large_tile_of_a_large_image_is_read():
    """The bound is on what is decoded for nothing."""
    side = 2064
    row = zlib.compress(bytes(side * side))
    head = tiff(
        *size_of(side, side), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1),
        (322, 4, side), (323, 4, side), (324, 4, 200), (325, 4, len(row)),
    )  # fmt: skip
    assert decode_patch(head.ljust(200, b"\0") + row, PATH).shape == (side, side, 3)


def test_inks_that_are_too_few_are_refused():
    """OpenCV reads four channels by rules of its own: CMYK with one too few is a patch to it."""
    made = bytearray(saved("TIFF", "RGBA"))
    at = made.index(struct.pack("<HHI", 262, 3, 1))
    made[at + 8] = 5
    with pytest.raises(HistoError, match="CMYK in 4 channels of 8 bits, which is not read"):
        decode_patch(bytes(made), PATH)


@pytest.mark.slow
@pytest.mark.parametrize("compression", [8, 34925])
def test_a_strip_takes_no_more_memory_than_its_rows(compression):
    """Whatever it inflates to."""
    data = bomb_tiff(compression)
    memory = Memory()
    with pytest.raises(HistoError):
        decode_patch(data, PATH)
    assert memory.taken <= 20 << 20


def test_an_image_takes_twenty_bytes_a_pixel_at_most():
    """The dearest kind: 16 bits, four channels, a PNG; measured on Linux."""
    side = 2000
    data = cv2.imencode(".png", np.zeros((side, side, 4), np.uint16))[1].tobytes()
    decode_patch(IMAGES[4], PATH)
    memory = Memory()
    assert decode_patch(data, PATH).shape == (side, side, 3)
    assert memory.taken <= 20 * side * side


def test_a_line_of_commas_is_refused_before_it_is_split(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"id,label\n" + b"," * 2_000_000)
    for read in (read_labels, read_predictions):
        with pytest.raises(HistoError, match=r"line of more than 1,048,576|columns must be"):
            read(path)
    with pytest.raises(HistoError, match="more than 1,048,576"):
        read_labels(path)
