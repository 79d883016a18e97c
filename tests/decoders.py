"""Random pictures by every writer at hand, read by every path: right, refused, wrong.

`python -m tests.decoders --count 1000` prints a table by kind and exits with 1 where any pixel is
wrong. tests/data/test_decode_property.py draws from the same writers by Hypothesis.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from histo.data.decode import cv2, decode_patch, read_patch
from histo.errors import HistoError

LOSSY_DECODERS = 2
"""Two decoders of one lossy file may differ by so much in a pixel."""
LOSSY_MEAN = 8.0
"""A smooth picture differs from what was saved, at quality 90 or more, by no more in the mean."""


@dataclass(frozen=True)
class Case:
    """A file, the pixels that are right, and how far off a pixel may be; no pixels: to be refused."""

    kind: str
    data: bytes
    right: np.ndarray | None
    within: int = 0


Draw = random.Random


def picture(draw: Draw, channels: int, deep: bool, smooth: bool = False) -> np.ndarray:
    """Random samples [H, W] or [H, W, channels], of a size from 1 to 70 px."""
    least = 8 if smooth else 1
    height, width = draw.randint(least, 70), draw.randint(least, 70)
    rng = np.random.default_rng(draw.randint(0, 2**32 - 1))
    if smooth:
        y, x = np.mgrid[:height, :width] / 70
        slopes = rng.uniform(-90, 90, (2, channels))
        found = 128 + y[..., None] * slopes[0] + x[..., None] * slopes[1]
        found = np.clip(found, 0, 255).astype(np.uint8)
    elif draw.random() < 0.3:  # long runs, for LZW and PackBits
        found = np.repeat(rng.integers(0, 256, (height, -(-width // 9), channels)), 9, 1)[:, :width]
    else:
        found = rng.integers(0, 256, (height, width, channels))
    found = found.astype(np.uint8)
    if deep:
        low = rng.integers(0, 256, found.shape).astype(np.uint16)
        found = found.astype(np.uint16) << 8 | low
    return found[..., 0] if channels == 1 else found


def as_read(samples: np.ndarray, most: int | None = None) -> np.ndarray:
    """What histo's rules make of grey, RGB or RGBA samples: uint8 [H, W, 3]."""
    most = most or np.iinfo(samples.dtype).max
    found = np.floor(samples.astype(np.float64) * 255 / most + 0.5).astype(np.uint8)
    return np.dstack([found] * 3) if found.ndim == 2 else found[..., :3]


