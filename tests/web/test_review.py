"""The review of suspected labels: keep, change, unsure, undo."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from histo.commands.serve import access_of, application
from histo.web.served import Served
from tests.conftest import TINY, assert_one_line_error, rows_of, run_histo
from tests.slides.made import tissue_slide, write_slide
from tests.web.conftest import BEARER, TOKEN, client_of, server

NAME = "runs/tiny/review"


@pytest.fixture
def reviewed(folder: Path, dataset: Path) -> Path:
    """The folder with a review of 40 suspects, and the patches in it."""
    (folder / "data").mkdir()
    for file in dataset.iterdir():
        (folder / "data" / file.name).symlink_to(file)
    rows = ["id,label,suggested,why,corrected,p_0,p_1"]
    for row in rows_of(dataset / "train_labels.csv")[:40]:
        label, other = row["label"], "10"[int(row["label"])]
        rows.append(f'{row["id"]},{label},{other},"so it seems, to the model",,0.5,0.5')
    (folder / NAME).mkdir(exist_ok=True)
    (folder / NAME / "suspects.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_each_decision_is_saved_at_once(reviewed):
    """Keep, change, unsure and undo stand in the CSV when the answer comes, with who decided."""
    table = reviewed / NAME / "suspects.csv"
    with client_of(reviewed) as client:
        every = client.get("/api/reviews/table", params={"name": NAME}).json()["suspects"]
        for suspect, decision in zip(every, ("keep", "change", "unsure"), strict=False):
            given = {"name": NAME, "id": suspect["id"], "decision": decision, "by": "Änne, MD"}
            assert client.post("/api/reviews/decision", json=given).status_code == 200
            row = next(row for row in rows_of(table) if row["id"] == suspect["id"])
            right = {"keep": suspect["label"], "change": suspect["suggested"], "unsure": ""}
            assert row["corrected"] == right[decision]
            assert (row["decision"], row["reviewer"]) == (decision, "Änne, MD")
        assert client.get("/api/reviews").json()[0]["reviewed"] == 3
        undo = {"name": NAME, "id": every[0]["id"], "decision": "", "by": "x"}
        client.post("/api/reviews/decision", json=undo)
    first = rows_of(table)[0]
    assert (first["corrected"], first["decision"], first["reviewer"]) == ("", "", "")
    assert len(rows_of(table)) == 40


def test_train_takes_the_corrections_of_the_page(reviewed, dataset, tmp_path):
    """The labels that were changed are changed; what was kept or unsure stays as it is."""
    with client_of(reviewed) as client:
        every = client.get("/api/reviews/table", params={"name": NAME}).json()["suspects"]
        for n, suspect in enumerate(every[:9]):
            decision = ("keep", "change", "unsure")[n % 3]
            given = {"name": NAME, "id": suspect["id"], "decision": decision}
            assert client.post("/api/reviews/decision", json=given).status_code == 200
    words = ["--weights", "none", "--epochs", 1, "--freeze-epochs", 0, "--out", tmp_path / "again"]
    csv = reviewed / NAME / "suspects.csv"
    result = run_histo("train", dataset, *TINY, *words, "--corrections", csv)
    assert "3 labels changed" in result.stdout, result.output


def test_a_new_review_does_not_overwrite_decisions(reviewed):
    """Not even a lone `unsure`."""
    with client_of(reviewed) as client:
        every = client.get("/api/reviews/table", params={"name": NAME}).json()["suspects"]
        given = {"name": NAME, "id": every[0]["id"], "decision": "unsure"}
        client.post("/api/reviews/decision", json=given)
    assert_one_line_error(
        run_histo("review", reviewed / "runs" / "tiny"), "a new review would lose"
    )


@pytest.mark.slow
def test_a_killed_server_loses_no_review(reviewed):
    """Thirty decisions, the server killed in the middle of them: all that were answered are there."""
    said = {}
    for part in range(2):
        with server(reviewed) as (process, client):
            every = client.get("/api/reviews/table", params={"name": NAME}).json()["suspects"]
            assert {each["id"] for each in every if each["decision"]} == set(said)
            for n, suspect in enumerate(every[15 * part : 15 * part + 15]):
                decision = ("keep", "change", "unsure")[n % 3]
                given = {"name": NAME, "id": suspect["id"], "decision": decision, "by": "me"}
                assert client.post("/api/reviews/decision", json=given).status_code == 200
                said[suspect["id"]] = decision
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    rows = rows_of(reviewed / NAME / "suspects.csv")
    assert {row["id"]: row["decision"] for row in rows if row["decision"]} == said
    assert len(rows) == 40


def test_decisions_that_cannot_be_are_refused(reviewed):
    """Another patch, another class, another decision, another folder: and nothing is written."""
    table = reviewed / NAME / "suspects.csv"
    before = table.read_bytes()
    with client_of(reviewed) as client:
        first = client.get("/api/reviews/table", params={"name": NAME}).json()["suspects"][0]
        good = {"name": NAME, "id": first["id"], "decision": "change"}
        for wrong in (
            {"id": "nobody"},
            {"label": "7"},
            {"label": first["label"]},
            {"decision": "delete"},
            {"name": "../secret"},
            {"name": "runs/tiny"},
        ):
            status = client.post("/api/reviews/decision", json={**good, **wrong}).status_code
            assert status in (404, 422)
    assert table.read_bytes() == before


@pytest.mark.parametrize("body", ['{"id": NaN}', '{"id": ["\\ud800"]}', "NaN", "[Infinity]"])
def test_what_fits_into_no_answer_is_refused(reviewed, body):
    """An answer that repeated it would be no JSON."""
    with client_of(reviewed) as client:
        sent = {"content": body, "headers": {"content-type": "application/json"}}
        for place in ("/api/reviews/decision", "/api/slides/making"):
            answer = client.post(place, **sent)
            assert answer.status_code == 422
            assert isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize("by", ["a\rb", "a\ud800b", "a\u0000b"])
def test_any_reviewer_can_be_written_and_read(reviewed, by):
    with client_of(reviewed) as client:
        rows = client.get("/api/reviews/table", params={"name": NAME}).json()["suspects"]
        body = {"name": NAME, "id": rows[0]["id"], "decision": "keep", "by": by}
        sent = {"content": json.dumps(body), "headers": {"content-type": "application/json"}}
        assert client.post("/api/reviews/decision", **sent).status_code == 200
        found = client.get("/api/reviews/table", params={"name": NAME}).json()["suspects"]
        assert [row["id"] for row in found] == [row["id"] for row in rows]
        assert found[0]["by"] == by.encode("unicode_escape").decode()


def test_decisions_from_another_site_are_refused(reviewed):
    """Even with the cookie: a form elsewhere cannot decide."""
    with client_of(reviewed) as client:
        said = {"origin": "http://evil.example"}
        assert client.post("/api/reviews/decision", json={}, headers=said).status_code == 403


def test_the_page_shows_the_patches_that_the_user_allows(reviewed, dataset):
    """From the folder itself, or from --images; from nowhere else, whatever the run says."""
    name = rows_of(reviewed / NAME / "suspects.csv")[0]["id"]
    asked = {"name": NAME, "id": name}
    with client_of(reviewed) as client:
        assert client.get("/review", params={"name": NAME}).status_code == 200
        answer = client.get("/api/reviews/patch", params=asked)  # the run's patches are elsewhere
        assert answer.status_code == 422
        assert "not in the folder" in answer.json()["detail"]
    access = access_of(TOKEN, "127.0.0.1", 8000, [])
    app = application(Served.open(reviewed), access, images=Served.open(dataset / "train"))
    with TestClient(app, base_url="http://127.0.0.1:8000", headers=BEARER) as client:
        answer = client.get("/api/reviews/patch", params=asked)
        assert answer.content[:3] == b"\xff\xd8\xff"
        for wrong in ("../secret.txt", "/etc/passwd", "nobody", "\0"):
            other = client.get("/api/reviews/patch", params={"name": NAME, "id": wrong})
            assert other.status_code == 422


def test_a_run_that_says_its_patches_are_in_a_loop_of_links_shows_none(reviewed):
    (reviewed / "loop").symlink_to(reviewed / "loop")
    config = reviewed / Path(NAME).parent / "config.json"
    images = {"value": str(reviewed / "loop"), "source": "given"}
    config.write_text(json.dumps({**json.loads(config.read_text()), "images": images}))
    name = rows_of(reviewed / NAME / "suspects.csv")[0]["id"]
    with client_of(reviewed) as client:
        answer = client.get("/api/reviews/patch", params={"name": NAME, "id": name})
    assert answer.status_code == 422
    assert "not in the folder" in answer.json()["detail"]


def test_a_table_that_is_no_review_is_said(folder):
    """And the list is there all the same."""
    (folder / "odd").mkdir()
    (folder / "odd" / "suspects.csv").write_text("a,b\n1,2\n")
    with client_of(folder) as client:
        assert client.get("/api/reviews").json()[0]["error"]
        assert "cannot be read" in client.get("/review").text
        assert client.get("/api/reviews/table", params={"name": "odd"}).status_code == 422


@pytest.fixture
def cut(folder: Path) -> Path:
    """The folder with a slide, patches that `histo cut` made of it, and a review of twelve of them."""
    pixels = tissue_slide(500, 400, 50)
    noise = cv2.resize(np.random.default_rng(0).integers(0, 120, (40, 50, 3), np.uint8), (500, 400))
    (folder / "slides").mkdir()
    write_slide(folder / "slides" / "s1.tif", pixels - noise, 0.5)
    (folder / "notes").mkdir()
    assert cv2.imwrite(str(folder / "notes" / "s1_mask.png"), np.ones((400, 500), np.uint8))
    words = ["--annotations", folder / "notes", "--class", "1=normal", "--out", folder / "data"]
    done = run_histo("cut", folder / "slides", *words, "--mpp", 0.5, "--size", 48)
    assert done.exit_code == 0, done.output
    config = folder / "runs" / "tiny" / "config.json"
    images = {"value": str(folder / "data" / "train"), "source": "given"}
    config.write_text(json.dumps({**json.loads(config.read_text()), "images": images}))
    ids = [row["id"] for row in rows_of(folder / "data" / "train_labels.csv")]
    rows = [f"{name},normal,tumour,so it seems,,0.4,0.6" for name in ids[:12]]
    head = "id,label,suggested,why,corrected,p_normal,p_tumour"
    (folder / NAME).mkdir(exist_ok=True)
    (folder / NAME / "suspects.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder


def around(client, name):
    """The answer about what is around a patch."""
    return client.get("/api/reviews/surroundings", params={"name": NAME, "id": name})


def test_a_patch_is_shown_in_its_slide(cut):
    """With its surroundings, at the very place where it was cut, outlined."""
    for row in rows_of(cut / NAME / "suspects.csv"):
        with client_of(cut) as client:
            answer = around(client, row["id"])
        assert answer.status_code == 200, row["id"]
        seen = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
        assert seen.shape == (480, 480, 3)
        patch = cv2.imread(str(cut / "data" / "train" / f"{row['id']}.png"))
        inside = cv2.resize(seen[200:280, 200:280], (40, 40), interpolation=cv2.INTER_AREA)
        assert np.abs(inside.astype(float) - patch[4:44, 4:44]).mean() < 8
        line = seen[190, 240]
        assert int(line.max()) - int(line.min()) < 40  # the outline is black and white


def test_where_the_slide_is_not_known_the_patch_is_shown_alone(cut):
    """No slide, another slide of that name, a place that no table has, patches of no slide."""
    first = rows_of(cut / NAME / "suspects.csv")[0]["id"]
    slide = cut / "slides" / "s1.tif"
    with client_of(cut) as client:
        for wrong in ("s1/9_9", "s2/50_50", "nobody", "../data/train/x", "s1/../../x", "\0/\0"):
            assert around(client, wrong).status_code == 204
    slide.rename(cut.parent / "s1.tif")
    with client_of(cut) as client:
        assert around(client, first).status_code == 204
    slide.symlink_to(cut.parent / "s1.tif")
    with client_of(cut) as client:
        assert around(client, first).status_code == 204
    slide.unlink()
    write_slide(slide, np.zeros((400, 500, 3), np.uint8), 0.5)
    with client_of(cut) as client:
        assert around(client, first).status_code == 204
        asked = {"name": NAME, "id": first}
        assert client.get("/api/reviews/patch", params=asked).status_code == 200
