"""One file to one RGB array."""

from __future__ import annotations

import io
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from histo.data.decode import decode_patch, pixel_sha1, read_patch
from histo.data.remarks import DEEP, EXIF_TURN, TIFF_TURN, remarks
from histo.errors import HistoError
from histo.model.memory_bound import data_taken, memory_bounded
from histo.pixels.fit import Fit

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
        ("video.tif", b"GIF89a", r"nor a BMP or WebP: it is a GIF \(re-save it"),
        ("slide.tif", bytes(128) + b"DICM", "it is a DICOM file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(HistoError, match=said):
            read_patch(tmp_path / name)
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(HistoError, match="folder"):
        read_patch(tmp_path / "folder.tif")
    with pytest.raises(HistoError, match="no image"):
        read_patch(tmp_path / "none.tif")


def jpeg(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def tiff(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **{"photometric": "rgb", "metadata": None, **options})
    return file.getvalue()


TISSUE = (
    np.random.default_rng(1).normal((225, 170, 200), 25, (96, 96, 3)).clip(0, 255).astype(np.uint8)
)
SLOPES = np.stack(
    [255 - np.mgrid[:96, :96][1], 60 + np.mgrid[:96, :96][0], np.full((96, 96), 9)], -1
)
SLOPES = SLOPES.astype(np.uint8)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_damaged_jpeg_is_refused_by_name_and_quietly(progressive, capfd):
    """Cut with its end marker in place, or with a hole: libjpeg would fill it with grey and warn."""
    whole = jpeg(TISSUE, quality=90, progressive=progressive)
    half = len(whole) // 2
    hole = whole[:half] + bytes(512) + whole[half + 512 :]
    for data in (
        whole[:half] + b"\xff\xd9",
        hole,
        whole[:half],
        whole[:-2],
        whole[:100] + b"\xff\xd9",
    ):
        with pytest.raises(HistoError, match=r"^of a slide.jpg is truncated or damaged"):
            decode_patch(data, Path("of a slide.jpg"))
    assert capfd.readouterr() == ("", "")


def test_a_progressive_jpeg_without_its_last_scans_is_refused():
    """It decodes without a complaint, to a blurred picture."""
    whole = jpeg(TISSUE, quality=90, progressive=True)
    last = whole.rindex(b"\xff\xda")
    tables = whole.rindex(b"\xff\xc4", 0, last)
    with pytest.raises(HistoError, match="some of its scans are missing"):
        decode_patch(whole[:tables] + b"\xff\xd9", Path("a.jpg"))


@pytest.mark.parametrize(
    "after", [bytes(6000), b"\xff" * 99, b"\xff\xd9", jpeg(RGB), b"EXIF and more"]
)
def test_a_jpeg_with_bytes_after_its_end_is_read(after):
    whole = jpeg(TISSUE, quality=90)
    assert np.array_equal(
        decode_patch(whole + after, Path("a.jpg")), np.asarray(Image.open(io.BytesIO(whole)))
    )


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}])
@pytest.mark.parametrize("side", [8, 96, 500])
def test_a_flat_jpeg_is_no_hole(side, options):
    """White is coded by zeros in line."""
    for colour in (255, 0, 243):
        flat = np.full((side, side, 3), colour, np.uint8)
        assert (
            np.abs(decode_patch(jpeg(flat, **options), Path("a.jpg")).astype(int) - flat).max() <= 1
        )


def test_an_exif_turn_is_ignored_and_a_tiffs_orientation_applied(tmp_path):
    """As Pillow, fastai and so learner.pkl have it."""
    from fastai.vision.core import load_image

    turn = Image.Exif()
    turn[274] = 6
    Image.fromarray(SLOPES).save(tmp_path / "a.jpg", quality=95, exif=turn)
    Image.fromarray(SLOPES).save(tmp_path / "a.png", exif=turn)
    Image.fromarray(SLOPES).save(tmp_path / "a.tif", tiffinfo={274: 6})
    assert np.abs(read_patch(tmp_path / "a.jpg").astype(int) - SLOPES).max() <= 4
    assert np.array_equal(read_patch(tmp_path / "a.png"), SLOPES)
    assert np.array_equal(read_patch(tmp_path / "a.tif"), np.rot90(SLOPES, -1))
    for name in ("a.jpg", "a.png", "a.tif"):
        assert np.array_equal(
            read_patch(tmp_path / name), np.asarray(load_image(tmp_path / name, "RGB"))
        )


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd", "lzma"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_sixteen_bits_in_separate_planes_are_read(compression, byteorder):
    """OpenCV takes the planes for interleaved: noise above, zeros below."""
    planes = np.moveaxis(SLOPES.astype(np.uint16) * 257, -1, 0)
    data = tiff(planes, planarconfig="separate", compression=compression, byteorder=byteorder)
    assert np.array_equal(decode_patch(data, Path("a.tif")), SLOPES)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_is_turned_round(dtype):
    """OpenCV turns 8 bits round, not 16."""
    grey = SLOPES[..., 0].astype(dtype) * (257 if dtype == np.uint16 else 1)
    data = tiff(np.iinfo(dtype).max - grey, photometric="miniswhite")
    assert np.array_equal(decode_patch(data, Path("a.tif")), np.dstack([SLOPES[..., 0]] * 3))


