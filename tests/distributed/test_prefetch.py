"""Work in threads, a bounded way ahead."""

from __future__ import annotations

import threading
import time

import pytest

from histo.distributed.prefetch import prefetch


def test_results_come_in_order_whichever_is_done_first():
    def slow_when_small(n: int) -> int:
        time.sleep(0.02 if n < 3 else 0)
        return n * n

    assert list(prefetch(slow_when_small, range(20), 8, 4)) == [n * n for n in range(20)]


def test_no_more_items_are_taken_than_were_asked_to_lie_ahead():
    taken: list[int] = []
    items = (taken.append(n) or n for n in range(1000))  # type: ignore[func-returns-value]
    results = prefetch(lambda n: n, items, 5, 2)
    assert [next(results), next(results)] == [0, 1]
    assert len(taken) == 7
    results.close()  # type: ignore[attr-defined]


def test_an_error_comes_where_its_result_would_and_ends_the_threads():
    def fail_at_two(n: int) -> int:
        if n == 2:
            raise ValueError("two")
        return n

    threads = threading.active_count()
    results = prefetch(fail_at_two, range(100), 10, 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert threading.active_count() == threads
