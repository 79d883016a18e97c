"""What every request must pass: the token, the host, the origin and the size; and the headers of answers."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from histo.files.limits import MB, Limit

UPLOAD_BYTES = Limit("HISTO_MAX_UPLOAD_BYTES", 256 * MB, "bytes")
"""Of one request."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "content-security-policy": POLICY,
}
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class TooLarge(Exception):  # noqa: N818  (an answer, not a bug)
    """A request with more bytes than are accepted."""


@dataclass(frozen=True)
class Access:
    """Who may ask: whoever has the token, at one of these names of the server."""

    token: str
    hosts: frozenset[str]
    """values of the header Host, with the port where there is one"""
    cookie: str = "histo"
    """its name: browsers send cookies to every port of a host"""

    def session(self) -> str:
        """What the cookie holds: the token itself stays out of it."""
        return hmac.new(self.token.encode(), b"session", hashlib.sha256).hexdigest()

    def is_token(self, given: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(given.encode(errors="replace"), self.token.encode())

    def is_session(self, given: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(given.encode(errors="replace"), self.session().encode())


class Guard:
    """ASGI middleware around the whole application, static files and unknown paths included."""

    def __init__(self, app: App, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets here
            return
        headers = headers_of(scope)
        refused = self._refusal(scope, headers)
        if refused:
            await answer(send, *refused)
            return
        if self._brings_token(scope):
            await self._enter(scope, send)
            return
        counted = Counted(receive, UPLOAD_BYTES.value)
        try:
            await self.app(scope, counted.receive, with_headers(send))
        except TooLarge:
            await answer(send, 413, f"more than {UPLOAD_BYTES.value:,} bytes in one request")

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        if headers.get("host", "").lower() not in self.access.hosts:
            return 421, "this server does not answer to that name (see --allowed-host)"
        origin = headers.get("origin")
        if origin is not None and _host_of(origin) != headers["host"].lower():
            return 403, "a request from another site"
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
            return 403, "a request from another site"
        if not self._is_known(scope, headers):
            return 401, "give the token: open the address that histo serve printed"
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()):
            return 400, "the length of the request is no number"
        if len(length) > 15 or int(length) > UPLOAD_BYTES.value:
            return 413, f"more than {UPLOAD_BYTES.value:,} bytes in one request"
        return None

    def _is_known(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        """By the header Authorization, the cookie, or the token in the address."""
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self.access.is_token(bearer.strip())
        if self._brings_token(scope):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self.access.cookie)
        except CookieError:
            return False
        return cookie is not None and self.access.is_session(cookie.value)

    def _brings_token(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        return scope["method"] == "GET" and len(given) == 1 and self.access.is_token(given[0])

    async def _enter(self, scope: Scope, send: Send) -> None:
        """Exchange the token in the address for a cookie, so that no page or log has it."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        rest = urlencode({name: each for name, each in query.items() if name != "token"}, True)
        path = scope["raw_path"].decode("latin-1").partition("?")[0]
        here = quote(path.lstrip("/\\"), safe="/%")  # browsers read //a.site and /\a.site as a site
        place = f"/{here}" + (f"?{rest}" if rest else "")
        cookie = f"{self.access.cookie}={self.access.session()}; Path=/; HttpOnly; SameSite=Strict"
        await answer(send, 303, "", {"location": place, "set-cookie": cookie})


def _host_of(origin: str) -> str:
    """The host and port of an origin; nothing where it is not one."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # a bracket that is not closed
        return ""


class Counted:
    """The body of a request, counted while it comes: a chunked one says no length."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._left = receive, most

    async def receive(self) -> Message:
        """The next part; TooLarge where there are too many bytes."""
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise TooLarge
        return message


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers of a request; one that is given twice counts as neither."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        found[key] = "" if key in found else value.decode("latin-1")
    return found


def with_headers(send: Send) -> Send:
    """Answers get the headers above, where they do not have their own."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower() for name, _ in message.get("headers", [])}
            more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in own]
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await send(message)

    return sent


async def answer(
    send: Send, status: int, text: str, headers: Mapping[str, str] | None = None
) -> None:
    """A whole answer of one line."""
    body = f"{text}\n".encode() if text else b""
    every = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body))}
    lines = [(k.encode(), v.encode()) for k, v in {**every, **(headers or {})}.items()]
    sent = with_headers(send)
    await sent({"type": "http.response.start", "status": status, "headers": lines})
    await sent({"type": "http.response.body", "body": body})
