"""The documentation says what the program does."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from histo.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COMMANDS = get_command(app).commands
PAGES = [p for p in DOCS.glob("*.md") if p.name != "commands.md"] + [ROOT / "data_README.md"]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_has_a_row_for_every_command(name):
    """Each command stands in the table of the README, with what it does."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `histo {name}\b[^|]*\| \S", readme, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name):
    """Each option has a help text on the command line, or a default that says all, and a place in the docs."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    options = [p for p in COMMANDS[name].params if p.param_type_name == "option"]
    assert not [o.opts[0] for o in options if not re.search(rf"{o.opts[0]}(?![\w-])", text)]
    assert not [o.opts[0] for o in options if not o.help and o.opts[0] not in SELF_EXPLAINING]


SELF_EXPLAINING = ("--seed", "--batch-size")


def test_the_list_of_options_is_that_of_the_command_line(tmp_path):
    """docs/commands.md holds the help of every command; `just docs` writes it anew."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import make_commands; "
        "sys.stdout.reconfigure(encoding='utf-8'); print(make_commands.page(), end='')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, DOCS], capture_output=True, check=True, encoding="utf-8"
    )
    assert done.stdout == (DOCS / "commands.md").read_text(encoding="utf-8")


def messages() -> set[str]:
    """Every text in histo's source, with an ellipsis for each value that is put in."""
    pages = (ROOT / "app" / "histo" / "web" / "static").glob("*.js")
    found = {re.sub(r"\$\{[^}]*\}", "…", page.read_text(encoding="utf-8")) for page in pages}
    for path in (ROOT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                found.add(re.sub("…+", "…", "".join(map(str, parts))))
    return found


def test_the_messages_of_the_troubleshooting_page_exist():
    """Each message that the page explains can be printed by histo, word for word."""
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.+?) \|", page, re.MULTILINE)
    quoted = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    texts = messages()
    assert len(quoted) > 50
    assert not [q for q in quoted if not any(q.strip("… ") in text for text in texts)]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: p.stem)
def test_links_lead_to_files(page):
    """Each link between pages, and each picture, is there; `just docs` checks the headings too."""
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    here = [link for link in links if not link.startswith(("http://", "https://"))]
    assert not [link for link in here if not (page.parent / link).exists()]


def test_every_page_is_in_the_navigation_of_the_site():
    navigation = (DOCS / "conf.py").read_text(encoding="utf-8")
    assert not [page.stem for page in DOCS.glob("*.md") if f'"docs/{page.stem}"' not in navigation]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: p.stem)
def test_links_lead_to_headings(page):
    """By the words of the heading, as GitHub and Sphinx make its anchor."""
    for path, anchor in re.findall(
        r"\]\(([^)#\s:]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")
    ):
        there = (page.parent / path if path else page).read_text(encoding="utf-8")
        heads = re.findall(r"^#+ (.+)$", there, re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
        assert anchor in anchors, f"{path}#{anchor}"