@pytest.mark.parametrize(
    "compression", ["jpeg2000", "png", "webp", "zstd", "lzma", "jpegxl", "lerc"]
)
def test_a_codec_that_opencv_lacks_is_read(compression):
    """OpenCV gives zeros for the first three, and calls the others damaged."""
    options = {"lossless": True} if compression in ("webp", "jpegxl") else {}
    data = tiff(SLOPES, compression=compression, compressionargs=options)
    assert np.array_equal(decode_patch(data, Path("a.tif")), SLOPES)


@pytest.mark.parametrize(
    ("compression", "said"),
    [
        ("jpegxl", r"is compressed by JPEG XL \(50002\), .* \(pip install imagecodecs, or re-save"),
        ("lerc", r"is compressed by LERC \(34887\), .* \(pip install imagecodecs, or re-save"),
    ],
)
def test_without_imagecodecs_its_codecs_are_refused_by_name(compression, said, monkeypatch):
    data = tiff(SLOPES, compression=compression)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(HistoError, match=said):
        decode_patch(data, Path("a.tif"))


@pytest.mark.parametrize(
    ("pixels", "options", "said"),
    [
        (SLOPES.astype(np.float16), {}, "16-bit samples, floating-point"),
        (SLOPES.astype(np.int16), {}, "16-bit samples, signed"),
        (np.dstack([SLOPES, SLOPES[..., :1]]).astype(np.uint16), {"photometric": "separated"},
         "CMYK in 4 channels of 16 bits, which is not read"),
        (np.moveaxis(SLOPES, -1, 0), {"photometric": "minisblack"}, "3 grey pages of one size"),
        (np.moveaxis(SLOPES, -1, 0), {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
         "3 palette pages of one size"),
        (np.moveaxis(SLOPES, -1, 0), {"photometric": "minisblack", "planarconfig": "separate"},
         "grey in 3 channels of 8 bits in separate planes"),
        (SLOPES[..., :2].copy(), {"photometric": "minisblack", "planarconfig": "contig"}, "grey in 2 channels"),
        (SLOPES, {"compression": 34887, "photometric": "cielab"}, "CIELab"),
    ],
)  # fmt: skip
def test_what_no_rule_reads_is_refused_by_its_true_reason(pixels, options, said):
    """In one line with a way out; nothing of it is damaged."""
    with pytest.raises(HistoError, match=said) as caught:
        decode_patch(tiff(pixels, **options), Path("a.tif"))
    assert "save" in str(caught.value)
    assert "damaged" not in str(caught.value)


def test_of_other_pages_the_first_is_read(tmp_path):
    """Thumbnails and pyramids behind it, and further pictures."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(SLOPES, photometric="rgb", metadata=None)
        file.write(RGB, photometric="rgb", metadata=None)
    assert np.array_equal(read_patch(tmp_path / "a.tif"), SLOPES)
    with tifffile.TiffWriter(tmp_path / "grey.tif") as file:
        file.write(SLOPES[..., 0], photometric="minisblack", metadata=None)
        file.write(SLOPES[::2, ::2, 0], photometric="minisblack", subfiletype=1, metadata=None)
    assert np.array_equal(read_patch(tmp_path / "grey.tif")[..., 1], SLOPES[..., 0])


def test_twelve_bits_are_scaled_by_what_the_file_says():
    """Of 12 bits: to full range. Of 16 of which 12 are used: they stay dark, for no file says so."""
    deep = SLOPES.astype(np.uint16) << 4 | SLOPES.astype(np.uint16) >> 4
    packed = tiff(deep, bitspersample=12)
    assert np.abs(decode_patch(packed, Path("a.tif")).astype(int) - SLOPES).max() <= 1
    assert decode_patch(tiff(deep), Path("a.tif")).max() == 16


@pytest.mark.parametrize("compression", ["zlib", "lzw", "lzma", "jpeg"])
@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 7}, {"tile": (32, 32)}])
def test_a_strip_that_does_not_decode_is_refused(compression, layout):
    """OpenCV leaves it black, or what it was before, and says nothing."""
    data = tiff(TISSUE, compression=compression, **layout)
    page = tifffile.TiffFile(io.BytesIO(data)).pages[0]
    at = page.dataoffsets[-1] + page.databytecounts[-1] // 2
    hole = data[: at - 99] + bytes(99) + data[at:]
    if compression == "lzw":  # zeros are codes there: bytes are lost
        hole = data[: at - 99] + data[at:] + bytes(99)
    for _ in range(3):
        decode_patch(data, Path("a.tif"))
        with pytest.raises(HistoError, match="truncated or damaged: "):
            decode_patch(hole, Path("a.tif"))


def test_a_packbits_strip_with_bytes_lost_is_refused():
    data = tiff(TISSUE, compression="packbits", rowsperstrip=96)
    page = tifffile.TiffFile(io.BytesIO(data)).pages[0]
    at = page.dataoffsets[0] + 5000
    with pytest.raises(HistoError, match="truncated or damaged: strip 1"):
        decode_patch(data[:at] + data[at + 40 :] + bytes(40), Path("a.tif"))


def test_a_tile_larger_than_the_image_is_read():
    assert np.array_equal(decode_patch(tiff(TISSUE, tile=(112, 112)), Path("a.tif")), TISSUE)


@pytest.mark.parametrize("suffix", ["bmp", "webp"])
def test_bmp_and_webp_are_read(tmp_path, suffix):
    path = (
        saved(tmp_path, Image.fromarray(RGB), f"a.{suffix}")
        if suffix == "bmp"
        else tmp_path / "a.webp"
    )
    if suffix == "webp":
        Image.fromarray(RGB).save(path, lossless=True)
    assert np.array_equal(read_patch(path), RGB)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(HistoError, match="truncated or damaged"):
        read_patch(path)


def test_png_chunks_that_libpng_complains_of_leave_stderr_empty(tmp_path, capfd):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path, icc_profile=b"no profile at all")
    assert np.array_equal(read_patch(path), RGB)
    data = path.read_bytes()
    at = data.index(b"IDAT") + 99
    path.write_bytes(data[:at] + b"\0\0\0\0" + data[at + 4 :])
    with pytest.raises(HistoError, match="the checksum of its chunk IDAT is wrong"):
        read_patch(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [0, 5, 12, 14])
def test_a_png_whose_header_has_another_size_is_refused(tmp_path, size):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    name_and_header = (b"IHDR" + path.read_bytes()[16:29] + b"\0")[: 4 + size]
    checksum = zlib.crc32(name_and_header).to_bytes(4, "big")
    whole = path.read_bytes()
    for rest in (b"", whole[33:]):
        path.write_bytes(whole[:8] + size.to_bytes(4, "big") + name_and_header + checksum + rest)
        with pytest.raises(HistoError, match="its header is missing"):
            read_patch(path)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = saved(tmp_path, Image.new("1", (10_000, 10_000)), "bomb.png")
    assert path.stat().st_size < 100_000
    with pytest.raises(HistoError, match="larger than 50000000 pixels"):
        read_patch(path)


def test_float_samples_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(RGB[..., 0].astype(np.float32)), "a.tif")
    with pytest.raises(HistoError, match=r"32-bit samples, floating-point.*re-save it as an 8-bit"):
        read_patch(path)


def test_crop_takes_the_centre_and_size_resizes_as_fastai_does(tmp_path):
    assert np.array_equal(Fit(crop=16)(RGB, tmp_path), RGB[8:24, 8:24])
    from fastai.vision.augment import Resize, ResizeMethod
    from fastai.vision.core import PILImage

    theirs = Resize(20, method=ResizeMethod.Squish)(PILImage.create(RGB), split_idx=1)
    assert np.array_equal(Fit(size=20)(RGB, tmp_path), np.asarray(theirs))
    with pytest.raises(HistoError, match="too small for a crop of 64"):
        Fit(crop=64)(RGB, tmp_path)


def test_sizes_must_be_square_and_agree(tmp_path):
    with pytest.raises(HistoError, match="48x48 px are expected"):
        Fit(side=48)(RGB, tmp_path)
    with pytest.raises(HistoError, match="not square"):
        Fit()(RGB[:16], tmp_path)


def test_the_id_is_the_sha1_of_the_pixels():
    black = np.zeros((96, 96, 3), np.uint8)
    # Kaggle's one black patch carries this id
    assert pixel_sha1(black) == "9369c7278ec8bcc6c880d99194de09fc2bd4efbe"


def test_the_rules_that_a_file_needed_are_named(tmp_path):
    """For `histo check` to say."""
    turn = Image.Exif()
    turn[274] = 6
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "JPEG", exif=turn)
    assert remarks(file.getvalue(), tmp_path) == [EXIF_TURN]
    Image.fromarray(RGB).save(file := io.BytesIO(), "PNG", exif=turn)
    assert remarks(file.getvalue(), tmp_path) == [EXIF_TURN]
    deep = tiff(RGB.astype(np.uint16), extratags=[(274, 3, 1, 3, True)])
    assert remarks(deep, tmp_path) == [TIFF_TURN, DEEP]
    assert (
        remarks(tiff(RGB), tmp_path) == remarks(jpeg(RGB), tmp_path) == remarks(b"", tmp_path) == []
    )


def error_of(path: Path) -> str:
    """What is said of an image; nothing where it is read."""
    try:
        return "" if len(read_patch(path)) else "?"
    except HistoError as error:
        return error.message


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_an_image_for_which_there_is_no_memory_is_not_called_damaged(tmp_path, suffix):
    """As where a stranger's model, which runs meanwhile, has taken all that it may."""
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)).save(path)
    for room in (0, 10 << 20, 30 << 20):
        with memory_bounded(data_taken() + room):
            found = error_of(path)
        assert found in ("", f"{path}: there is not enough memory to decode it")
    assert read_patch(path).shape == (2000, 2000, 3)
