"""A stranger's ONNX model at work: within bounds of memory and of time for one batch.

The graph of a model can ask for any memory, and can have no end. Its memory comes from an arena of
ONNX Runtime that gives no more than the bound. It runs in a thread of its own, which is told to stop
after the bound: a loop then ends. Within one operator nothing can stop it: then the thread is left
behind, and ends with the process. Neither costs time that can be measured, as a process of its own
would.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.distributed import ranks
from histo.distributed.interrupts import STUCK, asked
from histo.errors import HistoError, Stopped
from histo.files.limits import RUN_BYTES, RUN_SECONDS

Job = tuple[Callable[[], Any], SimpleQueue[Any]]
SPIN_US = 50
"""How long an idle thread of ONNX Runtime waits for the next operator before it sleeps. By default it
does so all along, and takes cores from the threads that read: up to a third of all CPU time."""
NO_MEMORY = ("Available memory", "bad_alloc")
"""What engines say where the bound of memory is reached: ONNX Runtime, OpenVINO."""


class Bounded:
    """A thread in which a model runs; HistoError where it fails, takes too long, or needs too much memory.

    `stop` tells the model to end, where a call took too long.
    """

    def __init__(self, place: str) -> None:
        self._place, self._stuck = place, False
        self.stop: Callable[[], None] = lambda: None
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=_work, args=(self._jobs,), daemon=True)
        self._thread.start()

    def do(self, call: Callable[[], Any], failing: str) -> Any:
        """The result of a call in the thread. Ctrl-C ends the wait, which no C code holds."""
        done: SimpleQueue[Any] = SimpleQueue()
        seconds = RUN_SECONDS.value
        found = None
        try:
            if not self._stuck:
                self._jobs.put((call, done))
                found = _within(done, seconds)
        finally:
            if found is None:  # too slow, or Ctrl-C
                self._stuck, self._thread.name = True, STUCK
                self.stop()  # it ends at its next operator
        if found is None and asked.is_set():
            raise Stopped("stopped")
        if found is None:
            raise HistoError(
                f"{self._place} takes more than {seconds:,} s for one batch (the variable "
                f"{RUN_SECONDS.name} raises that)",
                "give a smaller {batch_size}",
            )
        if isinstance(found[0], Exception):  # the engines' exceptions have no base of their own
            if isinstance(found[0], MemoryError) or any(w in str(found[0]) for w in NO_MEMORY):
                RUN_BYTES.check(RUN_BYTES.value + 1, f"{self._place} needs for one batch")
            name = type(found[0]).__name__
            raise HistoError(f"{self._place} {failing} ({name})")
        return found[0]

    def __del__(self) -> None:
        self._jobs.put(None)


class BoundedSession:
    """A loaded ONNX model at work by ONNX Runtime, bounded."""

    def __init__(self, data: bytes, place: str) -> None:
        import onnxruntime

        self._bounded = Bounded(place)
        _limit_memory(RUN_BYTES.value)

        def load() -> Any:
            return onnxruntime.InferenceSession(data, _options(), ["CPUExecutionProvider"])

        self._options = onnxruntime.RunOptions()
        self._bounded.stop = self._stop
        self._session = self._bounded.do(load, "does not load")

    def _stop(self) -> None:
        self._options.terminate = True

    def ends(self) -> list[tuple[str, str, list[Any]]]:
        """Name, type and shape, without the batch, of each input and output."""
        ends = [*self._session.get_inputs(), *self._session.get_outputs()]
        return [(end.name, end.type, end.shape[1:]) for end in ends]

    def run(self, output: str, feed: dict[str, Any]) -> NDArray[np.float32]:
        """One output for one batch."""

        def run() -> Any:
            return self._session.run([output], feed, self._options)[0]

        return np.asarray(self._bounded.do(run, "fails in prediction"))


def _within(done: SimpleQueue[Any], seconds: int) -> tuple[Any] | None:
    """What the queue gets in so many seconds, in a tuple of one; None after that, or after Ctrl-C."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not asked.is_set():
        with suppress(Empty):
            return (done.get(timeout=min(0.5, seconds)),)
    return None


def _work(jobs: SimpleQueue[Job | None]) -> None:
    """Do one job after the other, until there is None."""
    while job := jobs.get():
        call, done = job
        try:
            done.put(call())
        except Exception as error:  # handed to who waits for it
            done.put(error)


def _options() -> Any:
    """How a session is made."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its warnings concern the conversion of models
    if ranks.local_world_size() > 1:  # otherwise each process would use every core
        options.intra_op_num_threads = ranks.cores()
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    options.add_session_config_entry("session.use_env_allocators", "1")  # the one with the bound
    # weights are as large as the file says, and the file has a bound of its own
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    return options


@cache
def _limit_memory(most: int) -> None:
    """Bound what all the sessions of this process take together while they run."""
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    info = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(info, onnxruntime.OrtArenaCfg({"max_mem": most}))
