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


@pytest.mark.slow
def test_the_operators_of_a_training_step_add_up_to_the_step(tmp_path: Path):
    """In fp32 and in bf16, on a CPU of one thread."""
    words = ["benchmarks/speed.py", "profile", "--arch", "squeezenet1_1", "--device", "cpu"]
    words += ["--patches", "160", "--rounds", "1", "--out", str(tmp_path / "profile.json")]
    run(*words, env={**os.environ, "OMP_NUM_THREADS": "1"})
    tables = json.loads((tmp_path / "profile.json").read_text())["tables"]
    assert [*tables] == [f"a step of squeezenet1_1 in {each}, ms" for each in ("fp32", "bf16")]
    for rows in tables.values():
        [whole] = rows.pop("the whole step")
        assert sum(time for [time] in rows.values()) == pytest.approx(whole)
        assert rows["aten::convolution_backward"] > rows["aten::max_pool2d_with_indices"]


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_trainings_of_rivals_make_a_table_of_medians(tmp_path: Path):
    """Of what is there: a tool without a training at some time has an empty cell."""
    entry = {"network": "tf_efficientnet_lite0", "frozen": 0}
    entry |= {"weights": "tf_efficientnet_lite0-imagenet.safetensors"}
    entry |= {"tool": "timm", "versions": {"timm": "1.0"}, "process_seconds": 40.0}
    trial = {**entry, "tuned": False, "seconds_given": 0, "seconds": 9.0, "rate": 1.0, "auc": 0.1}
    rows = [trial, {**trial, "seconds_given": 60, "rate": 80.0, "auc": 0.75}]
    rows += [
        {**trial, "tuned": True, "seconds_given": 30, "seconds": 29.6, "rate": rate, "auc": auc}
        for rate, auc in ((90.0, 0.9), (91.0, 0.95), (99.0, 0.92))
    ]
    out = tmp_path / "rows.jsonl"
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["benchmarks/training_rivals.py", "--table", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert done.stdout.splitlines()[2:] == [
        "| tf_efficientnet_lite0 | timm (1.0) | 80 |  | 0.750 | -, 9 | -, 40 |",
        "| tf_efficientnet_lite0 | timm, tuned (1.0) | 91 | 0.920 |  | 30, - | 40, - |",
    ]
