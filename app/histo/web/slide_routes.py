"""The API of slides under /api/slides: their tiles, their maps, and the map that is being made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from histo.web.queue import Full
from histo.web.site import Site
from histo.web.slides import Making, SlideAbout, SlideMap, SlideRow, Start

EVENT_SECONDS, STREAM_SECONDS = 0.3, 25.0
"""Between two looks at a map that is made; and after which a browser asks anew for events."""
STREAMS = 32
"""Browsers that follow a map at once."""
WORKING = ("starting", "running", "stopping")


def routes(site: Site) -> APIRouter:
    """Every route of slides."""
    api = APIRouter(prefix="/api/slides")
    streams = Streams(site)

    @api.get("")
    def slides() -> list[SlideRow]:
        """The slides of the folder that is served."""
        return site.slides.listing().slides

    @api.get("/about")
    def about(name: str) -> SlideAbout:
        """One slide, with its maps."""
        return site.slides.about(name)

    @api.get("/tile", response_class=Response)
    def tile(name: str, level: int, column: int, row: int) -> Response:
        """A tile of the slide's deep-zoom pyramid as a JPEG: level 0 is 1 px."""
        made = site.slides.tile(name, level, column, row)
        kept = {"cache-control": "private, max-age=3600"}
        return Response(made, media_type="image/jpeg", headers=kept)

    @api.get("/map")
    def map_of(name: str, folder: str, slide: str) -> SlideMap:
        """A map of a slide: its grid, its classes, its regions by area."""
        return site.slides.map(name, folder, slide)

    @api.get("/making")
    def making() -> Making:
        """How far the map is that is being made."""
        return site.slides.making()

    @api.post("/making")
    def start(start: Start) -> Making:
        """Map a slide with a bundle, or go on with that map where it was stopped."""
        return site.slides.start(start)

    @api.post("/making/stop")
    def stop() -> Making:
        """Stop the map; the same request starts it again where it was."""
        return site.slides.stop()

    @api.get("/making/events", response_class=StreamingResponse)
    async def events() -> StreamingResponse:
        """The same as /making, as server-sent events, each time that it changes."""
        return StreamingResponse(streams.events(), media_type="text/event-stream")

    return api


class Streams:
    """Streams of events, as many as are allowed at once."""

    def __init__(self, site: Site) -> None:
        self._site, self._open = site, 0

    def events(self) -> AsyncIterator[str]:
        """One stream; Full where there are too many."""
        if self._open >= STREAMS:
            raise Full(f"{STREAMS} browsers follow the map already")
        return self._events()

    async def _events(self) -> AsyncIterator[str]:
        self._open += 1
        try:
            last: Making | None = None
            loop = asyncio.get_running_loop()
            end = loop.time() + STREAM_SECONDS
            yield "retry: 1000\n\n"
            while loop.time() < end and not self._site.ending.is_set():
                now = self._site.slides.making()
                if now != last:
                    yield f"data: {json.dumps(asdict(now))}\n\n"
                last = now
                if now.state not in WORKING:
                    return
                await asyncio.sleep(EVENT_SECONDS)
        finally:
            self._open -= 1