def turned(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """A picture as TIFF's orientation shows it, by Pillow's names of the turns."""
    names = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
             6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip
    if orientation not in names:
        return rgb
    return np.asarray(Image.fromarray(rgb).transpose(Image.Transpose[names[orientation]]))


# tifffile

PLAIN = (None, "zlib", "lzw", "packbits", "lzma", "zstd")
OTHER = ("jpeg2000", "png", "webp", "jpegxl", "lerc", "jpegxr")


def by_tifffile(draw: Draw) -> Case:
    """A TIFF of any layout, without loss."""
    codec = draw.choice(PLAIN * 2 + OTHER)
    deep = draw.random() < 0.5 and codec != "webp"
    channels = draw.choice([3, 4]) if codec == "webp" else draw.choice([1, 1, 3, 3, 4])
    samples = picture(draw, channels, deep)
    options: dict[str, Any] = {
        "bigtiff": draw.random() < 0.3,
        "byteorder": draw.choice("<>") if codec in PLAIN else "<",
        "photometric": "rgb" if channels > 1 else draw.choice(["minisblack", "miniswhite"]),
        "compression": codec,
        "metadata": None,
    }
    kind = f"tifffile {codec or 'raw'} {16 if deep else 8} bit"
    if codec in ("webp", "jpegxl", "jpegxr"):
        options["compressionargs"] = {"lossless": True} if codec != "jpegxr" else {"level": 1.0}
    if codec == "jpeg2000":
        options["compressionargs"] = {"reversible": True, "level": 0}
    if channels == 4:
        options["extrasamples"] = ["unassalpha"]
    if channels > 1:
        options["planarconfig"] = "contig"
    stored = samples
    if codec in PLAIN and channels > 1 and draw.random() < 0.4:
        options["planarconfig"], stored = "separate", np.moveaxis(samples, -1, 0)
        kind += " planes"
    if draw.random() < 0.4:
        options["tile"] = (16 * draw.randint(1, 5), 16 * draw.randint(1, 5))
        kind += " tiles"
    elif draw.random() < 0.6:
        options["rowsperstrip"] = draw.randint(1, len(samples))
    if codec in ("zlib", "lzw", "lzma", "zstd") and draw.random() < 0.5:
        options["predictor"] = True
        kind += " predictor"
    orientation = draw.choice([1, 1, draw.randint(1, 8)])
    if orientation > 1:
        options["extratags"] = [(274, 3, 1, orientation, True)]
    file = io.BytesIO()
    tifffile.imwrite(file, stored, **options)
    right = as_read(samples)
    if options["photometric"] == "miniswhite":
        right = as_read(np.iinfo(samples.dtype).max - samples)
    return Case(kind, file.getvalue(), turned(right, orientation))


def by_tifffile_packed(draw: Draw) -> Case:
    """Samples of 1 to 14 bits, packed."""
    bits = draw.choice([1, 2, 4, 10, 12, 14])
    deep = bits > 8
    channels = draw.choice([1, 3]) if bits > 1 else 1
    samples = picture(draw, channels, deep) >> ((16 if deep else 8) - bits)
    file = io.BytesIO()
    codec = draw.choice([None, "zlib", "lzw"]) if bits == 1 else None
    tifffile.imwrite(
        file, samples if bits > 1 else samples.astype(bool),
        bitspersample=bits, compression=codec, metadata=None,
        photometric="rgb" if channels == 3 else "minisblack",
        rowsperstrip=draw.randint(1, len(samples)),
    )  # fmt: skip
    return Case(f"tifffile {bits} bits packed", file.getvalue(), as_read(samples, (1 << bits) - 1))


def by_tifffile_jpeg(draw: Draw) -> Case:
    """JPEG within TIFF, as RGB or YCbCr, in strips or tiles."""
    channels = draw.choice([1, 3])
    samples = picture(draw, channels, False, smooth=True)
    options: dict[str, Any] = {"photometric": "minisblack", "compressionargs": {"level": 95}}
    if channels == 3:
        options["photometric"] = "rgb"
        options["compressionargs"]["outcolorspace"] = draw.choice(["rgb", "ycbcr"])
    if draw.random() < 0.5:
        options["tile"] = (16 * draw.randint(1, 3), 16 * draw.randint(1, 3))
    file = io.BytesIO()
    tifffile.imwrite(file, samples, compression="jpeg", metadata=None, **options)
    theirs = tifffile.imread(io.BytesIO(file.getvalue()))
    close(theirs, samples)
    stored = options["compressionargs"].get("outcolorspace", "grey")
    return Case(f"tifffile jpeg {stored}", file.getvalue(), as_read(theirs), LOSSY_DECODERS)


def by_tifffile_refused(draw: Draw) -> Case:
    """What no rule of histo's reads: it must be said, not guessed."""
    kind = draw.choice(
        ["float16", "float32", "int16", "uint32", "grey pages", "grey planes", "CMYK 16 bit",
         "two greys", "five channels", "float predictor", "CIELab", "ImageJ channels"]
    )  # fmt: skip
    deep = picture(draw, 3, True)
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None, "planarconfig": "contig"}
    if kind in ("float16", "float32"):
        deep = (deep / 65535).astype(kind)
    elif kind in ("int16", "uint32"):
        deep = deep.astype(kind)
    elif kind == "grey pages":
        deep, options = np.moveaxis(deep, -1, 0), {"photometric": "minisblack", "metadata": None}
    elif kind == "grey planes":
        deep, options["photometric"] = np.moveaxis(deep, -1, 0), "minisblack"
        options["planarconfig"] = "separate"
    elif kind == "CMYK 16 bit":
        deep, options["photometric"] = np.dstack([deep, deep[..., :1]]), "separated"
    elif kind == "two greys":
        deep, options["photometric"] = deep[..., :2].copy(), "minisblack"
    elif kind == "five channels":
        deep = np.dstack([deep, deep[..., :2]])
    elif kind == "float predictor":
        deep, options["predictor"] = (deep / 65535).astype("float32"), True
        options["compression"] = "zlib"
    elif kind == "CIELab":
        options["photometric"] = "cielab"
    elif kind == "ImageJ channels":
        deep = np.moveaxis(deep, -1, 0)
        options = {"imagej": True, "metadata": {"axes": "CYX"}}
        options["photometric"] = "minisblack"
    file = io.BytesIO()
    tifffile.imwrite(file, deep, **options)
    return Case(f"refused: {kind}", file.getvalue(), None)


