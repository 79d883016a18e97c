"""The table of runs, and their reports."""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
import time
from base64 import b64encode
from contextlib import suppress
from hashlib import sha256

import pytest

from histo.errors import HistoError
from histo.web.runs import read_report
from histo.web.served import Served
from tests.conftest import replace_file, unfinish


def test_the_table_has_what_the_run_and_its_report_say(client, folder):
    """Data, arch, split, AUC with its interval, state: on the page and as JSON."""
    run = folder / "runs" / "tiny"
    metrics = json.loads((run / "report" / "metrics.json").read_text())
    row = client.get("/api/runs").json()[0]
    assert (row["name"], row["arch"], row["split"]) == ("runs/tiny", "squeezenet1_1", "random")
    assert row["roc_auc"] == metrics["roc_auc"]
    assert row["interval"] == metrics["intervals"]["roc_auc"]
    assert row["finished"]
    assert "/" not in row["data"]
    page = client.get("/runs").text
    assert f"{metrics['roc_auc']:.4f}" in page
    assert 'href="/runs/runs/tiny/report"' in page
    unfinish(run)
    assert "not finished" in client.get("/runs").text


def test_a_run_opens_its_report(client, folder):
    """The very file, in a sandbox where the one script that runs is histo's own."""
    answer = client.get("/runs/runs/tiny/report")
    assert answer.content == (folder / "runs/tiny/report/report.html").read_bytes()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'")
    assert "allow-same-origin" not in policy
    scripts = re.findall("<script>(.*?)</script>", answer.text, re.DOTALL)
    digests = [b64encode(sha256(text.encode()).digest()).decode() for text in scripts]
    assert [f"'sha256-{digest}'" for digest in digests] == re.findall(r"'sha256-.*?'", policy)


@pytest.mark.parametrize(
    "name", ["runs/none", "runs", "..", "runs/tiny/export", "runs/tiny/report"]
)
def test_what_is_no_run_has_no_report(client, name):
    """With status 404."""
    assert client.get(f"/runs/{name}/report").status_code == 404


@pytest.mark.parametrize("file", ["config.json", "environment.json", "report/metrics.json"])
@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"split": 1}', '{"roc_auc": "x", "versions": 3}']
)
def test_a_damaged_run_is_a_row_that_says_so(client, folder, file, text):
    """And the page is there all the same."""
    replace_file(folder / "runs" / "tiny" / file, text.encode())
    answer = client.get("/runs")
    assert answer.status_code == 200
    assert "runs/tiny" in answer.text
    assert str(folder) not in answer.text


def test_what_a_stranger_wrote_is_text(client, folder):
    """Names and settings with tags in them are shown, not run."""
    evil = "<img src=x onerror=alert(1)>"
    path = folder / "runs" / "tiny" / "config.json"
    settings = json.loads(path.read_text())
    settings["arch"] = {"value": evil, "source": "given"}
    path.write_text(json.dumps(settings))
    (folder / "runs" / "tiny").rename(folder / "runs" / "<b>bold")
    page = client.get("/runs").text
    assert evil not in page
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page


def test_two_runs_are_compared(client, folder):
    """Each figure of both reports, with its interval and the difference; of what is no run 404."""
    shutil.copytree(folder / "runs" / "tiny", folder / "runs" / "other")
    path = folder / "runs" / "other" / "report" / "metrics.json"
    metrics = json.loads(path.read_text())
    replace_file(path, json.dumps({**metrics, "roc_auc": metrics["roc_auc"] + 0.0625}).encode())
    asked = {"a": "runs/tiny", "b": "runs/other"}
    page = client.get("/runs/compare", params=asked).text
    (row,) = re.findall(r"<tr><th scope=\"row\">roc_auc</th>(.*?)</tr>", page, re.DOTALL)
    low, high = metrics["intervals"]["roc_auc"]
    assert f"{metrics['roc_auc']:.5g} ({low:.4f} to {high:.4f})" in row
    assert "+0.0625" in row
    assert "histo compare runs/tiny runs/other" in page
    path.unlink()
    assert "no figure in common" in client.get("/runs/compare", params=asked).text
    for wrong in ("runs/none", "../secret.txt", "runs/tiny/export", "<script>"):
        assert client.get("/runs/compare", params={**asked, "b": wrong}).status_code == 404


def test_the_curve_grows_while_a_run_trains(client, folder):
    """Each epoch as soon as history.csv has it; a line that is being written harms nothing."""
    run = folder / "runs" / "tiny"
    path = run / "history.csv"
    lines = path.read_text().splitlines(keepends=True)
    unfinish(run)
    for count in range(len(lines)):
        replace_file(path, "".join(lines[: count + 1]).encode())
        found = client.get("/api/runs/history", params={"name": "runs/tiny"}).json()
        assert (len(found["epochs"]), found["planned"], found["finished"]) == (count, 3, False)
    assert found["epochs"][0]["train_loss"] == float(lines[1].split(",")[1])
    path.write_text("".join(lines[:2]) + "2,0.")
    assert client.get("/api/runs/history", params={"name": "runs/tiny"}).status_code in (200, 422)
    path.unlink()
    found = client.get("/api/runs/history", params={"name": "runs/tiny"}).json()
    assert found["epochs"] == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what is open")
def test_a_link_that_takes_a_reports_place_meanwhile_is_not_followed(tmp_path):
    """By somebody who may write to the folder, and not read what the server can."""
    report = tmp_path / "served" / "run" / "report" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text("public")
    (report.parents[1] / "config.json").write_text("{}")
    (tmp_path / "secret").write_text("secret")
    end = time.monotonic() + 2

    def swap() -> None:
        made = report.with_name("made")
        while time.monotonic() < end:
            made.symlink_to(tmp_path / "secret")
            made.replace(report)
            made.write_text("public")
            made.replace(report)

    thread, read = threading.Thread(target=swap), set()
    thread.start()
    while time.monotonic() < end:
        with suppress(HistoError, OSError):
            read.add(read_report(Served.open(tmp_path / "served"), "run"))
    thread.join()
    assert read <= {b"public", b""}
