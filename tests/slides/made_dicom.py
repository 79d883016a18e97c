"""A slide written as a DICOM series: a file a level, tiled, not compressed (by pydicom)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, VLWholeSlideMicroscopyImageStorage, generate_uid

TILE = 256


def write_dicom(
    folder: Path, pixels: np.ndarray, mpp: float, steps: tuple = (4.0,), prefix: str = "level"
) -> Path:
    """Write uint8 [H, W, 3] and levels down-sampled by `steps` as one series; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    series = {name: generate_uid() for name in ("study", "series", "frame", "pyramid")}
    for number, step in enumerate((1.0, *steps)):
        height, width = (round(side / step) for side in pixels.shape[:2])
        level = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        found = image(level, mpp * pixels.shape[1] / width, series, number)
        found.save_as(folder / f"{prefix}{number}.dcm", enforce_file_format=True)
    return folder


def image(level: np.ndarray, mpp: float, series: dict[str, str], number: int) -> FileDataset:
    """One level as an instance of the series."""
    height, width = level.shape[:2]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    found.SOPClassUID = meta.MediaStorageSOPClassUID
    found.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    found.ImageType = ["ORIGINAL" if number == 0 else "DERIVED", "PRIMARY", "VOLUME", "NONE"]
    found.Modality, found.Manufacturer, found.SeriesNumber = "SM", "histo", 1
    found.StudyInstanceUID, found.SeriesInstanceUID = series["study"], series["series"]
    found.FrameOfReferenceUID, found.PyramidUID = series["frame"], series["pyramid"]
    found.InstanceNumber = number + 1
    found.TotalPixelMatrixColumns, found.TotalPixelMatrixRows = width, height
    found.ImagedVolumeWidth, found.ImagedVolumeHeight = width * mpp / 1000, height * mpp / 1000
    found.ImagedVolumeDepth = 1.0
    found.Rows = found.Columns = TILE
    found.SamplesPerPixel, found.PhotometricInterpretation = 3, "RGB"
    found.PlanarConfiguration = found.PixelRepresentation = 0
    found.BitsAllocated = found.BitsStored = 8
    found.HighBit = 7
    found.NumberOfOpticalPaths = found.TotalPixelMatrixFocalPlanes = 1
    found.DimensionOrganizationType = "TILED_FULL"
    found.SharedFunctionalGroupsSequence = [shared(mpp)]
    tiles = tiles_of(level)
    found.NumberOfFrames = len(tiles)
    found.PixelData = tiles.tobytes()
    return found


def shared(mpp: float) -> Dataset:
    """What all tiles share: the size of a px in mm."""
    measures, groups = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1000, mpp / 1000], 0.001
    groups.PixelMeasuresSequence = [measures]
    return groups


def tiles_of(level: np.ndarray) -> np.ndarray:
    """All tiles, row by row, uint8 [N, TILE, TILE, 3]; white beyond the edge."""
    rows, columns = (-(-side // TILE) for side in level.shape[:2])
    whole = np.full((rows * TILE, columns * TILE, 3), 255, np.uint8)
    whole[: level.shape[0], : level.shape[1]] = level
    parts = whole.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2)
    return np.ascontiguousarray(parts.reshape(-1, TILE, TILE, 3))