def by_tifffile_alpha(draw: Draw) -> Case:
    """Colours multiplied by alpha: divided by it; grey with alpha: the grey."""
    samples = picture(draw, 4, False)
    file = io.BytesIO()
    if draw.random() < 0.5:
        grey = samples[..., :2].copy()
        tifffile.imwrite(file, grey, photometric="minisblack", planarconfig="contig",
                         extrasamples=["unassalpha"], metadata=None)  # fmt: skip
        return Case("tifffile grey with alpha", file.getvalue(), as_read(grey[..., 0]))
    tifffile.imwrite(file, samples, photometric="rgb", extrasamples=["assocalpha"],
                     planarconfig="contig", metadata=None)  # fmt: skip
    right = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    return Case("tifffile associated alpha", file.getvalue(), right)


# Pillow


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pillow_image(draw: Draw, modes: list[str]) -> Image.Image:
    mode = draw.choice(modes)
    if mode == "I;16":
        return Image.fromarray(picture(draw, 1, True))
    if mode == "L":
        return Image.fromarray(picture(draw, 1, False))
    if mode in ("RGB", "RGBA"):
        return Image.fromarray(picture(draw, len(mode), False))
    if mode == "P":
        return Image.fromarray(picture(draw, 3, False)).quantize(draw.choice([2, 16, 200]))
    if mode == "CMYK":
        return Image.fromarray(picture(draw, 4, False), "CMYK")
    return Image.fromarray(picture(draw, 3, False)).convert(mode)


