"""The shape of the code itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from histo.cli import app

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "app" / "histo"
LAYERS = (
    ("__main__",),
    ("cli",),
    ("__init__",),
    ("commands",),
    ("training",),
    ("slides", "report", "web"),
    ("model", "data"),
    ("run", "shards"),
    ("files", "distributed", "pixels"),
    ("screen",),
    ("config", "launcher", "text"),
    ("errors",),
)
"""From the top down: a package imports from itself and from those in the rows below its own."""
HEAVY = ("torch", "fastai", "pandas", "numpy", "sklearn", "cv2", "matplotlib", "rich.progress")


def modules() -> dict[str, Path]:
    """Every module of histo by its dotted name below `histo`."""
    paths = PACKAGE.rglob("*.py")
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in paths}


def imports_of(path: Path, known: set[str]) -> set[str]:
    """The modules of histo that a module imports, at its head or within a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "histo":
            base = node.module.removeprefix("histo").lstrip(".")
            names = {f"{base}.{alias.name}".lstrip(".") for alias in node.names}
            found |= {name if name in known else base or "__init__" for name in names}
    return found


def row_of(name: str) -> int:
    return next(n for n, row in enumerate(LAYERS) if name.partition(".")[0] in row)


@pytest.mark.slow
def test_arrows_point_down():
    """A module imports only from its own package and from the packages below it."""
    graph = {name: imports_of(path, set(modules())) for name, path in modules().items()}
    for name, others in graph.items():
        for other in others - {"__init__"}:
            same = name.partition(".")[0] == other.partition(".")[0]
            assert same or row_of(other) > row_of(name), f"{name} imports {other}"


@pytest.mark.slow
def test_no_circle_of_imports():
    """No module imports itself by way of others, at any depth, imports within functions counted."""
    graph = {name: imports_of(path, set(modules())) for name, path in modules().items()}
    graph = {name: others - {"__init__", name} for name, others in graph.items()}
    list(TopologicalSorter(graph).static_order())


def test_the_command_line_is_light():
    """`import histo.cli` loads none of the heavy packages."""
    code = f"import sys, histo, histo.cli; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", app.registered_commands, ids=lambda c: c.callback.__name__)
def test_every_command_is_explained(command):
    """A command has help, a module of its name, and a place in the README."""
    name = command.callback.__name__
    assert command.callback.__doc__
    assert (PACKAGE / "commands" / f"{name}.py").is_file()
    assert f"histo {name.replace('_', '-')}" in (ROOT / "README.md").read_text(encoding="utf-8")
