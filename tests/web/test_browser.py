"""The pages in a real Chromium, as a person uses them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import replace_file, rows_of, unfinish
from tests.slides.made import tissue_slide, write_slide
from tests.web.browser import BUNDLE, PATCHES, axe, chromium, needs_browser, opened, zipped
from tests.web.conftest import server

pytestmark = needs_browser
REVIEW = "runs/tiny/review"


@pytest.fixture
def page() -> Iterator:
    """A page of a browser; its console must be without errors at the end."""
    with chromium() as page:
        yield page
        assert page.said == []


@pytest.fixture
def site(folder: Path) -> Path:
    """The folder with a bundle and a slide."""
    shutil.copytree(BUNDLE, folder / "bundle")
    write_slide(folder / "a.tif", tissue_slide(900, 700), 0.5)
    return folder


@pytest.mark.slow
def test_every_page_works_at_every_width(page, site):
    """Nothing serious by axe, no sideways scrolling, light and dark."""
    shutil.copytree(site / "runs" / "tiny", site / "runs" / "again")
    with opened(page, site) as (_, base):
        for place in ("/", "/try", "/slides", "/slides?name=a.tif", "/review", "/runs"):
            for width in (390, 1280, 2560):
                page.set_viewport_size({"width": width, "height": 900})
                page.emulate_media(color_scheme="dark" if width == 1280 else "light")
                page.goto(base + place, wait_until="networkidle")
                assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
            found = axe.Axe().run(page).response["violations"]
            serious = [each["id"] for each in found if each["impact"] in ("serious", "critical")]
            assert not serious, place
        page.click(".show >> nth=0")
        page.locator("#plot polyline").first.wait_for()
        for box in page.locator(".pick").all():
            box.check()
        page.click("#pair")
        page.get_by_role("heading", name="Two runs").wait_for()
        assert "roc_auc" in page.inner_text("table")


@pytest.mark.slow
def test_the_curve_of_a_run_that_trains_grows(page, site):
    """Without a touch: each epoch as the run writes it."""
    run = site / "runs" / "tiny"
    unfinish(run)
    lines = (run / "history.csv").read_text().splitlines(keepends=True)
    replace_file(run / "history.csv", "".join(lines[:2]).encode())
    with opened(page, site) as (_, base):
        page.goto(f"{base}/runs")
        page.click(".show")
        page.get_by_text("1 of 3 epochs, not finished").wait_for()
        replace_file(run / "history.csv", "".join(lines[:3]).encode())
        page.get_by_text("2 of 3 epochs, not finished").wait_for()
        assert page.locator("#rows tr").count() == 2


@pytest.mark.slow
def test_patches_are_predicted_as_they_are_given(page, site, tmp_path):
    """By the button, as a dropped folder, as a ZIP; where the model looked can be seen."""
    with opened(page, site) as (_, base):
        page.goto(f"{base}/try")
        page.select_option("#first", "bundle")
        page.check("#looked")
        page.set_input_files("#files", PATCHES)
        page.get_by_text("4 of 4 patches predicted.").wait_for()
        assert page.locator(".patch-picture canvas").count() == 4
        assert page.evaluate(STRONGEST) > 200
        by_button = page.inner_text("#results tbody")
        page.set_input_files("#files", zipped(tmp_path / "some.zip", PATCHES))
        page.get_by_text("4 of 4 patches predicted.").wait_for()
        by_zip = re.sub(r"some/(\w).png", r"\1", page.inner_text("#results tbody"))
        assert by_zip == by_button
        with page.expect_download() as download:
            page.click("#save")
        assert len(rows_of(Path(download.value.path()))) == 4
        drop(page, {f"some/{path.name}": path.read_bytes() for path in PATCHES[:3]})
        page.get_by_text("3 of 3 patches predicted.").wait_for()
        drop(page, {"notes.txt": b"nothing"})
        page.get_by_text("None of these is a TIF").wait_for()


STRONGEST = """() => {
  const canvas = document.querySelector(".patch-picture canvas");
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return Math.max(...pixels.filter((_, n) => n % 4 === 3));
}"""
"""The opacity, of 255, of the place that matters most."""
DROP = """files => {
  const folders = {};
  const entryOf = (name, bytes) => ({ isFile: true, name, file: take => take(new File([new Uint8Array(bytes)], name)) });
  for (const [path, bytes] of Object.entries(files)) {
    const [folder, name] = path.includes("/") ? path.split("/") : ["", path];
    (folders[folder] ??= []).push(entryOf(name, bytes));
  }
  const read = entries => { let left = entries; return { readEntries: take => { take(left); left = []; } }; };
  const given = Object.entries(folders).flatMap(([name, entries]) =>
    name ? [{ isFile: false, name, createReader: () => read(entries) }] : entries);
  const event = new Event("drop", { cancelable: true });
  event.dataTransfer = { items: given.map(entry => ({ webkitGetAsEntry: () => entry })) };
  document.getElementById("drop").dispatchEvent(event);
}"""
"""What the browser tells the page of dropped files and folders: Playwright cannot drop."""


def drop(page, files):
    """Drop files, and folders of them, on the page."""
    page.evaluate(DROP, {name: list(data) for name, data in files.items()})


@pytest.fixture
def suspects(site, dataset):
    """A review of thirty patches, and its table."""
    shutil.copytree(dataset / "train", site / "data" / "train")
    config = site / "runs" / "tiny" / "config.json"
    images = {"value": "data/train", "source": "given"}
    config.write_text(json.dumps({**json.loads(config.read_text()), "images": images}))
    rows = rows_of(dataset / "train_labels.csv")[:30]
    lines = [f"{row['id']},{row['label']},{'10'[int(row['label'])]},odd,,0.5,0.5" for row in rows]
    table = site / REVIEW / "suspects.csv"
    table.parent.mkdir(exist_ok=True)
    table.write_text("\n".join(["id,label,suggested,why,corrected,p_0,p_1", *lines]) + "\n")
    return table


@pytest.mark.slow
def test_a_review_by_keys_outlives_a_killed_server(page, site, suspects):
    """Thirty patches by keys, the server killed in the middle and started again: nothing is lost."""
    keys, words = "cku", {"c": "change", "k": "keep", "u": "unsure"}
    with opened(page, site) as (process, base):
        page.goto(f"{base}/review?name={REVIEW}")
        page.fill("#by", "me")
        page.locator("#by").blur()
        page.get_by_text("Patch 1 of 30").wait_for()
        for n in range(15):
            page.keyboard.press(keys[n % 3])
        page.get_by_text("15 reviewed; all saved").wait_for()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    for n in range(15, 20):
        page.keyboard.press(keys[n % 3])
    page.get_by_text("Not saved yet").wait_for()
    assert sum(bool(row["decision"]) for row in rows_of(suspects)) == 15
    with server(site, int(base.rpartition(":")[2])):
        page.get_by_text("20 reviewed; all saved").wait_for(timeout=60_000)
        assert page.said
        assert all("ERR_CONNECTION_REFUSED" in line for line in page.said)
        page.said.clear()
        for n in range(20, 30):
            page.keyboard.press(keys[n % 3])
        page.keyboard.press("z")
        page.keyboard.press("k")
        page.get_by_text("30 reviewed; all saved").wait_for()
        assert page.evaluate("document.getElementById('picture').naturalWidth") > 0
    wanted = [words[keys[n % 3]] for n in range(29)] + ["keep"]
    assert [(row["decision"], row["reviewer"]) for row in rows_of(suspects)] == [
        (decision, "me") for decision in wanted
    ]


@pytest.mark.slow
def test_a_map_is_started_stopped_and_gone_on_with(page, site):
    """Followed in the page to its end, after which it lies over the slide."""
    write_slide(site / "large.tif", tissue_slide(4000, 3000), 0.5)
    with opened(page, site) as (_, base):
        page.goto(f"{base}/slides?name=large.tif")
        page.wait_for_selector("#viewer canvas")
        page.select_option("#bundle", "bundle")
        page.fill("#mpp", "0.5")
        page.click("#start")
        page.locator("#making", has_text=re.compile(r"^[1-9]\d* of \d+ tiles")).wait_for()
        page.click("#stop")
        page.locator("#making", has_text="Stopped at").wait_for()
        stopped = int(re.search(r"at (\d+) of", page.inner_text("#making"))[1])
        assert stopped > 0
        assert page.locator("canvas.overlay").count() == 0
        page.reload()
        page.get_by_role("button", name="Go on").wait_for()
        page.select_option("#bundle", "bundle")
        page.fill("#mpp", "0.5")
        page.click("#start")
        page.locator("canvas.overlay").wait_for(state="attached", timeout=120_000)
        assert "Finished" in page.inner_text("#making")
        assert "mm²" in page.inner_text("#regions") or "none" in page.inner_text("#regions")
        page.hover("#viewer")
        assert "p(tumour)" in page.inner_text("#value")
