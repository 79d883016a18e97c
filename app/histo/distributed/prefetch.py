"""Compute the next results in threads while the last one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(
    make: Callable[[Item], Made],
    items: Iterable[Item],
    ahead: int | Callable[[], int] = 1,
    workers: int = 1,
) -> Iterator[Made]:
    """`map(make, items)` in order, computing up to `ahead` results in advance.

    An item is read only when a result is taken, so memory is bounded.
    """
    most = ahead if callable(ahead) else lambda: ahead
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                while len(waiting) > most():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
