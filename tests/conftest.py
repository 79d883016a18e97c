"""Synthetic patches, and one tiny run trained for real, a session."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run on each core; sums do not vary with it

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from histo.cli import app
from histo.data.decode import cv2
from histo.data.synth import write_dataset
from histo.model.body import make_body
from histo.model.card import CARD, SEAL, seal_of
from histo.screen import Screen
from tests.ways import COMMANDS, unknown_ways

SHARED = Path(__file__).parents[2] / "shared"
TINY = ("--arch", "squeezenet1_1", "--no-store", "--batch-size", "16", "--device", "cpu")
TINY += ("--precision", "fp32")
"""in fp32, whatever the processor: test_precision.py trains in bf16"""


def run_histo(*words: Any) -> Result:
    """A histo command line, in this process; the ways out that its messages name exist."""
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    if result.exit_code != 2 and words and words[0] in COMMANDS:
        for line in result.output.splitlines():
            if line.startswith(("error", "note")):
                assert not unknown_ways(line, str(words[0])), line
    return result


def histo_process(*words: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """A histo command line, in a process of its own."""
    command = [sys.executable, "-m", "histo", *[str(word) for word in words]]
    return subprocess.run(command, capture_output=True, check=False, **{"text": True, **kwargs})


def assert_one_line_error(result: Result, *parts: str) -> None:
    """Exit status 1 and one line on stderr that holds the parts."""
    assert result.exit_code == 1, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(("error: ", "error (process "))
    for part in parts:
        assert part in lines[0]


def write_image(path: Path, pixels: np.ndarray) -> Path:
    """Write RGB or grey pixels as the suffix says."""
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    return path


def rows_of(table: Path) -> list[dict[str, str]]:
    """The rows of a CSV with a header."""
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Memory:
    """The most memory that this process takes from here on, above what it has now."""

    def __init__(self) -> None:
        self._known = os.access("/proc/self/clear_refs", os.W_OK)
        if self._known:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        self._start = self._peak()

    def _peak(self) -> int:
        if not self._known:
            return 0
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    @property
    def taken(self) -> int:
        """In bytes."""
        return self._peak() - self._start


def edit_card(bundle: Path, **changes: Any) -> None:
    """Change facts of a card, or with ... take them out, and seal it as histo would."""
    card = {**json.loads((bundle / CARD).read_text()), **changes}
    card = {name: value for name, value in card.items() if value is not ... and name != SEAL}
    replace_file(bundle / CARD, json.dumps({**card, SEAL: seal_of(card)}).encode())


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file: the sound one may be linked from elsewhere."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def unfinish(run: Path) -> None:
    """Let a run say no more that it came to its end."""
    path = run / "environment.json"
    facts = json.loads(path.read_text())
    path.write_text(
        json.dumps({name: value for name, value in facts.items() if name != "finished"})
    )


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 labelled synthetic patches of 48 px in train/ and 24 more in test/."""
    folder = tmp_path_factory.mktemp("dataset")
    write_dataset(folder, 160, 1, Screen(quiet=True), side=48)
    return write_dataset(folder, 24, 2, Screen(quiet=True), side=48, labels=False)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A body's weights in a file: random, but the same each session."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "body.safetensors"
    save_file({k: v.contiguous() for k, v in make_body("squeezenet1_1").state_dict().items()}, path)
    return path


@pytest.fixture(scope="session")
def tiny_run(dataset: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, trained, interpreted and exported by the commands themselves."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    result = run_histo("train", dataset, *TINY, "--weights", weights, "--epochs", 2, "--out", run)
    assert result.exit_code == 0, result.output
    for verb in ("interpret", "export"):
        assert run_histo(verb, run).exit_code == 0
    return run
