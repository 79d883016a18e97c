"""What the pages and the API share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from histo.web.models import Models
from histo.web.patches import Patches
from histo.web.queue import Queue
from histo.web.reviews import Reviews
from histo.web.served import Served
from histo.web.slides import Slides
from histo.web.surroundings import Surroundings

HERE = Path(__file__).parent
STATIC = HERE / "static"


@dataclass(frozen=True)
class Site:
    """The folder that is served, the models at work, and the queue before them."""

    served: Served
    models: Models
    queue: Queue
    reviews: Reviews
    patches: Patches
    slides: Slides
    surroundings: Surroundings
    version: str
    report_scripts: tuple[str, ...] = ()
    """the only scripts that a report may run, as the policy has them: `sha256-…`"""
    user: str = ""
    """who reviews, until the page says otherwise"""
    ending: Event = field(default_factory=Event)
    """set when the server ends: streams of events end too"""

    def render(self, request: Request, template: str, status: int = 200, **values: Any) -> Any:
        """A page, with every value escaped."""
        text = PAGES.get_template(template).render(
            path=request.url.path, version=self.version, folder=self.served.root.name, **values
        )
        return HTMLResponse(text, status)


PAGES = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined
)
