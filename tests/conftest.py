"""Synthetic patches, and one tiny run trained for real, a session."""

from __future__ import annotations

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
from histo.data.patches import cv2  # histo's import of it sets its limits first
from histo.data.synth import write_dataset
from histo.model.body import make_body
from histo.screen import Screen

SHARED = Path(__file__).parents[2] / "shared"
TINY = ("--arch", "squeezenet1_1", "--no-store", "--batch-size", "16", "--device", "cpu")


def run_histo(*words: Any) -> Result:
    """A histo command line, in this process."""
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def histo_process(*words: Any, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """A histo command line, in a process of its own."""
    command = [sys.executable, "-m", "histo", *[str(word) for word in words]]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


def assert_one_line_error(result: Result, *parts: str) -> None:
    """Exit status 1 and one line on stderr that holds the parts."""
    assert result.exit_code == 1, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


def write_image(path: Path, pixels: np.ndarray) -> Path:
    """Write RGB or grey pixels as the suffix says."""
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    return path


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