def pillow_right(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        return as_read(np.asarray(image).astype(np.uint16))
    return np.asarray(image.convert("RGB"))


def by_pillow_tiff(draw: Draw) -> Case:
    """TIFFs by Pillow's libtiff."""
    codec = draw.choice(["raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits",
                         "lzma", "zstd", "group3", "group4"])  # fmt: skip
    if codec.startswith("group"):
        image = pillow_image(draw, ["1"])
    else:
        image = pillow_image(draw, ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
    options: dict[str, Any] = {"big_tiff": draw.random() < 0.2}
    orientation = draw.choice([1, 1, draw.randint(1, 8)])
    if orientation > 1:
        options["tiffinfo"] = {274: orientation}
    data = saved(image, "TIFF", compression=codec, **options)
    right = turned(pillow_right(image), orientation)
    return Case(f"Pillow TIFF {codec} {image.mode}", data, right)


def by_pillow_png(draw: Draw) -> Case:
    """PNGs of every colour type and depth, with chunks that are not pixels."""
    image = pillow_image(draw, ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
    options: dict[str, Any] = {"optimize": draw.random() < 0.3}
    if draw.random() < 0.3:
        options["exif"] = exif(draw.randint(1, 8))
    if draw.random() < 0.3:
        options["icc_profile"] = b"no profile at all"
    if image.mode in ("L", "P", "RGB") and draw.random() < 0.3:
        options["transparency"] = 0 if image.mode != "RGB" else (0, 0, 0)
    return Case(f"Pillow PNG {image.mode}", saved(image, "PNG", **options), pillow_right(image))


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[274] = orientation
    return made.tobytes()


def by_pillow_bmp(draw: Draw) -> Case:
    """BMPs."""
    image = pillow_image(draw, ["1", "L", "P", "RGB", "RGBA"])
    return Case(f"Pillow BMP {image.mode}", saved(image, "BMP"), pillow_right(image))


def by_pillow_webp(draw: Draw) -> Case:
    """WebPs, with loss and without."""
    if draw.random() < 0.5:
        image = pillow_image(draw, ["RGB", "RGBA"])
        return Case(
            "Pillow WebP lossless",
            saved(image, "WEBP", lossless=True, exact=True),
            pillow_right(image),
        )
    samples = picture(draw, 3, False, smooth=True)
    data = saved(Image.fromarray(samples), "WEBP", quality=95, exif=exif(6))
    theirs = cv2.imdecode(
        np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    )
    close(theirs, samples)
    return Case("Pillow WebP lossy", data, theirs, LOSSY_DECODERS)


def close(read: np.ndarray, saved_as: np.ndarray) -> None:
    """The reference itself is near what was saved."""
    off = float(np.abs(read.astype(int) - saved_as).mean())
    assert off <= LOSSY_MEAN, f"the reference is {off:.1f} off"


def by_pillow_jpeg(draw: Draw) -> Case:
    """JPEGs by Pillow: progressive, subsampled, grey, four inks, turned by EXIF, with bytes after."""
    mode = draw.choice(["L", "RGB", "RGB", "CMYK"])
    image = Image.fromarray(picture(draw, 3, False, smooth=True)).convert(mode)
    data = saved(
        image, "JPEG", quality=draw.choice([90, 95, 100]), progressive=draw.random() < 0.4,
        optimize=draw.random() < 0.4, subsampling=(chroma := draw.choice([0, 1, 2])),
        restart_marker_blocks=draw.choice([0, 1, 3]),
        exif=exif(draw.randint(1, 8)) if draw.random() < 0.3 else b"",
    )  # fmt: skip
    if mode == "CMYK" and chroma:  # nothing at hand says of these whether they are whole
        return Case("refused: Pillow JPEG CMYK subsampled", data, None)
    theirs = Image.open(io.BytesIO(data))
    right = np.asarray(theirs.convert("RGB"))
    close(right, np.asarray(image.convert("RGB")))
    if draw.random() < 0.3:
        data += bytes(draw.choice([b"\0", b"\xff", b"\xff\xd9", b"text"]) * draw.randint(1, 3000))
    return Case(f"Pillow JPEG {mode}", data, right, LOSSY_DECODERS)


# OpenCV


def by_opencv(draw: Draw) -> Case:
    """TIF, PNG, BMP and WebP by OpenCV, of 8 and 16 bits."""
    suffix = draw.choice([".tif", ".tif", ".png", ".bmp", ".webp"])
    deep = draw.random() < 0.5 and suffix in (".tif", ".png")
    channels = draw.choice([1, 3, 4] if suffix != ".webp" else [3, 4])
    samples = picture(draw, channels, deep)
    how: list[int] = []
    if suffix == ".tif":
        how = [cv2.IMWRITE_TIFF_COMPRESSION, draw.choice([1, 5, 8, 32946, 32773]),
               cv2.IMWRITE_TIFF_ROWSPERSTRIP, draw.randint(1, len(samples))]  # fmt: skip
        if how[1] in (5, 8, 32946) and draw.random() < 0.5:
            how += [cv2.IMWRITE_TIFF_PREDICTOR, 2]
    if suffix == ".webp":
        how = [cv2.IMWRITE_WEBP_QUALITY, 101]
    order = samples if channels == 1 else samples[..., [2, 1, 0, 3][:channels]]
    good, data = cv2.imencode(suffix, np.ascontiguousarray(order), how)
    assert good
    right = as_read(samples)
    if suffix == ".webp" and channels == 4:  # colours under full transparency are not kept
        right = np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("RGB"))
    return Case(f"OpenCV {suffix} {16 if deep else 8} bit", data.tobytes(), right)


# imagecodecs


def by_imagecodecs(draw: Draw) -> Case:
    """PNG, BMP, WebP and JPEG by imagecodecs."""
    kind = draw.choice(["png", "png 16", "bmp", "webp", "jpeg"])
    if kind == "jpeg":
        samples = picture(draw, draw.choice([1, 3]), False, smooth=True)
        options = (
            {}
            if samples.ndim == 2
            else {"subsampling": draw.choice(["444", "422", "420", "440", "411"])}
        )
        data = bytes(
            imagecodecs.jpeg8_encode(samples, level=95, optimize=draw.random() < 0.5, **options)
        )
        theirs = imagecodecs.jpeg8_decode(data)
        close(theirs, samples)
        return Case("imagecodecs JPEG", data, as_read(theirs), LOSSY_DECODERS)
    channels = draw.choice({"bmp": [1, 3], "webp": [3, 4]}.get(kind, [1, 3, 4]))
    samples = picture(draw, channels, kind == "png 16")
    encode: dict[str, Callable[..., Any]] = {
        "png": imagecodecs.png_encode, "png 16": imagecodecs.png_encode,
        "bmp": imagecodecs.bmp_encode, "webp": lambda a: imagecodecs.webp_encode(a, lossless=True),
    }  # fmt: skip
    data = bytes(encode[kind](samples))
    right = as_read(samples)
    if kind == "webp" and channels == 4:
        right = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return Case(f"imagecodecs {kind}", data, right)


# damage


def damaged(draw: Draw) -> Case:
    """A whole file with a part cut out, or zeros in it: the formats that can be checked must see it."""
    samples = np.random.default_rng(draw.randint(0, 2**32 - 1)).normal(
        (225, 170, 200), 25, (96, 96, 3)
    )
    image = Image.fromarray(samples.clip(0, 255).astype(np.uint8))
    kind = draw.choice(
        ["JPEG", "JPEG progressive", "PNG", "deflate TIFF", "deflate WebP", "BMP", "JPEG TIFF"]
    )
    data = {
        "JPEG": lambda: saved(image, "JPEG", quality=90),
        "JPEG progressive": lambda: saved(image, "JPEG", quality=90, progressive=True),
        "PNG": lambda: saved(image, "PNG"),
        "deflate TIFF": lambda: saved(image, "TIFF", compression="tiff_adobe_deflate"),
        "deflate WebP": lambda: saved(image, "WEBP", lossless=True),
        "BMP": lambda: saved(image, "BMP"),
        "JPEG TIFF": lambda: saved(image, "TIFF", compression="jpeg", quality=90),
    }[kind]()
    start = int(len(data) * draw.uniform(0.25, 0.85))
    if kind in ("BMP", "deflate WebP"):
        return Case(f"damaged {kind}: cut", data[:start], None)
    if kind.startswith("JPEG") and kind != "JPEG TIFF" and draw.random() < 0.5:
        return Case(f"damaged {kind}: cut, end marker", data[:start] + b"\xff\xd9", None)
    size = draw.choice([64, 200, 512])
    return Case(f"damaged {kind}: hole", data[:start] + bytes(size) + data[start + size :], None)


WRITERS: list[Callable[[Draw], Case]] = [
    by_tifffile, by_tifffile, by_tifffile, by_tifffile_packed, by_tifffile_jpeg, by_tifffile_refused,
    by_tifffile_alpha, by_pillow_tiff, by_pillow_tiff, by_pillow_png, by_pillow_bmp, by_pillow_webp,
    by_pillow_jpeg, by_opencv, by_imagecodecs, damaged,
]  # fmt: skip


# reading


def verdict(read: Callable[[bytes, Path], np.ndarray], case: Case, path: Path) -> str:
    """`right`, `refused`, or what is wrong."""
    try:
        pixels = read(case.data, path)
    except HistoError as error:
        if "\n" in str(error) or not str(error).startswith(str(path)):
            return f"wrong: {error!r} is not one line that names the file"
        return f"refused: {error}"
    if case.right is None:
        return "wrong: read"
    if pixels.shape != case.right.shape or pixels.dtype != np.uint8:
        return f"wrong: {pixels.dtype} {pixels.shape} for {case.right.shape}"
    off = int(np.abs(pixels.astype(int) - case.right).max())
    return "right" if off <= case.within else f"wrong: {off} off"


def by_fastai(data: bytes) -> np.ndarray:
    """As learner.pkl reads: fastai's load_image is Pillow's open, load and convert."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return np.asarray(image.convert("RGB"))


def agrees(case: Case) -> bool:
    """Whether learner.pkl reads what histo reads; a refusal of either is none."""
    try:
        pixels = by_fastai(case.data)
    except Exception:
        return case.right is None
    if case.right is None or pixels.shape != case.right.shape:
        return False
    return bool(np.abs(pixels.astype(int) - case.right).max() <= case.within)


def main() -> int:
    """The table; 1 where anything is wrong."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--verbose", action="store_true", help="say why whole files are refused")
    given = options.parse_args()
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patch.img"
        for n in range(given.count):
            draw = random.Random(given.seed * 10**6 + n)
            case = WRITERS[n % len(WRITERS)](draw)
            path.write_bytes(case.data)
            for said in (
                verdict(decode_patch, case, path),
                verdict(lambda _, p: read_patch(p), case, path),
            ):
                if said.startswith("wrong"):
                    wrong.append(f"{n}: {case.kind}: {said}")
                if said.startswith("refused") and case.right is not None and given.verbose:
                    print(f"{n}: {case.kind}: {said}")
            found[case.kind][said.partition(":")[0]] += 1
            found[case.kind]["learner"] += agrees(case)
    print(f"{'kind':44}{'files':>7}{'right':>7}{'refused':>9}{'wrong':>7}{'learner.pkl alike':>19}")
    total: Counter[str] = Counter()
    for kind, counts in sorted(found.items()):
        total += counts
        print(_line(kind, counts))
    print(_line("all", total))
    print("\n".join(wrong))
    return 1 if wrong else 0


def _line(kind: str, counts: Counter[str]) -> str:
    files = counts["right"] + counts["refused"] + counts["wrong"]
    return f"{kind:44}{files:7}{counts['right']:7}{counts['refused']:9}{counts['wrong']:7}{counts['learner']:19}"


if __name__ == "__main__":
    sys.exit(main())
