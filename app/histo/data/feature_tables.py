"""Features for other programs: HDF5 as CLAM, TRIDENT or STAMP read it, and Parquet."""

from __future__ import annotations

import io
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.config import Layout
from histo.data.tile_places import TilePlaces
from histo.errors import HistoError
from histo.files.writing import written

HDF5 = (".h5", ".hdf5")
MAGIC = b"\x89HDF\r\n\x1a\n"
VERSION = "histo_version"
"""What the version of histo is called in a table."""
PARQUET = ".parquet"


@dataclass(frozen=True)
class FeatureTable:
    """Features [N, F] of N patches, where they are from, and what they were made with."""

    ids: list[str]
    features: NDArray[np.float32]
    places: TilePlaces | None
    side: int
    """of a patch in px, as the body saw it"""
    mpp: float | None
    """µm per px of that"""
    made_with: Mapping[str, str]

    def of_slide(self, name: str) -> FeatureTable:
        """The patches of one slide."""
        assert self.places is not None
        rows = [row for row, slide in enumerate(self.places.slides) if slide == name]
        ids = [self.ids[row] for row in rows]
        return replace(self, ids=ids, features=self.features[rows], places=self.places.pick(rows))

    @property
    def corners(self) -> NDArray[np.int64]:
        """Level-0 px [N, 2]; side by side where it is not known where patches are from."""
        if self.places is not None:
            return self.places.corners
        return np.stack([np.arange(len(self.ids)) * self.side, np.zeros(len(self.ids), int)], 1)

    @property
    def width(self) -> int:
        """Side of a patch in level-0 px."""
        return self.side if self.places is None else int(np.median(self.places.width))


def check_table(path: Path) -> None:
    """HistoError for a suffix that is none of ours, and for a package that is not there."""
    suffix = path.suffix.lower()
    if suffix not in (*HDF5, PARQUET, ""):
        raise HistoError(
            f"{path}: features are written as .h5 or .parquet, or as a folder with a .h5 per slide",
            "give another {out}",
        )
    package = "pyarrow" if suffix == PARQUET else "h5py"
    if find_spec(package) is None:
        raise HistoError(
            f"{path} needs {package}, which is not installed", "pip install 'histolearn[features]'"
        )


def is_ours(path: Path) -> bool:
    """Whether a file of features was written by histo: it names the version."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data[: len(MAGIC)] == MAGIC and data.find(VERSION.encode()) >= 0


def write_table(path: Path, table: FeatureTable, layout: Layout) -> None:
    """Write features as the suffix says, whole or not at all."""
    if path.suffix.lower() == PARQUET:
        write_parquet(path, table)
    else:
        write_hdf5(path, table, layout)


def write_hdf5(path: Path, table: FeatureTable, layout: Layout) -> None:
    """`features` and `coords` in level-0 px (CLAM, TRIDENT), or `feats` and `coords` in µm (STAMP)."""
    import h5py

    data = io.BytesIO()
    with h5py.File(data, "w") as made:
        if layout == "stamp":
            _write_stamp(made, table)
        else:
            _write_clam(made, table, path.stem)
        made.create_dataset("ids", data=table.ids, dtype=h5py.string_dtype(), track_times=False)
        made.attrs.update(table.made_with)
    with written(path) as file:
        file.write(data.getbuffer())


def _write_clam(made: Any, table: FeatureTable, name: str) -> None:
    made.create_dataset("features", data=table.features, track_times=False)
    coords = made.create_dataset("coords", data=table.corners, track_times=False)
    facts = {"name": name, "patch_level": 0, "patch_size": table.side}
    coords.attrs.update({**facts, "patch_size_level0": table.width})


def _write_stamp(made: Any, table: FeatureTable) -> None:
    assert table.mpp is not None
    tile = table.mpp * table.side
    width = table.width if table.places is None else table.places.width[:, None]
    coords = (table.corners * (tile / width)).astype(np.float32)  # slides may have other px
    made.create_dataset("feats", data=table.features, track_times=False)
    made.create_dataset("coords", data=coords, track_times=False)
    made.attrs.update({"extractor": table.made_with["body"], "unit": "um", "feat_type": "tile"})
    made.attrs.update({"tile_size_um": tile, "tile_size_px": table.side})


def write_parquet(path: Path, table: FeatureTable) -> None:
    """A row per patch: id, slide, x and y where known, and features as a list of fixed length."""
    import pyarrow
    from pyarrow import parquet

    flat = pyarrow.array(table.features.reshape(-1))
    columns: dict[str, Any] = {"id": pyarrow.array(table.ids)}
    if table.places is not None:
        columns |= {"slide": pyarrow.array(table.places.slides)}
        columns |= {name: table.corners[:, n] for n, name in enumerate("xy")}
    columns["features"] = pyarrow.FixedSizeListArray.from_arrays(flat, table.features.shape[1])
    made = pyarrow.table(columns).replace_schema_metadata(dict(table.made_with))
    data = io.BytesIO()
    parquet.write_table(made, data)
    with written(path) as file:
        file.write(data.getbuffer())
