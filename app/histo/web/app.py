"""The application: its pages, its API, and the guard around both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as AnyHTTPException

from histo.errors import HistoError, plain
from histo.web import api, pages, slide_routes
from histo.web.guard import UPLOAD_BYTES, Access, App, Guard, TooLarge
from histo.web.metrics import Measured
from histo.web.queue import Full, Late
from histo.web.site import STATIC, Site

ABOUT = (
    "Predictions of histopathology patches, by the bundles of one folder. A research tool, not a "
    "medical device: not for diagnosis. Send the token as `Authorization: Bearer TOKEN`."
)


def make_app(site: Site, access: Access) -> App:
    """The whole application, as a server runs it."""

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(site.slides.close)

    app = FastAPI(
        lifespan=running,
        title="histo",
        version=site.version,
        description=ABOUT,
        docs_url=None,  # both load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(pages.routes(site))
    app.include_router(api.routes(site))
    app.include_router(slide_routes.routes(site))

    @app.get("/metrics", response_class=PlainTextResponse, include_in_schema=False)
    def metrics() -> str:
        """For Prometheus, which sends the token as any other program does."""
        making = site.slides.making().state in slide_routes.WORKING
        return site.queue.metrics.text(site.queue.inside, making)

    app.mount("/static", StaticFiles(directory=STATIC), "static")

    async def expected(request: Request, error: Exception) -> Any:
        return failed(site, request, error)

    expected_ones = (HistoError, AnyHTTPException, TooLarge, asyncio.TimeoutError)
    for kind in (*expected_ones, RequestValidationError):
        app.add_exception_handler(kind, expected)
    return Guard(Measured(app, site.queue.metrics), access)


def failed(site: Site, request: Request, error: Exception) -> Any:
    """An expected problem: JSON to whoever asks the API, a page to a person."""
    status, text = status_of(error)
    text = text.replace(f"{site.served.root}/", "")  # the folder's place on this machine
    headers = {"retry-after": "5"} if status in (429, 503) else {}
    if request.url.path.startswith("/api/"):
        return JSONResponse({"detail": text}, status, headers)
    page = site.render(request, "error.html", status, text=text)
    page.headers.update(headers)
    return page


def status_of(error: Exception) -> tuple[int, str]:
    """The status of an answer, and what is wrong."""
    if isinstance(error, Full):
        return 429, error.message
    if isinstance(error, Late | asyncio.TimeoutError):
        return 503, "the request took too long: send fewer patches at once"
    if isinstance(error, TooLarge):
        return 413, f"more than {UPLOAD_BYTES.value:,} bytes in one request"
    if isinstance(error, RequestValidationError):  # without what was sent: it may not fit into JSON
        parts = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])
        return 422, plain("; ".join(parts))
    if isinstance(error, HTTPException | AnyHTTPException):
        return error.status_code, str(error.detail)
    if isinstance(error, HistoError):
        return (404 if error.message.startswith("there is nothing") else 422), error.message
    raise error
