"""Clients of `POST /api/predict` on the loopback, cheap enough to share the server's cores."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

BOUNDARY = b"the-boundary-of-the-benchmark"


@dataclass
class Load:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)
    """of each request that was answered with predictions, from its first byte to the answer's last"""
    patches: int = 0
    refused: int = 0
    """answers with status 429"""
    failed: Counter[str] = field(default_factory=Counter)
    """other answers, and connections that ended without one"""
    wall: float = 0.0


def bodies(paths: Sequence[Path], files: int) -> list[bytes]:
    """The forms that send all files, so many in each."""
    return [body_of(paths[n : n + files]) for n in range(0, len(paths), files)]


def body_of(paths: Sequence[Path]) -> bytes:
    """One form of multipart/form-data."""
    parts = [
        b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="bundle"\r\n\r\nbundle\r\n'
    ]
    for path in paths:
        head = f'Content-Disposition: form-data; name="files"; filename="{path.name}"\r\n\r\n'
        parts += [b"--" + BOUNDARY + b"\r\n", head.encode(), path.read_bytes(), b"\r\n"]
    return b"".join([*parts, b"--" + BOUNDARY + b"--\r\n"])


class Client:
    """One connection, kept between requests."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._head = (
            f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n"
        )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: bytes, load: Load) -> None:
        """Predict; come again after a 429. What goes wrong is counted."""
        while True:
            start = time.perf_counter()
            try:
                status, head, answer = await self._exchange("POST", "/api/predict", body)
            except (OSError, asyncio.IncompleteReadError) as error:
                load.failed[type(error).__name__] += 1
                self._streams = None
                return
            if status == 429:
                load.refused += 1
                found = re.search(rb"retry-after: *(\d+)", head, re.IGNORECASE)
                await asyncio.sleep(int(found[1]) if found else 1)
                continue
            rows = json.loads(answer).get("predictions", []) if status == 200 else []
            if rows and not any(row["error"] for row in rows):
                load.seconds.append(time.perf_counter() - start)
                load.patches += len(rows)
            else:
                load.failed[f"status {status}"] += 1
            return

    async def waiting(self) -> int:
        """Requests that the server has begun with and not answered, as its metrics say."""
        _, _, text = await self._exchange("GET", "/metrics", b"")
        found = re.search(rb"^histo_requests_waiting (\d+)", text, re.MULTILINE)
        assert found
        return int(found[1])

    def close(self) -> None:
        """Close the connection."""
        if self._streams:
            self._streams[1].close()

    async def _exchange(self, method: str, place: str, body: bytes) -> tuple[int, bytes, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        reader, writer = self._streams
        head = f"{method} {place} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode())
        writer.write(body)
        await writer.drain()
        answered = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", answered, re.IGNORECASE)
        assert length
        return int(answered.split()[1]), answered, await reader.readexactly(int(length[1]))


async def sent_by(
    clients: int, port: int, token: str, sending: Sequence[bytes], seconds: float
) -> Load:
    """Let clients send all of these once, or again and again for some seconds."""
    load, start = Load(), time.perf_counter()
    left = until(cycle(sending), start + seconds) if seconds else iter(sending)

    async def one() -> None:
        client = Client(port, token)
        for body in left:
            await client.ask(body, load)
        client.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    load.wall = time.perf_counter() - start
    return load


def until(bodies: Iterator[bytes], end: float) -> Iterator[bytes]:
    """Bodies until a time."""
    for body in bodies:
        if time.perf_counter() > end:
            return
        yield body
