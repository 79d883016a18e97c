"""The pages, as a browser shows them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from histo.web.runs import compare_runs, read_report, run_rows
from histo.web.served import SUSPECTS
from histo.web.site import Site


def routes(site: Site) -> APIRouter:
    """Every page."""
    pages = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)

    @pages.get("/")
    def home(request: Request) -> Any:
        served = site.served
        slides = site.slides.listing().slides
        found = (served.runs(), served.bundles(), served.reviews(), slides)
        return site.render(request, "home.html", counts=[len(each) for each in found])

    @pages.get("/try")
    def try_it(request: Request) -> Any:
        return site.render(request, "try.html", bundles=list(site.models.rows()))

    @pages.get("/runs")
    def runs(request: Request) -> Any:
        return site.render(request, "runs.html", runs=run_rows(site.served))

    @pages.get("/runs/compare")
    def compare(request: Request, a: str, b: str) -> Any:
        figures = compare_runs(site.served, (a, b))
        return site.render(request, "compare.html", names=(a, b), figures=figures)

    @pages.get("/slides")
    def slides(request: Request, name: str = "") -> Any:
        """One slide where it is named, else the list of them."""
        if not name:
            return site.render(request, "slides.html", listing=site.slides.listing())
        about = site.slides.about(name)
        usable = [row for row in site.models.rows() if not row.error]
        return site.render(request, "slide.html", slide=about, bundles=usable)

    @pages.get("/runs/{name:path}/report")
    def report(name: str) -> Any:
        """A report as it is, in a sandbox: of its scripts only histo's own one runs."""
        policy = report_policy(site.report_scripts)
        page = read_report(site.served, name)
        return HTMLResponse(page, headers={"content-security-policy": policy})

    @pages.get("/review")
    def review(request: Request, name: str = "") -> Any:
        """One review where it is named, else the list of them."""
        if not name:
            return site.render(request, "reviews.html", reviews=site.reviews.rows())
        site.served.with_file(name, SUSPECTS)
        return site.render(request, "review.html", name=name, user=site.user)

    return pages


def report_policy(scripts: tuple[str, ...]) -> str:
    """A report is a whole page of its own; it may come from a stranger, and sees nothing of this site."""
    run = " ".join(f"'{script}'" for script in scripts) or "'none'"
    return (
        f"sandbox allow-scripts; default-src 'none'; script-src {run}; "
        "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
