"""The ways out that messages name: options and commands, as a user would type them."""

from __future__ import annotations

import re

from typer.main import get_command

from histo.cli import app

COMMANDS = get_command(app).commands
"""The commands by name."""


def options_of(verb: str) -> set[str]:
    """The options of a command, `--help` and `--version` among them."""
    params = COMMANDS[verb].params
    return {"--help", "--version", *(o for p in params for o in (*p.opts, *p.secondary_opts))}


def unknown_ways(text: str, *verbs: str) -> list[str]:
    """What a message names and is not there: commands, and options of the command named before them.

    Options before any command are those of one of `verbs`.
    """
    known = set[str]().union(*map(options_of, verbs))
    names = "|".join(COMMANDS)
    found = []
    for match in re.finditer(
        rf"pip install [^;,(]*|histo ({names})\b|\b({names})(?= (?:again )?with --)|(?<![\w-])(--[a-z][a-z0-9-]+)",
        text,
    ):
        called = match[1] or match[2]
        if called:
            known = options_of(called)
        elif match[3] and match[3] not in known:
            found.append(match[3])
    return found
