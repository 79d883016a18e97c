"""Who may ask, and what is never served."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.web.conftest import TOKEN, client_of

PLACES = (
    "/",
    "/try",
    "/runs",
    "/review",
    "/static/style.css",
    "/openapi.json",
    "/api/bundles",
    "/no",
)


@pytest.mark.parametrize("place", PLACES)
def test_without_the_token_nothing_is_answered(folder, place):
    """No page, no file, and not even whether there is one; a wrong token is no token."""
    for authorization in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
        with client_of(folder, authorization=authorization) as client:
            for answer in (client.get(place), client.post(place), client.get(f"{place}?token=x")):
                assert answer.status_code == 401
                assert "histo serve" in answer.text


def test_the_address_with_the_token_opens_a_session(folder):
    """The token leaves the address at once; the cookie is for this site alone and no script's."""
    with client_of(folder, authorization="") as client:
        first = client.get("/try", params={"token": TOKEN, "a": "b"})
        assert first.status_code == 303
        assert first.headers["location"] == "/try?a=b"
        cookie = first.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        assert client.get("/try").status_code == 200


def test_the_redirect_stays_on_this_site(folder):
    """Whatever the path of the address with the token."""
    with client_of(folder) as client:
        for path in ("//evil.example/", "///evil.example", "/\\evil.example", "/%2F/evil.example"):
            place = client.get(f"http://127.0.0.1:8000{path}?token={TOKEN}").headers["location"]
            assert place.startswith("/")
            assert not place.startswith(("//", "/\\"))


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "", "localhost:80"])
def test_a_request_for_another_name_is_refused(client, host):
    """A page of somebody else's whose name points at this machine gets nothing."""
    assert client.get("/", headers={"host": host}).status_code == 421


def test_names_that_the_user_allows_are_answered(client):
    """As behind a reverse proxy."""
    for host in ("histo.example", "HISTO.example:8000", "localhost:8000", "[::1]:8000"):
        assert client.get("/", headers={"host": host}).status_code == 200


def test_a_request_from_another_site_is_refused(client):
    """By its Origin, or by what the browser says of it."""
    for origin in ("http://evil.example", "null", "http://127.0.0.1:8001", "http://[", "//[::1"):
        assert client.post("/api/predict", headers={"origin": origin}).status_code == 403
    said = {"sec-fetch-site": "cross-site"}
    assert client.post("/api/predict", headers=said).status_code == 403
    own = {"origin": "http://127.0.0.1:8000"}
    assert client.get("/api/bundles", headers=own).status_code == 200


@pytest.mark.parametrize("place", PLACES)
def test_no_page_runs_script_of_its_own_text(client, place):
    """Every answer has the policy, and no page has script or style within it."""
    answer = client.get(place)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    if "html" in answer.headers["content-type"]:
        assert "<script>" not in answer.text
        assert " style=" not in answer.text
        assert " onclick" not in answer.text


PARTS = st.sampled_from(
    ["..", ".", "%2e%2e", "%2E.", "..%2f", "%2f", "%5c", "\\", "%00", "..;", "%252e%252e", "//",
     "secret.txt", "etc", "passwd", "runs", "tiny", "report", "export", "config.json", "/", "C:",
     "file:", "link", "static", "style.css", "…", "%c0%ae%c0%ae"]
)  # fmt: skip
ROUTES = ("/runs/{}/report", "/api/runs/{}", "/static/{}", "/review/{}", "/api/reviews/{}", "/{}")


@pytest.mark.slow
@given(st.lists(PARTS, min_size=1, max_size=8), st.sampled_from(ROUTES))
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_path_leads_out_of_the_folder(folder, parts, route):
    """By whatever encoding, link or way up: neither the file beside the folder nor the system's."""
    link = folder / "link"
    if not link.is_symlink():
        link.symlink_to(folder.parent)
    global _client  # noqa: PLW0603  (one application for all examples)
    if _client is None or _client[0] != folder:
        _client = folder, client_of(folder)
    for path in (route.format("/".join(parts)), f"{route}?bundle={'/'.join(parts)}"):
        answer = _client[1].get(f"http://127.0.0.1:8000{path}")
        assert "not to be served" not in answer.text
        assert "root:" not in answer.text
        assert answer.status_code < 500


_client = None


def test_a_link_out_of_the_folder_is_not_followed(folder, client):
    """Neither to a run elsewhere nor to a bundle elsewhere, and no list has them."""
    (folder / "runs" / "tiny").rename(folder.parent / "elsewhere")
    (folder / "linked").symlink_to(folder.parent / "elsewhere")
    assert client.get("/runs/linked/report").status_code == 404
    answer = client.post("/api/predict", data={"bundle": "linked/export"}, files={"files": b"x"})
    assert answer.status_code == 404
    assert client.get("/api/bundles").json() == []
