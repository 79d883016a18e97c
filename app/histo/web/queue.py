"""The queue before the model: it has a bound, joins requests that come together, and ends each in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from histo.config import PREDICT_BATCH
from histo.errors import HistoError
from histo.files.limits import MB
from histo.model.predictor import Calls, Predictor
from histo.pixels.fit import Pixels
from histo.web.metrics import Metrics

WAITING = 256
"""Requests in the queue, those under way included."""
WAITING_BYTES = 1024 * MB
"""Of the uploads of all of them; one alone may have more."""
SECONDS = 60.0
"""After which a request ends, whether it waits or is under way."""


class Full(HistoError):  # noqa: N818  (an answer, not a bug)
    """The queue is full: try again later."""


class Late(HistoError):  # noqa: N818  (an answer, not a bug)
    """The request has taken too long."""


@dataclass(eq=False)
class Part:
    """The patches of one request, uint8 [N, S, S, 3], and where its answer goes."""

    predictor: Predictor
    patches: Pixels
    tta: bool
    answer: asyncio.Future[Calls]

    def goes_with(self, other: Part) -> bool:
        """Whether one batch may hold both: only where that changes no digit of the figures.

        ONNX Runtime on a CPU computes each patch alone; GPUs choose other sums for other batches.
        """
        exact = self.predictor.engine.name.startswith("ONNX Runtime")
        return exact and self.predictor is other.predictor and self.tta == other.tta


class Queue:
    """One batch at a time has the model, which uses all cores by itself."""

    def __init__(self, waiting: int = WAITING, seconds: float = SECONDS) -> None:
        self.waiting, self.seconds = waiting, seconds
        self.metrics = Metrics()
        self.inside = self._bytes = 0
        self._parts: list[Part] = []
        self._worker: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def place(self, size: int) -> AsyncIterator[None]:
        """A place for a request of `size` bytes, taken before they are read; Full where there is none."""
        if self.inside >= self.waiting or (self.inside and self._bytes + size > WAITING_BYTES):
            raise Full(f"{self.inside} requests are waiting already: try again later")
        self.inside += 1
        self._bytes += size
        try:
            yield
        finally:
            self.inside -= 1
            self._bytes -= size

    async def calls(self, predictor: Predictor, patches: Pixels, tta: bool) -> Calls:
        """The predictions of patches, at their turn."""
        answer: asyncio.Future[Calls] = asyncio.get_running_loop().create_future()
        self._parts.append(Part(predictor, patches, tta, answer))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        """Until nothing waits: take the first, with all that may go with it."""
        while self._parts:
            group = together(self._parts)
            self._parts = [part for part in self._parts if part not in group]
            wanted = [part for part in group if not part.answer.done()]
            if not wanted:
                continue
            try:
                found = await asyncio.to_thread(self._compute, wanted)
            except Exception as error:  # of each request, not of this task
                for part in wanted:
                    if not part.answer.done():
                        part.answer.set_exception(error)
                continue
            for part, calls in zip(wanted, found, strict=True):
                if not part.answer.done():
                    part.answer.set_result(calls)

    def _compute(self, parts: list[Part]) -> list[Calls]:
        """The predictions of each part, in batches of the size that `histo predict` uses."""
        first = parts[0]
        patches = np.concatenate([part.patches for part in parts])
        found = []
        for start in range(0, len(patches), PREDICT_BATCH):
            if all(part.answer.done() for part in parts):  # each has given up
                raise Late("the request took too long")
            batch = patches[start : start + PREDICT_BATCH]
            found.append(first.predictor.predict(batch, first.tta))
            self.metrics.batch(len(batch))
        probabilities = np.concatenate([each.probabilities for each in found])
        called = np.concatenate([each.called for each in found])
        ends = np.cumsum([len(part.patches) for part in parts])[:-1]
        return [
            Calls(*each)
            for each in zip(np.split(probabilities, ends), np.split(called, ends), strict=True)
        ]


def together(parts: list[Part]) -> list[Part]:
    """The first, and those that may go with it until a batch is full."""
    group, count = [parts[0]], len(parts[0].patches)
    for part in parts[1:]:
        if count >= PREDICT_BATCH:
            break
        if parts[0].goes_with(part):
            group.append(part)
            count += len(part.patches)
    return group
