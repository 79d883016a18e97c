"""The shape of the code itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from histo.cli import app

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "app" / "histo"
BASE = {
    *("run", "config", "errors", "screen", "signals", "d4", "ahead", "temperature", "__init__"),
    *(
        "attention",
        "finding",
        "heartbeat",
        "launch",
        "digest",
        "limits",
        "lock",
        "plural",
        "rows",
        "ranks",
        "shard",
        "table",
        "parts",
    ),
}
ALLOWED = {
    "cli": {"commands", "BASE"},
    "__main__": {"cli"},
    "commands": {"training", "data", "model", "report", "BASE"},
    "training": {"training", "data", "model", "report", "BASE"},
    "data": {"data", "BASE"},
    "model": {"model", "BASE"},
    "report": {"report", "BASE"},
    "BASE": {"BASE"},
}
ARGUMENTS = {"ctx", "return", "data", "run", "bundle", "first", "second", "h5dir", "parts"}
"""No options."""
HEAVY = ("torch", "fastai", "pandas", "numpy", "sklearn", "cv2", "matplotlib", "rich.progress")


def layer(name: str) -> str:
    return "BASE" if name in BASE else name


def imports_of(path: Path) -> set[str]:
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names = set()
    for node in tree:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("histo"):
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return {layer(name if name != "__version__" else "__init__") for name in names}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_arrows_point_down(path: Path):
    """A module imports only from its own layer and those below; a command imports no command."""
    own = layer(path.relative_to(PACKAGE).with_suffix("").parts[0])
    assert imports_of(path) <= ALLOWED[own]


def test_the_command_line_is_light():
    """`import histo.cli` loads none of the heavy packages."""
    code = f"import sys, histo.cli; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", app.registered_commands, ids=lambda c: c.callback.__name__)
def test_every_command_is_explained(command):
    """A command has help, a module of its name, and a place in the README."""
    name = command.callback.__name__
    assert command.callback.__doc__
    assert (PACKAGE / "commands" / f"{name}.py").is_file()
    assert f"histo {name.replace('_', '-')}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_shows_every_option():
    """Each option of each command stands in the README."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    options = set(re.findall(r'"(--[a-z-]+)"', (PACKAGE / "cli.py").read_text(encoding="utf-8")))
    for command in app.registered_commands:
        names = command.callback.__annotations__.keys() - ARGUMENTS
        options |= {f"--{name.replace('_', '-')}" for name in names}
    missing = {o for o in options if o not in readme} - {"--folder"}
    assert not missing
