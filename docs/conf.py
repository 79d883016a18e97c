"""The settings of the documentation site, which `just docs` builds with Sphinx.

The sources are read from the top folder, so that a link works on the site as it does in a checkout.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]

project = "histo"
author = "The histo developers"
copyright = author
version = release = re.findall(
    r'__version__ = "(.+)"', (ROOT / "app/histo/__init__.py").read_text(encoding="utf-8")
)[0]

root_doc = "README"
include_patterns = [
    "*.md",
    "docs/*.md",
    "benchmarks/README.md",
]
exclude_patterns = [".venv", "docs/_build"]
extensions = ["myst_parser", "sphinx_copybutton"]
myst_heading_anchors = 4
"""Headings that a link can name, as on GitHub."""
nitpicky = True
smartquotes = False  # `--option` in a help text stays two hyphens
copybutton_exclude = ".linenos, .gp"

html_theme = "furo"
html_title = "histo"
html_extra_path = ["_site"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#005a8c", "color-brand-content": "#005a8c"},
    "dark_css_variables": {"color-brand-primary": "#6fc3f0", "color-brand-content": "#6fc3f0"},
}
linkcheck_timeout = 20
linkcheck_retries = 2

PARTS = {
    "Use": [
        "docs/installing",
        "docs/first-run",
        "docs/data",
        "docs/training",
        "docs/judging",
        "docs/predicting",
        "docs/features",
        "docs/slides",
        "docs/mapping",
        "docs/serving",
        "docs/python",
        "docs/scale",
    ],
    "Look up": [
        "docs/commands",
        "docs/formats",
        "docs/images",
        "docs/troubleshooting",
        "docs/security",
        "data_README",
        "docs/measurements",
        "benchmarks/README",
        "docs/citing",
    ],
    "The project": ["CONTRIBUTING", "SECURITY", "CHANGELOG"],
}


def add_navigation(app, name, source):
    """Append the navigation to the README, which is the site's first page and a plain file."""
    if name == root_doc:
        for caption, pages in PARTS.items():
            lines = "\n".join(f"/{page}" for page in pages)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"


def setup(app):
    """Sphinx calls this."""
    app.connect("source-read", add_navigation)
