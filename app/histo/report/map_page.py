"""The page of a mapped slide, and the index over all slides: each one file that needs no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from histo.report import page

DISCLAIMER = "histo is a research tool, not a medical device: not for diagnosis."
SLIDE_PAGE = "slide.html"
INDEX_PAGE = "index.html"
THUMBNAILS = 200
"""Slides shown as pictures on the index; its table has all."""


@dataclass(frozen=True)
class SlidePage:
    """What the page of a slide shows."""

    title: str
    warnings: Sequence[str]
    facts: Mapping[str, str]
    thumbnail: bytes
    """JPEG"""
    colours: bytes
    """PNG with transparency, of the same size"""
    legend: str
    highest: Sequence[tuple[bytes, str]]
    """JPEG and caption of tiles"""
    uncertain: Sequence[tuple[bytes, str]]
    files: Mapping[str, str]
    """names and what each is"""


def write_slide_page(folder: Path, shown: SlidePage) -> None:
    """Write slide.html."""
    parts = [
        ("", [page.paragraph(line, "warning") for line in shown.warnings]),
        ("", [slider(shown.thumbnail, shown.colours), page.paragraph(shown.legend, "small")]),
        ("Figures", [page.facts(shown.facts)]),
        *_tiles("Highest tiles", shown.highest),
        *_tiles("Least certain tiles", shown.uncertain),
        (
            "Files",
            [page.link(quote(name), f"{name}: {what}") for name, what in shown.files.items()],
        ),
        ("", [page.link(f"../{INDEX_PAGE}", "All slides"), page.paragraph(DISCLAIMER, "small")]),
    ]
    page.write_page(folder / SLIDE_PAGE, shown.title, parts)


def _tiles(heading: str, tiles: Sequence[tuple[bytes, str]]) -> list[tuple[str, list[str]]]:
    return [(heading, [page.sheet([[tile] for tile in tiles])])] if tiles else []


def slider(thumbnail: bytes, colours: bytes) -> str:
    """A picture under a second one, whose opacity a slider sets."""
    below, above = (
        f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        for kind, data in (("jpeg", thumbnail), ("png", colours))
    )
    act = "this.closest('.map').querySelector('img + img').style.opacity = this.value / 100"
    return (
        '<div class="map"><div style="position: relative">'
        f'<img src="{below}" alt="the slide" style="width: 100%; display: block">'
        f'<img src="{above}" alt="its map" style="position: absolute; inset: 0; width: 100%; '
        'height: 100%; opacity: .55; image-rendering: pixelated"></div>'
        '<p><label>Map <input type="range" min="0" max="100" value="55" style="width: 16rem; '
        f'vertical-align: middle" oninput="{act}"> opacity</label></p></div>'
    )


@dataclass(frozen=True)
class IndexPage:
    """What the index shows."""

    title: str
    line: str
    rows: Sequence[Sequence[str]]
    """the table, its header first; the first column is the slide's name"""
    pages: Mapping[str, str]
    """the page of each slide that has one"""
    pictures: Sequence[tuple[str, bytes]]
    """slide and small JPEG"""
    failed: Sequence[str]
    """lines about slides that have no map"""


def write_index(path: Path, shown: IndexPage) -> None:
    """Write the index over all slides."""
    links = {name: quote(target) for name, target in shown.pages.items()}
    parts = [
        ("", [page.paragraph(shown.line, "summary")]),
        ("", [page.paragraph(line, "warning") for line in shown.failed]),
        ("Slides", [page.table(shown.rows, sortable=True, links=links)]),
        ("Maps", [_pictures(shown.pictures, links)]),
        ("", [page.paragraph(DISCLAIMER, "small")]),
    ]
    page.write_page(path, shown.title, parts)


def _pictures(pictures: Sequence[tuple[str, bytes]], links: Mapping[str, str]) -> str:
    shown = []
    for name, data in pictures:
        source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
        text = escape(name, quote=True)
        shown.append(
            f'<a href="{escape(links[name], quote=True)}" style="width: 11rem">'
            f'<img src="{source}" alt="{text}" style="width: 100%"><br><small>{text}</small></a>'
        )
    more = len(links) - len(pictures)
    rest = page.paragraph(f"and {more:,} more: see the table", "small") if more > 0 else ""
    return f'<div class="patches">{"".join(shown)}</div>{rest}'
