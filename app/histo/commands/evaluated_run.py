"""The run that `histo evaluate` makes of the rows of its parts."""

from __future__ import annotations

import csv
import glob
import io
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from histo import __version__
from histo.errors import HistoError
from histo.files.writing import write_json
from histo.run.folder import RunFolder, write_split
from histo.run.predictions import PROBABILITY, SKIPPED, write_predictions, write_skipped
from histo.run.split import Split
from histo.shards.parts import Part, fingerprint, joined_bytes

ROWS = "rows_sha256"
"""The key in environment.json of the rows that the run was made of."""
COLUMNS = ("id", "label", "group", "sha1", "seen")
"""Columns of a part before the probabilities; `seen` is as `Trained.seen` has it."""


def is_cut(out: Path) -> bool:
    """Whether a process was killed between making the run `out` and removing the parts it is of."""
    stem = glob.escape(out.name)
    found = [*out.parent.glob(f"{stem}.csv.json"), *out.parent.glob(f"{stem}.*-of-*.csv.json")]
    with suppress(HistoError):
        parts = sorted((Part.read(each.with_suffix("")) for each in found), key=lambda p: p.shard)
        return bool(parts) and written_before(parts, out) is not None
    return False


def write_joined(
    parts: Sequence[Part], out: Path | None, then: Callable[[RunFolder], object]
) -> RunFolder:
    """Write the run from its complete parts, do `then` with it, and remove the parts."""
    run = written_before(parts, out) or write_run(parts, out)
    then(run)
    for one in parts:
        one.remove()
    return run


def write_run(parts: Sequence[Part], out: Path | None) -> RunFolder:
    """Write the run folder of an evaluation whose parts are complete."""
    rows, skipped = read_rows(parts)
    ids, labels, groups, sha1, seen, *columns = zip(*rows, strict=True)
    vocab = [name.removeprefix(PROBABILITY) for name in parts[0].facts.columns[len(COLUMNS) :]]
    table = list(zip(*([float(value) for value in column] for column in columns), strict=True))
    named = groups if any(groups) else None

    def fill(run: RunFolder, _: Path) -> None:
        write_json(run.config, config_of(parts[0].settings, Counter(seen)))
        write_json(run.environment, environment_of(parts))
        write_split(run.split, ids, labels, ["test"] * len(ids), sha1, named)
        write_predictions(run.predictions, ids, labels, table, vocab)
        write_skipped(run.path / SKIPPED, skipped)

    return RunFolder.create(out, "evaluate", fill)


def read_rows(parts: Sequence[Part]) -> tuple[list[list[str]], dict[str, str]]:
    """The rows of the patches that were predicted, and why each of the others was skipped, by id."""
    text = b"".join(joined_bytes(parts)).decode()
    _, *every = csv.reader(io.StringIO(text, newline=""))
    used, why = COLUMNS.index("sha1"), COLUMNS.index("seen")
    skipped = {row[0]: row[why] for row in every if not row[used]}
    rows = [row for row in every if row[used]]
    if not rows:
        raise HistoError(
            f"none of {len(every):,} patches can be used: {next(iter(skipped.values()))}"
        )
    return rows, skipped


def config_of(settings: Mapping[str, Any], seen: Mapping[str, int]) -> dict[str, Any]:
    """The content of config.json: the settings of a part, and how many patches were `seen`."""
    split = Split.read(settings["split"])
    leak = replace(split.leak, patches=seen["1"], near=seen["2"])
    if leak:
        split = replace(split, leak=replace(leak, of=sum(seen.values())))
    given = {**settings, "split": split.as_dict()}
    positive = given.pop("positive", None)  # an entry already
    entries = {name: {"value": value, "source": "given"} for name, value in given.items()}
    return {**entries, **({"positive": positive} if positive else {})}


def environment_of(parts: Sequence[Part]) -> dict[str, Any]:
    """The content of environment.json."""
    packages = ("onnxruntime", "numpy", "opencv-python")
    found = {"histo": __version__, **{name: version(name) for name in packages}}
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return {
        "versions": {"python": platform.python_version(), **found},
        "device": parts[0].facts.engine,
        "started": now,
        "finished": now,
        ROWS: digest_of(parts),
    }


def digest_of(parts: Sequence[Part]) -> str:
    """SHA-256 over the rows of all parts, by which a run is known to be made of them."""
    return fingerprint(part.sha256 for part in parts)


def written_before(parts: Sequence[Part], out: Path | None) -> RunFolder | None:
    """The run that a process wrote of these parts before it was killed, while it removed them."""
    digest = digest_of(parts)
    for place in [out] if out else sorted(Path("runs").glob("evaluate-*")):
        with suppress(HistoError):
            run = RunFolder.open(place)
            if run.finished and run.facts().get(ROWS) == digest:
                return run
    return None
