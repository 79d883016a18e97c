"""The command itself: what it says, and what it refuses."""

from __future__ import annotations

import http.client
import re
import socket
import time

import pytest

from tests.conftest import assert_one_line_error, run_histo
from tests.web.conftest import BEARER, server


def test_what_cannot_be_served_is_one_line(tmp_path, monkeypatch):
    """No such folder, a port in use, a short token, an address of another machine."""
    assert_one_line_error(run_histo("serve", tmp_path / "none", "--no-browser"), "no folder")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run_histo("serve", tmp_path, "--no-browser", "--port", port)
        assert_one_line_error(result, "cannot listen", "--port")
    result = run_histo("serve", tmp_path, "--no-browser", "--host", "192.0.2.1", "--port", 0)
    assert_one_line_error(result, "192.0.2.1")
    for token in ("short", "spaces are not allowed", "ümlauts-are-not-allowed"):
        monkeypatch.setenv("HISTO_TOKEN", token)
        assert_one_line_error(run_histo("serve", tmp_path, "--no-browser"), "HISTO_TOKEN")


def test_an_empty_folder_has_its_pages(tmp_path):
    """Each says what to do; the server listens to this machine alone."""
    with server(tmp_path) as (_, client):
        assert "histo export" in client.get("/try").text
        assert "histo train" in client.get("/runs").text
        assert "histo review" in client.get("/review").text
        assert re.match(r"http://127\.0\.0\.1:\d+", str(client.base_url))
        assert client.get("/no/such/page").status_code == 404


def test_a_wrong_bound_is_said_at_the_start(tmp_path, monkeypatch):
    """Not by the first request."""
    name = "HISTO_MAX_UPLOAD_BYTES"
    monkeypatch.setenv(name, "much")
    assert_one_line_error(run_histo("serve", tmp_path, "--no-browser", "--port", 0), name)


@pytest.mark.slow
def test_a_connection_is_kept_beyond_retry_after(tmp_path):
    """A client that comes again when it was told to is not cut off."""
    with server(tmp_path) as (_, client):
        kept = http.client.HTTPConnection("127.0.0.1", client.base_url.port, timeout=60)
        for wait in (0, 6):
            time.sleep(wait)
            kept.request("GET", "/api/bundles", headers=BEARER)
            answer = kept.getresponse()
            assert (answer.status, answer.read()) == (200, b"[]")
