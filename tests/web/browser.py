"""A real Chromium for the tests of the pages, and what they share; skipped where there is none."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.web.conftest import TOKEN, server

BUNDLE = Path(__file__).parents[1] / "golden" / "bundle-2"
PATCHES = sorted((BUNDLE / "patches").iterdir())
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@contextmanager
def chromium() -> Iterator[playwright.Page]:
    """A page of a browser that keeps what its console says, as `page.said`."""
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.said = []
        page.on("console", lambda line: line.type == "error" and page.said.append(line.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        yield page
        browser.close()


@contextmanager
def opened(
    page: playwright.Page, folder: Path, port: int = 0
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`histo serve` of a folder, entered with its token: the process, and the address."""
    with server(folder, port) as (process, client):
        base = str(client.base_url).rstrip("/")
        page.goto(f"{base}/?token={TOKEN}")
        yield process, base


def zipped(path: Path, files: list[Path]) -> Path:
    """A ZIP of files, in a folder."""
    with zipfile.ZipFile(path, "w") as packed:
        for file in files:
            packed.write(file, f"some/{file.name}")
    return path
