"""POST /api/predict, and the page that uses it."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from histo.web.queue import Queue
from tests.conftest import replace_file, rows_of, run_histo, write_image
from tests.web.conftest import client_of, server

BUNDLE = "runs/tiny/export"


def files_of(paths):
    return [("files", (path.name, path.read_bytes())) for path in paths]


@pytest.mark.parametrize("tta", [False, True])
def test_the_figures_are_those_of_histo_predict_to_the_digit(
    client, folder, dataset, tmp_path, tta
):
    """Every probability and every call, over more patches than a batch has."""
    bundle = folder / BUNDLE
    paths = sorted((dataset / "train").iterdir())[:80]
    (tmp_path / "some").mkdir()
    for path in paths:
        (tmp_path / "some" / path.name).write_bytes(path.read_bytes())
    table = tmp_path / "predictions.csv"
    words = ["--device", "cpu", *(["--tta"] if tta else [])]
    assert run_histo("predict", bundle, tmp_path / "some", "--out", table, *words).exit_code == 0
    asked = {"bundle": BUNDLE, "tta": str(tta).lower()}
    found = client.post("/api/predict", data=asked, files=files_of(paths)).json()
    rows = [
        {"id": p["id"], "predicted": p["predicted"]}
        | {f"p_{name}": f"{value:.9g}" for name, value in p["probabilities"].items()}
        for p in found["predictions"]
    ]
    assert rows == rows_of(table)
    assert len(found["fingerprint"]) == 64


def test_the_only_bundle_need_not_be_named(client, folder, dataset):
    """Where there are several, the answer says what to give."""
    files = files_of(sorted((dataset / "train").iterdir())[:1])
    assert client.post("/api/predict", files=files).json()["bundle"] == BUNDLE
    (folder / "other").mkdir()
    for file in (folder / BUNDLE).iterdir():
        (folder / "other" / file.name).write_bytes(file.read_bytes())
    answer = client.post("/api/predict", files=files)
    assert answer.status_code == 422
    assert "2 bundles" in answer.json()["detail"]


def test_a_file_that_cannot_be_used_says_why(client, dataset, tmp_path):
    """And the others have their figures all the same."""
    good = next((dataset / "train").iterdir())
    wide = write_image(tmp_path / "wide.png", np.zeros((48, 60, 3), np.uint8))
    files = [*files_of([good, wide]), ("files", ("bad.tif", b"II*\0nonsense"))]
    files.append(("files", ("<script>alert(1)</script>.png", b"MZ")))
    found = client.post("/api/predict", files=files).json()["predictions"]
    assert found[0]["error"] is None
    assert [bool(each["error"]) for each in found] == [False, True, True, True]
    only = client.post("/api/predict", files=files[2:3])
    assert only.json()["predictions"][0]["error"]


def test_no_files_or_one_name_twice_is_said(client, dataset):
    """With status 422."""
    path = next((dataset / "train").iterdir())
    for files, what in ((None, "no files"), (files_of([path, path]), "one name")):
        answer = client.post("/api/predict", data={"bundle": BUNDLE}, files=files)
        assert answer.status_code == 422
        assert what in answer.json()["detail"]


@pytest.mark.parametrize("chunked", [False, True])
def test_an_upload_beyond_the_bound_is_refused(client, monkeypatch, chunked):
    """Whether the request says its length or not."""
    monkeypatch.setenv("HISTO_MAX_UPLOAD_BYTES", "10000")
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = [head, *[b"x" * 1000] * 20, b"\r\n--b--\r\n"]
    kind = {"content-type": "multipart/form-data; boundary=b"}
    content = iter(body) if chunked else b"".join(body)
    answer = client.post("/api/predict", content=content, headers=kind)
    assert answer.status_code == 413


def test_a_damaged_bundle_is_said(client, folder, dataset):
    """By the list, by the page and by the prediction."""
    replace_file(folder / BUNDLE / "model.json", b"{}")
    assert client.get("/api/bundles").json()[0]["error"]
    assert "damaged" in client.get("/try").text
    files = files_of([next((dataset / "train").iterdir())])
    assert client.post("/api/predict", files=files).status_code == 422


def test_a_full_queue_answers_429(client, folder, dataset, monkeypatch):
    """And says when to come again; nothing of the upload is read before."""
    monkeypatch.setattr(Queue.__init__, "__defaults__", (0, 60.0))
    with client_of(folder) as full:
        files = files_of([next((dataset / "train").iterdir())])
        answer = full.post("/api/predict", files=files)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0


def test_a_request_that_takes_too_long_ends(client, folder, dataset, monkeypatch):
    """With status 503."""
    monkeypatch.setattr(Queue.__init__, "__defaults__", (16, 0.001))
    with client_of(folder) as hurried:
        files = files_of(sorted((dataset / "train").iterdir()))
        assert hurried.post("/api/predict", files=files).status_code == 503


@pytest.mark.slow
def test_many_clients_of_a_real_server(folder, dataset):
    """Each gets its own figures, to the digit, or 429; the server is there afterwards."""
    paths = sorted((dataset / "train").iterdir())[:24]
    with server(folder) as (process, client):
        every = client.post("/api/predict", files=files_of(paths)).json()["predictions"]

        def one(n):
            return n, client.post("/api/predict", files=files_of(paths[n : n + 1]))

        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(one, range(24)))
        assert {answer.status_code for _, answer in answers} <= {200, 429}
        good = [(n, answer.json()["predictions"][0]) for n, answer in answers if answer.is_success]
        assert good
        for n, each in good:
            assert each == every[n]  # every digit, whatever else was in its batch
        assert client.get("/").status_code == 200
        process.terminate()
        assert process.wait(30) in (0, -15)


@pytest.mark.slow
def test_sigterm_ends_a_request_under_way(folder, dataset):
    """Its answer comes whole; then the server ends."""
    files = files_of(sorted((dataset / "train").iterdir()))
    with server(folder) as (process, client), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.post, "/api/predict", data={"tta": "true"}, files=files)
        time.sleep(0.7)
        process.terminate()
        assert len(asked.result().json()["predictions"]) == len(files)
        assert process.wait(30) in (0, -15)


def test_patches_that_look_unlike_the_training_are_said(client, dataset):
    """In which figures, and by how much; not of patches like them, nor of a few."""
    paths = sorted((dataset / "train").iterdir())[:20]
    own = client.post("/api/predict", files=files_of(paths)).json()
    assert own["drift"] is None
    dark = []
    for path in paths:
        pixels = cv2.imread(str(path)) // 4
        dark.append(("files", (f"{path.stem}.png", cv2.imencode(".png", pixels)[1].tobytes())))
    found = client.post("/api/predict", files=dark).json()
    assert re.search(r"red \d+\.\d below", found["drift"])
    assert client.post("/api/predict", files=dark[:9]).json()["drift"] is None


def test_openapi_describes_the_form(client):
    """With an example of the answer."""
    path = client.get("/openapi.json").json()["paths"]["/api/predict"]["post"]
    assert "files" in str(path["requestBody"])
    assert "probabilities" in str(path["responses"]["200"])
