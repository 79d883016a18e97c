"""Any bytes are annotations of a slide or a HistoError: `just fuzz geojson SECONDS`.

The first byte says whether the others are a GeoJSON or an XML of ASAP. A traceback, more than 1 GB
or more than 20 seconds stops it, with the bytes in a file `crash-…`.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["histo", "json", "xml"]):
    from histo.errors import HistoError
    from histo.slides.annotations import read_annotations

import numpy as np

CORPUS = Path(__file__).parent / "corpus" / "geojson"
FLAGS = ("-max_len=4096", "-rss_limit_mb=1000", "-timeout=20")
FOLDER = Path(tempfile.mkdtemp())
SIZE = (2000, 1000)
BOXES = np.array([[0.0, 0, 50, 50], [100, 100, 400, 400]])
RING = [[0, 0], [0, 300], [300, 300], [300, 0], [0, 0]]
HOSTILE: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        1e308,
        1e-308,
        1 << 70,
        "",
        "x",
        [],
        {},
        [[]],
        [RING],
        [[RING]],
        [RING, RING],
    ),
    *(float("nan"), float("inf"), [0, 0], [[0, 0], [1, 1]], [[0, 0, 0]] * 4, "Polygon", "Point"),
    *("MultiPolygon", "GeometryCollection", "Feature", {"type": "Polygon", "coordinates": [RING]}),
)


def seeds() -> dict[str, bytes]:
    """A sound file of each form, by name."""
    made = {}
    for name, kind, rings in (
        ("one", "Polygon", [RING]),
        ("many", "MultiPolygon", [[RING], [RING]]),
    ):
        shape = {"type": kind, "coordinates": rings}
        facts = {
            "objectType": "annotation",
            "classification": {"name": "Tumor", "color": [1, 2, 3]},
        }
        feature = {"type": "Feature", "geometry": shape, "properties": facts}
        for form in (feature, [feature], {"type": "FeatureCollection", "features": [feature]}):
            made[f"{name}-{len(made)}"] = b"\0" + json.dumps(form).encode()
    corners = "".join(f'<Coordinate Order="{n}" X="{x}" Y="{y}"/>' for n, (x, y) in enumerate(RING))
    made["asap"] = (
        b"\1"
        + (
            "<ASAP_Annotations><Annotations><Annotation Name='a' PartOfGroup='Tumor' Type='Polygon'>"
            f"<Coordinates>{corners}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
        ).encode()
    )
    return made


def read(data: bytes) -> None:
    """One input."""
    path = FOLDER / ("a.xml" if data[:1] == b"\1" else "a.geojson")
    path.write_bytes(data[1:])
    try:
        found = read_annotations(path, SIZE, (0, 0), {}, 0.5)
    except HistoError:
        return
    for cover in found.covers.values():
        shares = cover(BOXES)
        assert shares.shape == (len(BOXES),)
        assert ((shares >= 0) & (shares <= 1 + 1e-9)).all()


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """A change of bytes, or in every second GeoJSON of a value at any depth."""
    rng = random.Random(seed)
    if rng.random() < 0.5:
        with suppress(ValueError, RecursionError, AttributeError, TypeError, IndexError):
            holder = facts = json.loads(data[1:])
            keys = lambda of: range(len(of)) if isinstance(of, list) else sorted(of)  # noqa: E731
            key = rng.choice(keys(holder))
            while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.8:
                holder = holder[key]
                key = rng.choice(keys(holder))
            holder[key] = rng.choice(HOSTILE)
            return data[:1] + json.dumps(facts).encode()[: most - 1]
    return bytes(atheris.Mutate(data, most))


if __name__ == "__main__":
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, data in seeds().items():
        (CORPUS / name).write_bytes(data)
    atheris.Setup([sys.argv[0], str(CORPUS), *FLAGS, *sys.argv[1:]], read, custom_mutator=mutate)
    atheris.Fuzz()
