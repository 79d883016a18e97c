"""One file to one RGB array."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from histo.data.decode import pixel_sha1, read_patch
from histo.errors import HistoError
from histo.pixels.fit import check_size, fit_patch

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def saved(tmp_path, image: Image.Image, name: str):
    image.save(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_pixels_come_as_rgb_unchanged(tmp_path, name):
    assert np.array_equal(read_patch(saved(tmp_path, Image.fromarray(RGB), name)), RGB)


def test_jpeg_is_read_as_pillow_reads_it(tmp_path):
    path = saved(tmp_path, Image.fromarray(cv2.GaussianBlur(RGB, (9, 9), 3)), "a.jpg")
    difference = read_patch(path).astype(int) - np.asarray(Image.open(path)).astype(int)
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_grey_palette_alpha_and_one_bit_become_rgb(tmp_path, name):
    grey = RGB[..., 0]
    assert np.array_equal(
        read_patch(saved(tmp_path, Image.fromarray(grey), name)), np.dstack([grey] * 3)
    )
    rgba = Image.fromarray(np.dstack([RGB, grey]))
    assert np.array_equal(read_patch(saved(tmp_path, rgba, name)), RGB)
    palette = Image.fromarray(RGB).quantize(16)
    assert np.array_equal(
        read_patch(saved(tmp_path, palette, name)), np.asarray(palette.convert("RGB"))
    )
    bits = Image.fromarray(grey > 127)
    assert np.array_equal(read_patch(saved(tmp_path, bits, name)), np.asarray(bits.convert("RGB")))


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_sixteen_bits_are_scaled_and_rounded(tmp_path, suffix):
    deep = np.array([[0, 128, 129, 65535], [257, 385, 386, 32768]], dtype=np.uint16)
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), deep)
    assert read_patch(path)[..., 0].tolist() == [[0, 0, 1, 255], [1, 1, 2, 128]]


@pytest.mark.parametrize("kind", ["tiff", "png", "jpeg"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_truncated_image_is_refused(tmp_path, kind, share):
    data = io.BytesIO()
    Image.fromarray(RGB).save(data, kind)
    path = tmp_path / "a.tif"
    path.write_bytes(data.getvalue()[: int(len(data.getvalue()) * share)])
    with pytest.raises(HistoError, match="truncated or damaged"):
        read_patch(path)


def test_what_is_no_image_is_refused_by_name(tmp_path):
    for name, content, said in (
        ("empty.tif", b"", "is empty"),
        ("text.tif", b"hello", "is not a TIF, PNG or JPEG"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(HistoError, match=said):
            read_patch(tmp_path / name)
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(HistoError, match="folder"):
        read_patch(tmp_path / "folder.tif")
    with pytest.raises(HistoError, match="no image"):
        read_patch(tmp_path / "none.tif")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = saved(tmp_path, Image.new("1", (10_000, 10_000)), "bomb.png")
    assert path.stat().st_size < 100_000
    with pytest.raises(HistoError, match="larger than 50000000 pixels"):
        read_patch(path)


def test_float_samples_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(RGB[..., 0].astype(np.float32)), "a.tif")
    with pytest.raises(HistoError, match="32-bit samples"):
        read_patch(path)


def test_crop_takes_the_centre_and_size_resizes_as_fastai_does(tmp_path):
    assert np.array_equal(fit_patch(RGB, 16, None, tmp_path), RGB[8:24, 8:24])
    from fastai.vision.augment import Resize, ResizeMethod
    from fastai.vision.core import PILImage

    theirs = Resize(20, method=ResizeMethod.Squish)(PILImage.create(RGB), split_idx=1)
    assert np.array_equal(fit_patch(RGB, None, 20, tmp_path), np.asarray(theirs))
    with pytest.raises(HistoError, match="too small for a crop of 64"):
        fit_patch(RGB, 64, None, tmp_path)


def test_sizes_must_be_square_and_agree(tmp_path):
    with pytest.raises(HistoError, match=r"--size 48"):
        check_size(RGB, 48, tmp_path)
    with pytest.raises(HistoError, match="not square"):
        check_size(RGB[:16], None, tmp_path)


def test_the_id_is_the_sha1_of_the_pixels():
    black = np.zeros((96, 96, 3), np.uint8)
    # Kaggle's one black patch carries this id
    assert pixel_sha1(black) == "9369c7278ec8bcc6c880d99194de09fc2bd4efbe"
