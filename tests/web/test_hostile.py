"""Requests that no browser sends, as bytes over a socket to a real server."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from tests.web.conftest import BEARER, TOKEN, server

SECONDS = 30
HOSTS = (
    *("127.0.0.1.:{}", "127.0.0.1:{}.", "127.1:{}", "localhost.:{}", "localhost:0{}", "127.0.0.1"),
    *("127.0.0.1:{}@evil.example", "evil.example:{}", "[::1", "0:{}", "127.0.0.1:{}:{}", ""),
)
"""{} is the port"""
PATHS = (
    *("/static/..%2f..%2f..%2fguard.py", "/static/%2e%2e/%2e%2e/guard.py", "/static/%c0%ae/x"),
    *("/static/..%5cguard.py", "/static/%252e%252e/guard.py", "/static//etc/passwd", "/static/%00"),
    *("//etc/passwd", "/static/style.css%00.txt", "/\\etc\\passwd", "http://a.example/etc/passwd"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Where a server listens."""
    with server(tmp_path_factory.mktemp("served")) as (_, client):
        yield str(client.base_url.host), int(client.base_url.port or 0)


def sent(place: tuple[str, int], data: bytes, within: float = SECONDS) -> bytes:
    """All that the server answers to these bytes until it closes, or the first part of it."""
    link = socket.create_connection(place, timeout=within)
    with link, suppress(BrokenPipeError, ConnectionResetError):
        link.sendall(data)
        return link.recv(65536)
    return b""


def request(place: tuple[str, int], *lines: str, start: str = "GET /runs") -> bytes:
    """A request with the token and these headers."""
    host = (
        [] if any(line.startswith("Host:") for line in lines) else [f"Host: 127.0.0.1:{place[1]}"]
    )
    head = [f"{start} HTTP/1.1", *host, f"Authorization: Bearer {TOKEN}", *lines, "", ""]
    return "\r\n".join(head).encode()


def is_there(place: tuple[str, int]) -> bool:
    """Whether the server answers another client."""
    return sent(place, request(place)).startswith(b"HTTP/1.1 200")


@pytest.mark.slow
def test_headers_that_never_end_are_cut_off(place):
    """Of many connections that send a byte now and then none stays; others are answered meanwhile."""
    links = [socket.create_connection(place, timeout=SECONDS + 15) for _ in range(50)]
    for link in links:
        link.sendall(request(place)[:-2] + b"x-slow: ")
    assert is_there(place)
    begun = time.monotonic()
    while time.monotonic() - begun < 10:
        for link in links:
            link.sendall(b"a")
        time.sleep(1)
    for link in links:
        with suppress(ConnectionResetError):
            assert link.recv(100) == b""
        link.close()
    assert time.monotonic() - begun < SECONDS + 15


def test_huge_headers_are_refused(place):
    """One of 10 MB, and a hundred thousand small ones."""
    for lines in (["x-huge: " + "a" * 10_000_000], [f"x-{n}: 1" for n in range(100_000)]):
        assert sent(place, request(place, *lines)).startswith((b"HTTP/1.1 4", b""))
        assert b" 200 " not in sent(place, request(place, *lines))[:20]
    assert is_there(place)


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Content-Length: 50"),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding: xchunked",),
        ("Content-Length: +5",),
        ("Content-Length: 5 5",),
        ("Content-Length: 0x5",),
        ("Content-Length : 5",),
        ("Host: 127.0.0.1:1", "Host: 127.0.0.1:2"),
    ],
)
def test_a_request_of_two_meanings_is_not_answered_twice(place, lines):
    """What follows it is not taken for a request of its own."""
    inner = request(place, start="GET /review")
    answer = sent(place, request(place, *lines, start="POST /api/predict") + b"0\r\n\r\n" + inner)
    time.sleep(0.1)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5", b"")), answer[:100]
    assert b"200 OK" not in answer


@pytest.mark.parametrize("host", HOSTS)
def test_other_spellings_of_the_host_are_refused(place, host):
    lines = f"Host: {host.replace('{}', str(place[1]))}"
    assert sent(place, request(place, lines)).startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("path", PATHS)
def test_no_spelling_of_a_path_leads_out(place, path):
    answer = sent(place, request(place, start=f"GET {path}"))
    assert answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert b"root:" not in answer


def test_many_ranges_of_a_file_take_no_time(place):
    """A header that some servers compared with itself, part by part."""
    static = "/static/style.css"
    ranges = ",".join(f"{n}-{n}" for n in range(0, 12_000, 2))
    begun = time.monotonic()
    sent(place, request(place, f"Range: bytes={ranges}", start=f"GET {static}"))
    assert is_there(place)
    assert time.monotonic() - begun < SECONDS


def test_a_web_socket_is_not_opened(place):
    words = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    answer = sent(place, request(place, *words, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
    assert b" 101 " not in answer[:20]
    assert is_there(place)


def parts(count: int, head: str = "") -> bytes:
    """A form of so many tiny files."""
    name = 'Content-Disposition: form-data; name="files"; filename="a.png"\r\n'
    return b"".join([f"--b\r\n{name}{head}\r\nx\r\n".encode()] * count) + b"--b--\r\n"


@pytest.mark.parametrize("body", [parts(1_000_000), parts(1, f"x: {'a' * 50_000_000}\r\n")])
def test_a_form_of_a_million_parts_or_of_one_endless_header_is_refused(place, body):
    """At the first that is too many; other clients are answered meanwhile."""
    headers = {**BEARER, "content-type": "multipart/form-data; boundary=b"}
    url = f"http://{place[0]}:{place[1]}/api/predict"
    begun = time.monotonic()
    with suppress(httpx.WriteError, httpx.ReadError):  # it may close while we still send
        answer = httpx.post(url, content=body, headers=headers, timeout=120)
        assert answer.status_code in (400, 413, 422), answer.text
    assert is_there(place)
    assert time.monotonic() - begun < 4 * SECONDS, os.getloadavg()
