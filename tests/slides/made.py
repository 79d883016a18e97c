"""Small slides made for tests: in a file, or in memory with the reader's interface."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile

TISSUE = (200, 120, 190)
GLASS = 243


def write_slide(path: Path, pixels: np.ndarray, mpp: float | None, steps: tuple = (2.0,)) -> Path:
    """Write uint8 [H, W, 3] as a tiled, pyramidal TIFF; `steps` are down-samples of its levels."""
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for step in (1.0, *steps):
            height, width = (round(side / step) for side in pixels.shape[:2])
            level = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
            known = {} if mpp is None else {"resolution": (1e4 / mpp / step,) * 2}
            unit = {} if mpp is None else {"resolutionunit": "CENTIMETER"}
            tiff.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                compression="lzw",
                subfiletype=int(step > 1),
                metadata=None,
                **known,
                **unit,
            )
    return path


def tissue_slide(width: int, height: int, margin: int = 96) -> np.ndarray:
    """Plain tissue with a margin of glass, uint8 [H, W, 3]."""
    pixels = np.full((height, width, 3), GLASS, np.uint8)
    pixels[margin:-margin, margin:-margin] = TISSUE
    return pixels


@dataclass
class MemorySlide:
    """A slide in memory, whose tissue may begin at `bounds`."""

    pixels: np.ndarray
    mpp: float
    bounds: tuple[int, int] = (0, 0)
    path: Path = Path("memory.mrxs")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of level 0."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def end(self) -> tuple[int, int]:
        """Where the scanned area ends."""
        return self.size

    @property
    def scanned(self) -> tuple[int, int]:
        """Width and height of the scanned area, which ends with the slide."""
        return self.size[0] - self.bounds[0], self.size[1] - self.bounds[1]

    def read(self, x: int, y: int, width: int, height: int, *, scale: float) -> np.ndarray:
        """As the reader's."""
        shape = round(height * scale), round(width * scale)
        region = np.full((*shape, 3), 255, np.uint8)
        part = self.pixels[y : y + shape[0], x : x + shape[1]]
        region[: part.shape[0], : part.shape[1]] = part
        return cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA)

    def thumbnail(self, mpp: float) -> np.ndarray:
        """As the reader's."""
        step = mpp / self.mpp
        width, height = (max(1, round(side / step)) for side in self.scanned)
        left, top = self.bounds
        return cv2.resize(self.pixels[top:, left:], (width, height), interpolation=cv2.INTER_AREA)


def write_scn(path: Path, pixels: np.ndarray, mpp: float, at: tuple[int, int]) -> Path:
    """Write a slide as Leica does, its scanned area at `at` on a larger one: OpenSlide gives bounds."""
    height, width = pixels.shape[:2]
    nm = round(1000 * mpp)
    whole = (at[0] + width + 200, at[1] + height + 200)
    small = np.full((64, 64, 3), GLASS, np.uint8)
    quarter = cv2.resize(pixels, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    levels = [(width, height, 1), (width // 4, height // 4, 2)]
    images = scn_image([(64, 64, 0)], (whole[0] * nm, whole[1] * nm, 0, 0)) + scn_image(
        levels, (width * nm, height * nm, at[0] * nm, at[1] * nm)
    )
    xml = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" '
        f'uuid="x"><collection name="c" uuid="c" sizeX="{whole[0] * nm}" '
        f'sizeY="{whole[1] * nm}">{images}</collection></scn>'
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, level in enumerate((small, pixels, quarter)):
            tiff.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                compression="lzw",
                metadata=None,
                description=xml if number == 0 else None,
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
            )
    return path


def scn_image(levels: list[tuple[int, int, int]], view: tuple[int, int, int, int]) -> str:
    """An image of Leica's XML: width, height and IFD of its levels; size and place in nm."""
    dimensions = "".join(
        f'<dimension sizeX="{x}" sizeY="{y}" r="{r}" ifd="{ifd}"/>'
        for r, (x, y, ifd) in enumerate(levels)
    )
    return (
        '<image name="i" uuid="u"><creationDate>2020-01-01T00:00:00</creationDate>'
        f'<device model="m" version="1"/><pixels sizeX="{levels[0][0]}" sizeY="{levels[0][1]}">'
        f'{dimensions}</pixels><view sizeX="{view[0]}" sizeY="{view[1]}" offsetX="{view[2]}" '
        f'offsetY="{view[3]}" spacingZ="0"/><scanSettings><objectiveSettings><objective>20'
        "</objective></objectiveSettings><illuminationSettings><numericalAperture>0.4"
        "</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image>"
    )


def write_svs(path: Path, pixels: np.ndarray, mpp: float) -> Path:
    """Write a slide as Aperio does: baseline, thumbnail in strips, then the levels."""
    says = f"Aperio Image Library v10.0.50\r\n{{}} |AppMag = 20|MPP = {mpp}"
    height, width = pixels.shape[:2]
    with tifffile.TiffWriter(path, bigtiff=False) as tiff:
        for step, tile in ((1, (256, 256)), (8, None), (4, (256, 256))):
            shape = (width // step, height // step)
            level = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA)
            text = says.format(f"{width}x{height} [0,0 {width}x{height}]")
            kept = {"photometric": "rgb", "metadata": None, "description": text}
            tiff.write(level, tile=tile, compression="lzw" if tile else None, **kept)
    return path
