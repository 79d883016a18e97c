"""The pages, as a browser shows them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from histo.web.site import Site


def routes(site: Site) -> APIRouter:
    """Every page."""
    pages = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)

    @pages.get("/")
    def home(request: Request) -> Any:
        served = site.served
        found = (served.runs(), served.bundles(), served.reviews())
        return site.render(request, "home.html", counts=[len(names) for names in found])

    @pages.get("/try")
    def try_it(request: Request) -> Any:
        return site.render(request, "try.html", bundles=list(site.models.rows()))

    return pages
