"""A folder with a run, its bundle and patches, served in this process or by one of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from histo.commands.serve import access_of, application
from histo.web.served import Served

TOKEN = "a-token-for-the-tests"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def folder(tmp_path: Path, tiny_run: Path) -> Path:
    """A folder that holds a run with its report and bundle, and a file beside it that is nobody's."""
    served = tmp_path / "served"
    shutil.copytree(tiny_run, served / "runs" / "tiny")
    (tmp_path / "secret.txt").write_text("not to be served")
    return served


def client_of(folder: Path, **headers: str) -> TestClient:
    """A browser at the application of a folder, with the token unless `headers` say otherwise."""
    app = application(Served.open(folder), access_of(TOKEN, "127.0.0.1", 8000, ["histo.example"]))
    given = {**BEARER, **headers}
    return TestClient(app, base_url="http://127.0.0.1:8000", headers=given, follow_redirects=False)


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    """A client with the token."""
    with client_of(folder) as made:
        yield made


@contextmanager
def server(folder: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """`histo serve` in a process of its own, at a free port or the one given, and a client of it."""
    words = ["serve", str(folder), "--port", str(port), "--no-browser", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "histo", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HISTO_TOKEN": TOKEN},
    )
    try:
        assert process.stdout
        found = re.search(r"(http://127\.0\.0\.1:\d+)/\?token=", process.stdout.readline())
        assert found
        with httpx.Client(base_url=found[1], headers=BEARER, timeout=60) as client:
            yield process, client
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
