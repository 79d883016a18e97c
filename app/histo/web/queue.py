"""The queue before the model: it has a bound, and each request in it ends in time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from histo.errors import HistoError

WAITING = 16
"""Requests in the queue, the one under way included."""
SECONDS = 60.0
"""After which a request ends, whether it waits or is under way."""
T = TypeVar("T")


class Full(HistoError):  # noqa: N818  (an answer, not a bug)
    """The queue is full: try again later."""


class Late(HistoError):  # noqa: N818  (an answer, not a bug)
    """The request has taken too long."""


class Queue:
    """One request at a time has the model: it uses all cores by itself."""

    def __init__(self, waiting: int = WAITING, seconds: float = SECONDS) -> None:
        self.waiting, self.seconds = waiting, seconds
        self.inside = 0
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """A place in the queue, taken before the upload is read; Full where there is none."""
        if self.inside >= self.waiting:
            raise Full(f"{self.inside} requests are waiting already: try again later")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def work(self, do: Callable[[Callable[[], bool]], T]) -> T:
        """The result of `do`, run in a thread at its turn; it is handed what says that it shall stop.

        The turn ends with the thread, not with a request that gives up: two never compute at once.
        """
        stop = threading.Event()
        async with self._turn:
            task = asyncio.create_task(asyncio.to_thread(do, stop.is_set))
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                stop.set()
                await asyncio.wait([task])
                raise
