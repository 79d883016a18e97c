"""What is to be measured on a GPU has run whole on a CPU, so that it does not fail on the day."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ["training", "precision", "batch sizes", "loading", "recorder", "compile"]
"""The quick ones; `just bench-gpu --small --device cpu` tries all."""


def run(*words: str, env: dict[str, str] | None = None) -> None:
    """A benchmark, to its end, from the top folder."""
    command = [sys.executable, "-W", "ignore", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_the_measurement_on_a_gpu_runs_and_writes_its_tables(tmp_path: Path):
    """At its smallest; torch.compile itself is switched off, as it takes minutes."""
    where = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}
    words = ["benchmarks/gpu.py", "--small", "--device", "cpu", "--out", str(tmp_path)]
    words += [word for part in PARTS for word in ("--part", part)]
    run(*words, env=where)
    found = json.loads((tmp_path / "gpu-cpu.json").read_text())
    assert set(found["settings"]["seconds"]) == {*PARTS}
    assert found["settings"]["errors"] == {}
    text = (tmp_path / "gpu-cpu.md").read_text()
    for title, rows in found["tables"].items():
        assert f"| {title} | median" in text
        assert all(value >= 0 for values in rows.values() for value in values)
    assert not (ROOT / "benchmarks" / "results" / "gpu-cpu.json").exists()


def test_the_load_of_serve_runs_and_loses_nothing(tmp_path: Path):
    """At its smallest: every patch is predicted, and SIGTERM in the middle loses no request."""
    golden = ROOT / "tests" / "golden" / "bundle-2"
    words = ["benchmarks/serving.py", str(golden), str(golden / "patches"), str(tmp_path / "load")]
    words += ["--clients", "12", "--predictions", "96", "--files", "3", "--rounds", "1"]
    words += ["--minutes", "0.02", "--out", str(tmp_path / "serving.json")]
    run(*words)
    found = json.loads((tmp_path / "serving.json").read_text())
    for part in (found["serve"][0], found["more_clients_than_places"]):
        assert (part["patches"], part["failed"]) == (96, {})
    assert found["long"]["requests"] > 0
    assert found["sigterm"]["lost"] == {}
    assert found["sigterm"]["answered"] == found["sigterm"]["requests"] == 12
