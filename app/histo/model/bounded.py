"""A stranger's ONNX model at work: within bounds of memory and of time for one batch.

The graph of a model can ask for any memory, and can have no end. On Linux the kernel gives the process
no more than the bound while a model loads or runs (RLIMIT_DATA). On every system the tensors of ONNX
Runtime come from an arena that gives no more. The model runs in threads of its own, which are told to
stop after the bound of time: a loop then ends. Within one operator nothing can stop it: then the thread
is left behind, and ends with the process. None of it costs time that can be measured, as a process of
its own would.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.distributed import ranks
from histo.distributed.interrupts import STUCK, asked
from histo.errors import HistoError, Stopped
from histo.files.limits import RUN_BYTES, RUN_SECONDS
from histo.model.memory_bound import data_taken, memory_bounded

Done = SimpleQueue[tuple[int, Any]]
"""Results or exceptions, by the number of the call."""
Job = tuple[int, Callable[[], Any], Done]
SPIN_US = 50
"""How long an idle thread of ONNX Runtime waits for the next operator before it sleeps. By default it
does so all along, and takes cores from the threads that read: up to a third of all CPU time."""
PART = 8
"""A part of a batch has at least so many patches. A core for each part is faster than all cores for each
operator: by up to a quarter on two cores (`benchmarks/README.md`)."""
FOR_ONE = "for one batch"
NO_MEMORY = ("Available memory", "bad_alloc")
"""What engines say where the bound of memory is reached: ONNX Runtime, OpenVINO."""


class Bounded:
    """Threads in which a model runs; HistoError where it fails, takes too long, or needs too much memory.

    `stop` tells the model to end, where a call took too long.
    """

    def __init__(self, place: str, threads: int = 1) -> None:
        self._place, self._stuck = place, False
        self.stop: Callable[[], None] = lambda: None
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=_work, args=(self._jobs,), daemon=True) for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def load(self, call: Callable[[], Any], weights: int) -> Any:
        """A model, whose weights of so many bytes are beside the bound."""
        return self._do([call], "to load", "does not load", weights)[0]

    def run(self, *calls: Callable[[], Any]) -> list[Any]:
        """What the model gives for the parts of a batch, each in a thread."""
        return self._do(calls, FOR_ONE, "fails in prediction", 0)

    def _do(
        self, calls: Sequence[Callable[[], Any]], what: str, failing: str, weights: int
    ) -> list[Any]:
        """The results of calls in the threads. Ctrl-C ends the wait, which no C code holds."""
        seconds = RUN_SECONDS.value
        found = None
        try:
            if not self._stuck:
                found = self._results(calls, RUN_BYTES.value + weights, seconds)
        finally:
            if found is None:  # too slow, or Ctrl-C
                self._leave()
        if found is None and asked.is_set():
            raise Stopped("stopped")
        if found is None:
            raise HistoError(
                f"{self._place} takes more than {seconds:,} s {what} (the variable "
                f"{RUN_SECONDS.name} raises that)",
                "give a smaller {batch_size}" if what == FOR_ONE else "",
            )
        for error in found:
            if isinstance(error, Exception):  # the engines' exceptions have no base of their own
                if isinstance(error, MemoryError) or any(w in str(error) for w in NO_MEMORY):
                    RUN_BYTES.check(RUN_BYTES.value + 1, f"what {self._place} needs {what}")
                raise HistoError(f"{self._place} {failing} ({type(error).__name__})")
        return found

    def _results(
        self, calls: Sequence[Callable[[], Any]], most: int, seconds: int
    ) -> list[Any] | None:
        """Results or exceptions in order; None after so many seconds, or after Ctrl-C."""
        ceiling = data_taken() + most  # one for all parts: what the first takes, the next cannot

        def bounded(call: Callable[[], Any]) -> Any:
            with memory_bounded(ceiling):
                return call()

        done: Done = SimpleQueue()
        for number, call in enumerate(calls):
            self._jobs.put((number, partial(bounded, call), done))
        end, found = time.monotonic() + seconds, dict[int, Any]()
        while len(found) < len(calls):
            if time.monotonic() >= end or asked.is_set():
                return None
            with suppress(Empty):
                number, result = done.get(timeout=min(0.5, seconds))
                found[number] = result
        return [found[number] for number in range(len(calls))]

    def _leave(self) -> None:
        """Tell the model to end at its next operator, and wait no more."""
        self._stuck = True
        for thread in self._threads:
            thread.name = STUCK
            self._jobs.put(None)
        self.stop()

    def __del__(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)


class BoundedSession:
    """A loaded ONNX model at work by ONNX Runtime, bounded."""

    def __init__(self, data: bytes, place: str) -> None:
        import onnxruntime

        self._bounded = Bounded(place, ranks.cores())
        weights = weights_of(data)

        def load() -> Any:
            _limit_arena(RUN_BYTES.value + weights)
            return onnxruntime.InferenceSession(data, _options(), ["CPUExecutionProvider"])

        self._options = onnxruntime.RunOptions()
        self._bounded.stop = self._stop
        self._session = self._bounded.load(load, weights)

    def _stop(self) -> None:
        self._options.terminate = True

    def ends(self) -> list[tuple[str, str, list[Any]]]:
        """Name, type and shape, without the batch, of each input and output."""
        ends = [*self._session.get_inputs(), *self._session.get_outputs()]
        return [(end.name, end.type, end.shape[1:]) for end in ends]

    def run(self, output: str, name: str, batch: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """One output for the parts of a batch, which is the input `name`."""

        def run(part: NDArray[np.uint8]) -> Any:
            return self._session.run([output], {name: part}, self._options)[0]

        parts = np.array_split(batch, max(1, min(2 * ranks.cores(), len(batch) // PART)))
        return self._bounded.run(*(partial(run, part) for part in parts))


def _work(jobs: SimpleQueue[Job | None]) -> None:
    """Do one job after the other, until there is None."""
    while job := jobs.get():
        number, call, done = job
        try:
            done.put((number, call()))
        except Exception as error:  # handed to who waits for it
            done.put((number, error))


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


def _limit_arena(most: int) -> None:
    """Bound what the tensors of the next session take together.

    Each session has an arena of its own: weights are added to one unasked, and above its bound it
    gives all that is asked for (BFCArena::Extend subtracts without a look at the sign).
    """
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    info = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    onnxruntime.create_and_register_allocator(info, onnxruntime.OrtArenaCfg({"max_mem": most}))


def weights_of(data: bytes) -> int:
    """How many bytes the weights of a file take in memory, at most: unpacked, and laid out anew."""
    return 8 * len(data)
