"""Write docs/commands.md: every command, argument and option, from the help of the command line."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from histo.cli import app

PAGE = Path(__file__).with_name("commands.md")
HEAD = """\
# The commands

Every argument and option, as `histo COMMAND --help` shows them. This page is written by
`uv run just docs`, from the same texts: change those in `app/histo/cli.py`.

`histo --version` prints the version. An expected problem is one line on stderr and exit status 1,
a wrong option is status 2, Ctrl-C is status 130.
"""


def choices_of(parameter: Any) -> list[str]:
    """The values that an option takes, where they are a fixed list."""
    kind = parameter.type_descriptor.annotation
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [str(value.value) for value in kind]
    return []


def default_of(parameter: Any) -> str:
    """The default: as the help says where it is found out at work, else the value."""
    if stated := re.search(r"\[default: (.+?)\]", parameter.help or ""):
        return stated[1]
    value = getattr(parameter.default, "value", parameter.default)
    if value is None or value is False:
        return ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def help_of(parameter: Any) -> str:
    """The help without the default, and the values or the range that the option takes."""
    text = re.sub(r"\s*\[default: .+?\]", "", parameter.help or "").strip()
    choices = " or ".join(f"`{value}`" for value in choices_of(parameter))
    if parameter.min is not None and parameter.max is not None and parameter.max < 2**31:
        choices = f"{parameter.min:g} to {parameter.max:g}"
    elif parameter.min is not None:
        choices = f"{parameter.min:g} or more"
    return " ".join(part for part in (text, choices and f"({choices})") if part)


def table(title: str, rows: list[tuple[str, str, str]]) -> str:
    """A Markdown table, or nothing where there is no row."""
    if not rows:
        return ""
    cells = [(title, "default", ""), ("---", "---", "---"), *rows]
    lines = ("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells)
    return "\n".join(lines) + "\n"


def section(name: str, command: Any) -> str:
    """What a command is for, how it is called, its arguments and its options."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    words = (p.name.upper() if p.required else f"[{p.name.upper()}]" for p in arguments)
    return "\n".join(
        (
            f"## {name}\n",
            f"{command.help}\n",
            f"```console\n{' '.join(['histo', name, *words, '[OPTIONS]'])}\n```\n",
            table(
                "argument", [(f"`{p.name.upper()}`", default_of(p), help_of(p)) for p in arguments]
            ),
            table("option", [(f"`{p.opts[0]}`", default_of(p), help_of(p)) for p in options]),
        )
    ).replace("\n\n\n", "\n\n")


def page() -> str:
    """The whole page."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    parts = [HEAD, *(section(name, command) for name, command in commands.items())]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
