"""The HTTP API under /api."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from histo.errors import HistoError
from histo.web.guard import UPLOAD_BYTES
from histo.web.models import BundleRow
from histo.web.predicting import Predicted, predict_uploads
from histo.web.reviews import Decision, Review, ReviewRow, Suspect
from histo.web.runs import RunHistory, RunRow, run_history, run_rows
from histo.web.site import Site
from histo.web.uploads import form_schema, read_form

EXAMPLE = {
    "bundle": "run/export",
    "fingerprint": "3a7bd3e2360a3d29eea436fcfb7e44c735d117c42d1c1835420b6b9942dd4f1b",
    "engine": "ONNX Runtime, cpu",
    "classes": ["0", "1"],
    "positive": "1",
    "threshold": 0.5,
    "predictions": [
        {
            "id": "patch-1",
            "predicted": "1",
            "probabilities": {"0": 0.125, "1": 0.875},
            "error": None,
            "thumbnail": None,
            "looked": None,
        }
    ],
    "drift": None,
}
WRONG: dict[int | str, dict[str, Any]] = {
    413: {"description": "The request has too many bytes."},
    422: {"description": "The form or the bundle cannot be used."},
    429: {"description": "The queue is full: try again after the seconds of Retry-After."},
    503: {"description": "The request took longer than 60 s."},
}


def routes(site: Site) -> APIRouter:
    """Every route of the API."""
    api = APIRouter(prefix="/api")

    @api.get("/bundles")
    def bundles() -> list[BundleRow]:
        """The bundles of the folder that is served."""
        return list(site.models.rows())

    @api.get("/runs")
    def runs() -> list[RunRow]:
        """The runs of the folder that is served, the latest first."""
        return run_rows(site.served)

    @api.get("/runs/history")
    def history(name: str) -> RunHistory:
        """The epochs of a run that have ended; it may be training now."""
        return run_history(site.served, name)

    @api.get("/reviews")
    def reviews() -> list[ReviewRow]:
        """The reviews of the folder that is served, by `histo review`."""
        return site.reviews.rows()

    @api.get("/reviews/table")
    def review(name: str) -> Review:
        """All suspects of a review, the most suspicious first, with what was decided."""
        return site.reviews.read(name)

    @api.get("/reviews/patch", response_class=Response)
    def patch(name: str, id: str) -> Response:
        """A patch of a review as a JPEG."""
        return Response(site.patches.picture(name, id), media_type="image/jpeg")

    @api.get("/reviews/surroundings", response_class=Response)
    def surroundings(name: str, id: str) -> Response:
        """What is around the patch in its slide, as a JPEG; status 204 where that is not known."""
        found = site.surroundings.picture(name, id)
        return Response(found, media_type="image/jpeg") if found else Response(status_code=204)

    @api.post("/reviews/decision")
    def decide(decision: Decision) -> Suspect:
        """Save a decision: when the answer comes, it is on the disk."""
        return site.reviews.decide(decision)

    answers: dict[int | str, dict[str, Any]] = {
        200: {"content": {"application/json": {"example": EXAMPLE}}},
        **WRONG,
    }

    @api.post("/predict", openapi_extra=form_schema(), responses=answers)
    async def predict(request: Request) -> Predicted:
        """The probabilities of patches, with the figures of `histo predict` to the digit.

        A file that cannot be used has an `error` and no probabilities.
        """
        length = request.headers.get("content-length")
        async with site.queue.place(int(length) if length else UPLOAD_BYTES.value):
            return await asyncio.wait_for(predicted(site, request), site.queue.seconds)

    return api


async def predicted(site: Site, request: Request) -> Predicted:
    """Read a form and predict what it holds, at its turn."""
    asked = await read_form(request)
    bundle = asked.bundle or await asyncio.to_thread(only_bundle, site)
    return await predict_uploads(site.models, site.queue, bundle, asked)


def only_bundle(site: Site) -> str:
    """The bundle of a folder that has one."""
    names = site.served.bundles()
    if len(names) != 1:
        raise HistoError(f"the folder has {len(names)} bundles: name one in the field bundle")
    return names[0]
