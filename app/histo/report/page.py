"""A self-contained HTML page that also prints well: no network, no framework."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from histo.files.limits import IMAGE_BYTES, read_bytes
from histo.files.writing import write_text
from histo.text import visible

KINDS = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg"}
STYLE = """
:root { color-scheme: light; --line: #ccc; --blue: #0072B2; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; border-bottom: 1px solid var(--line); }
.note { border-left: .4rem solid var(--blue); padding: .4rem .8rem; background: #eef5fa; }
.warning { border-color: #D55E00; background: #fdf1e8; }
.summary { font-size: 1.1rem; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem 0 .2rem .8rem; text-align: right; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td { white-space: nowrap; vertical-align: top; }
.wide td:first-child { white-space: normal; overflow-wrap: break-word; min-width: 8rem; max-width: 16rem; }
small { color: #444; }
table.facts td { white-space: normal; overflow-wrap: anywhere; text-align: left; }
table.facts td:first-child { overflow-wrap: normal; color: #444; }
th { border-bottom: 1px solid var(--line); white-space: normal; vertical-align: bottom; }
th button { font: inherit; font-weight: bold; border: 0; background: none; padding: 0;
  cursor: pointer; color: var(--blue); }
.figures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); }
.figures.sheet { grid-template-columns: minmax(0, 1fr); }
figure { margin: 0; break-inside: avoid; }
figure img { width: 100%; cursor: zoom-in; }
.sheet img { max-width: 44rem; }
figure.large { grid-column: 1 / -1; overflow-x: auto; }
figure.large img { width: max(100%, 48rem); max-width: none; cursor: zoom-out; }
figcaption { font-size: .9rem; color: #444; }
.patches { display: flex; flex-wrap: wrap; gap: .6rem; align-items: start; margin: 1rem 0; }
.set { display: flex; flex-wrap: wrap; gap: .4rem; max-width: 100%; }
.set:has(figure + figure) { border: 1px solid var(--line); padding: .4rem; }
.patches figure { width: 7rem; overflow-wrap: anywhere; line-height: 1.25; }
.patches figure.large { width: 30rem; max-width: 100%; }
.patches figure.large img { width: 100%; }
.patches img { image-rendering: pixelated; }
.patches figcaption { font-size: .75rem; }
th { max-width: 16rem; overflow-wrap: break-word; }
.downloads a { margin-right: 1rem; }
.small { font-size: .85rem; color: #444; }
@media (max-width: 30rem) {
  table { font-size: .85rem; }
  th, td { padding-left: .5rem; }
  th { white-space: normal; vertical-align: bottom; }
  .wide td:first-child { min-width: 5rem; }
  table.facts td:first-child { min-width: 0; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .figures { grid-template-columns: 1fr 1fr; }
  .sheet img { max-width: 15cm; }
  figure.large { grid-column: auto; overflow: visible; }
  figure.large img { width: 100%; }
  .wide { overflow: visible; }
  h2:has(+ .downloads), .downloads { display: none; }
  table.facts { font-size: 8.5pt; line-height: 1.25; }
  table.facts td { padding-top: .05rem; padding-bottom: .05rem; }
  .sheet img { max-height: 22cm; object-fit: contain; object-position: left; }
  figure img { max-height: 12cm; object-fit: contain; object-position: left; }
  h2, th { break-after: avoid; } tr, p { break-inside: avoid; }
}
"""
SCRIPT = """
for (const image of document.querySelectorAll("figure img")) {
  const turn = () => image.parentElement.classList.toggle("large");
  image.addEventListener("click", turn);
  image.addEventListener("keydown", (e) => { if (e.key === "Enter") turn(); });
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, table = head.closest("table");
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const th of table.querySelectorAll("th")) th.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    // the value without its interval; undefined values come last in both orders
    const value = (row) => row.cells[head.cellIndex].firstChild?.textContent ?? "";
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)], [p, q] = [Number(x), Number(y)];
      if ((x === "–") !== (y === "–")) return x === "–" ? 1 : -1;
      const order = isNaN(p) || isNaN(q) ? x.localeCompare(y, "en", { numeric: true }) : p - q;
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows);
  });
}
"""


def escape(text: str, quote: bool = True) -> str:
    """Text for a page: markup escaped, and control characters and changes of direction shown."""
    return html.escape(visible(text), quote)


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is note, warning or small."""
    classes = {"warning": "note warning"}.get(kind, kind)
    return f'<p class="{classes}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(
    rows: Sequence[Sequence[str]], sortable: bool = False, links: Mapping[str, str] | None = None
) -> str:
    """A table with a header row; the second line of a cell (an interval, say) is small.

    `links` gives the file that a first cell leads to, by its text.
    """
    head, *body = rows

    def title(name: str) -> str:
        return f"<button>{escape(name)}</button>" if sortable else escape(name)

    def line(row: Sequence[str]) -> str:
        cells = [f"<td>{_cell(value)}</td>" for value in row]
        if links and row[0] in links:
            target = escape(links[row[0]], quote=True)
            cells[0] = f'<td><a href="{target}">{escape(row[0])}</a></td>'
        return f"<tr>{''.join(cells)}</tr>"

    heads = "".join(f'<th scope="col">{title(name)}</th>' for name in head)
    lines = "\n".join(map(line, body))
    return (
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    value, _, below = text.partition("\n")
    return escape(value) + (f"<br><small>{escape(below)}</small>" if below else "")


def link(path: str, text: str) -> str:
    """A paragraph that links to a file beside the page."""
    return f'<p><a href="{escape(path, quote=True)}">{escape(text)}</a></p>'


def facts(pairs: Mapping[str, str]) -> str:
    """A table of names and values."""
    lines = "\n".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in pairs.items()
    )
    return f'<table class="facts"><tbody>{lines}</tbody></table>'


def figures(images: Sequence[tuple[Path, str]], sheet: bool = False) -> str:
    """Images with captions, embedded in the page; files that do not exist are left out.

    As many side by side as fit; a sheet of patches takes the full width.
    """
    shown = "\n".join(_figure(path, caption) for path, caption in images if path.is_file())
    kind = "figures sheet" if sheet else "figures"
    return f'<div class="{kind}">{shown}</div>'


def sheet(sets: Sequence[Sequence[tuple[bytes, str]]]) -> str:
    """Small JPEG images with captions; those of one set share a frame."""
    shown = "\n".join(
        '<div class="set">'
        + "".join(_picture(data, ".jpg", text) for data, text in pictures)
        + "</div>"
        for pictures in sets
    )
    return f'<div class="patches">{shown}</div>'


def _figure(path: Path, caption: str) -> str:
    return _picture(read_bytes(path, IMAGE_BYTES), path.suffix, caption)


def _picture(data: bytes, suffix: str, caption: str) -> str:
    source = f"data:{KINDS[suffix]};base64,{base64.b64encode(data).decode()}"
    text = escape(caption, quote=True)
    return (
        f'<figure><img src="{source}" alt="{text}" tabindex="0">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def write_page(path: Path, title: str, parts: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Write a page of sections, each (heading, pieces of HTML made by this module)."""
    sections = "\n".join(
        (f"<h2>{escape(heading)}</h2>\n" if heading else "") + "\n".join(pieces)
        for heading, pieces in parts
    )
    write_text(
        path,
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{sections}\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
    )
