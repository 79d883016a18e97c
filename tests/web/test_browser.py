"""The pages in a real Chromium, as a person uses them; skipped where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.slides.made import tissue_slide, write_slide
from tests.web.conftest import TOKEN, server

BUNDLE = Path(__file__).parents[1] / "golden" / "bundle-2"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def page():
    """A page of one browser for all tests."""
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


def test_every_page_works_at_every_width(page, folder):
    """No error in the console, nothing serious by axe, no sideways scrolling, light and dark."""
    shutil.copytree(BUNDLE, folder / "bundle")
    write_slide(folder / "a.tif", tissue_slide(900, 700), 0.5)
    said = []
    page.on("console", lambda line: line.type == "error" and said.append(line.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    with server(folder) as (_, client):
        base = str(client.base_url)
        page.goto(f"{base}/?token={TOKEN}")
        for place in ("/", "/try", "/slides", "/slides?name=a.tif", "/review", "/runs"):
            for width in (390, 1280, 2560):
                page.set_viewport_size({"width": width, "height": 900})
                page.emulate_media(color_scheme="dark" if width == 1280 else "light")
                page.goto(base + place, wait_until="networkidle")
                assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
            found = axe.Axe().run(page).response["violations"]
            serious = [each["id"] for each in found if each["impact"] in ("serious", "critical")]
            assert not serious, place
        make_a_map(page, base)
        page.goto(f"{base}/try")
        page.select_option("#first", "bundle")
        page.check("#looked")
        page.set_input_files("#files", sorted((BUNDLE / "patches").iterdir()))
        page.get_by_text("4 of 4 patches predicted.").wait_for()
        assert page.locator(".patch-picture canvas").count() == 4
        page.goto(f"{base}/runs")
        page.click(".show")
        page.locator("#plot polyline").first.wait_for()
    assert said == []


def make_a_map(page, base):
    """Start a map, follow it to its end, and see it lie over the slide."""
    page.goto(f"{base}/slides?name=a.tif")
    page.wait_for_selector("#viewer canvas")
    page.select_option("#bundle", "bundle")
    if page.is_visible("#mpp"):
        page.fill("#mpp", "0.5")
    page.click("#start")
    page.locator("canvas.overlay").wait_for(state="attached", timeout=60_000)
    assert "mm²" in page.inner_text("#regions") or "none" in page.inner_text("#regions")
    page.hover("#viewer")
    assert "p(tumour)" in page.inner_text("#value")
