"""Any bytes are the JSON of a run or of a part of a prediction, or a HistoError: `just fuzz run SECONDS`."""

from __future__ import annotations

import json
import random
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["histo", "json"]):
    from histo.errors import HistoError
    from histo.run.folder import RunFolder
    from histo.shards.parts import Part, TableFacts, joined_bytes
    from histo.shards.shard import Shard

CORPUS = Path(__file__).parent / "corpus" / "run"
FLAGS = ("-max_len=4096", "-rss_limit_mb=1000", "-timeout=20")
FOLDER = Path(tempfile.mkdtemp())
PART = FOLDER / "p.1-of-1.csv"
COLUMNS = ["id", "predicted", "p_0", "p_1"]
SPLIT = {"kind": "grouped", "column": "slide", "groups": 3, "folds": 0, "leak": {"groups": 1}}
CONFIG = {"data": "d", "arch": "a", "weights": "none", "crop": None, "size": 96, "split": SPLIT}
HOSTILE = (
    None,
    True,
    -1,
    2**63,
    10**400,
    1e308,
    float("nan"),
    "",
    "\ud800",
    [],
    {},
    [[]],
    {"a": 1},
)


def seeds() -> dict[str, bytes]:
    """A sound file of each kind, by name; the first byte says which it is."""
    facts = TableFacts("predict", "0" * 64, 1, "0" * 64, COLUMNS, 64, False, False, "CPU")
    Part(PART, facts, Shard(1, 1), {}, 1, 9, "0" * 64, "0" * 64).save()
    part = PART.with_name(f"{PART.name}.json").read_bytes()
    config = {name: {"value": value, "source": "given"} for name, value in CONFIG.items()}
    environment = {"versions": {"histo": "0.2"}, "started": "2025-01-01", "device": "CPU"}
    return {
        "config": b"\0" + json.dumps(config).encode(),
        "environment": b"\1" + json.dumps(environment).encode(),
        "part": b"\2" + part,
    }


def read(data: bytes) -> None:
    """One input."""
    kind, data, run = data[:1], data[1:], RunFolder(FOLDER)
    try:
        if kind == b"\2":
            PART.with_name(f"{PART.name}.json").write_bytes(data)
            PART.write_text("id,predicted,p_0,p_1\na,0,1,0\n")
            b"".join(joined_bytes([Part.read(PART)]))
        elif kind == b"\1":
            run.environment.write_bytes(data)
            assert isinstance(run.facts()["started"], str)
            assert run.finished in (True, False)
        else:
            run.config.write_bytes(data)
            settings = run.settings()
            str(run.split_of(settings).leak)
    except HistoError:
        return


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """A change of bytes, or in every second file of a value at any depth."""
    rng = random.Random(seed)
    if rng.random() < 0.5:
        with suppress(ValueError, RecursionError, AttributeError, TypeError):
            facts = json.loads(data[1:])
            holder, key = facts, rng.choice(sorted(facts))
            while isinstance(holder[key], dict) and holder[key] and rng.random() < 0.7:
                holder, key = holder[key], rng.choice(sorted(holder[key]))
            holder[key] = rng.choice(HOSTILE)
            return data[:1] + json.dumps(facts).encode()[: most - 1]
    return bytes(atheris.Mutate(data, most))


if __name__ == "__main__":
    CORPUS.mkdir(parents=True, exist_ok=True)
    for name, data in seeds().items():
        (CORPUS / name).write_bytes(data)
    atheris.Setup([sys.argv[0], str(CORPUS), *FLAGS, *sys.argv[1:]], read, custom_mutator=mutate)
    atheris.Fuzz()
