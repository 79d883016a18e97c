"""A map that is made while the page is served: one at a time, stopped and gone on with."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from histo.errors import HistoError, Way
from histo.screen import Advance, Screen
from histo.web.slides import Making, Start, State

STOP_SECONDS = 30.0
"""How long the end of the server waits for a map to stop."""


class Stopped(Exception):  # noqa: N818  (asked for)
    """The map shall stop; what is done of it is kept."""


class MapMaker:
    """Runs `histo map` of one slide in a thread."""

    def __init__(self, root: Path, device: str, precision: str) -> None:
        self._root, self._device, self._precision = root, device, precision
        self._state, self._began = Making(), 0.0
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None

    def making(self) -> Making:
        """How far the map is."""
        with self._lock:
            state = self._state
        if state.state in ("starting", "running", "stopping"):
            state = replace(state, seconds=round(time.monotonic() - self._began, 1))
        return state

    def start(self, start: Start, bundle: Path, slide: Path, out: Path) -> Making:
        """Start; HistoError where another one is under way."""
        with self._lock:
            if self._thread and self._thread.is_alive():
                raise HistoError(f"the map of {self._state.slide} is being made: stop it first")
            self._stop.clear()
            self._began = time.monotonic()
            self._state = Making("starting", start.slide, start.bundle)
            self._thread = threading.Thread(
                target=self._run, args=(start, bundle, slide, out), daemon=True
            )
            self._thread.start()
        return self.making()

    def stop(self) -> Making:
        """Stop at the next batch."""
        with self._lock:
            if self._thread and self._thread.is_alive():
                self._stop.set()
                self._state = replace(self._state, state="stopping")
        return self.making()

    def close(self) -> None:
        """Stop, and wait for the end of the batch."""
        self.stop()
        if self._thread:
            self._thread.join(STOP_SECONDS)

    def say(self, line: str) -> None:
        """Keep what the map says last."""
        with self._lock:
            self._state = replace(self._state, message=self._plain(line))

    def _plain(self, line: str) -> str:
        """A line without the folder's place on this machine."""
        return line.replace(f"{self._root}/", "")[:1000]

    def at(self, done: int, total: int) -> None:
        """How many tiles are done; Stopped where no more shall be."""
        if self._stop.is_set():
            raise Stopped
        with self._lock:
            self._state = replace(self._state, state="running", done=done, total=total)

    def _run(self, start: Start, bundle: Path, slide: Path, out: Path) -> None:
        from histo.commands.map import map_to

        end: State = "finished"
        message = ""
        try:
            failed = map_to(
                bundle,
                [slide],
                out,
                Watched(self),
                mpp=start.mpp,
                slide_mpp=str(start.slide_mpp) if start.slide_mpp else None,
                device=self._device,
                precision=self._precision,
            )
            end = "failed" if failed else "finished"
        except Stopped:
            end = "stopped"
        except HistoError as error:
            end, message = "failed", error.message
        except Exception as error:
            end, message = "failed", f"the map failed ({type(error).__name__})"
            raise
        finally:
            seconds = round(time.monotonic() - self._began, 1)
            with self._lock:
                said = self._plain(message) or self._state.message
                self._state = replace(self._state, state=end, seconds=seconds, message=said)


class Watched(Screen):
    """A screen whose lines and progress go to the page."""

    def __init__(self, maker: MapMaker) -> None:
        super().__init__(quiet=True)
        self._maker = maker

    def say(self, line: str = "", *ways: Way) -> None:
        """Keep the line."""
        if not line.startswith("maps: "):  # names the folder's place on this machine
            self._maker.say(line)

    @contextmanager
    def bar(
        self, what: str, total: int, done: int = 0, unit: str = "", each: int = 1
    ) -> Iterator[Advance]:
        """Count the steps, and stop where that is asked."""
        count = done
        self._maker.at(count, total)

        def advance(steps: int = 1, what: str | None = None) -> None:
            nonlocal count
            count += steps
            self._maker.at(count, total)

        yield advance
