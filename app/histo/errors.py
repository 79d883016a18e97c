"""Errors that are not bugs: one line for the user, no traceback."""

from __future__ import annotations

import errno
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_WRITE = (*NO_ROOM, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV)
"""Errors of the system that a disk or its owner causes: full, broken, not to be written, or a mount."""
BAD_NAME = (errno.ELOOP, errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.ENXIO)
"""Errors of the system that a path has: a loop of links, a name too long, a file in place of a folder."""
MAX_LENGTH = 1000
"""Maximum characters of a message, so that text quoted from a file cannot fill the screen."""
Spell = Callable[[str], str | None]
"""How the caller writes a setting: `images` as `--images`, say; None where it has no such setting."""


def plain(text: str) -> str:
    """The text as one line, with control characters escaped so that a terminal does not obey them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def spell_in_python(setting: str) -> str:
    """A setting as a Python caller writes it."""
    return f"{setting}="


@dataclass(frozen=True)
class Call:
    """A histo command as a way out, and what it is for: `to resume: histo train --resume RUN`."""

    purpose: str
    command: str
    settings: Mapping[str, object] = field(default_factory=dict)

    def spelled(self, spell: Spell) -> str:
        """The command as the caller would write it, in a shell or in Python."""
        if spell is spell_in_python:
            given = ", ".join(f"{name}={str(value)!r}" for name, value in self.settings.items())
            return f"{self.purpose}: histo.{self.command}({given})"
        words = [
            word
            for name, value in self.settings.items()
            for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        return f"{self.purpose}: histo {shlex.join([self.command, *words])}"


Way = str | Call
"""A way out: a command, or a phrase in which settings stand in braces, `give {images}`."""
LOWER_RATE: tuple[Way, ...] = ("start again with a lower {lr}", "with {precision} fp32")
"""The ways out if a training has diverged."""


def with_ways(message: str, ways: tuple[Way, ...], spell: Spell) -> str:
    """A message followed by its ways out; those that need a setting the caller lacks are left off."""
    found = [text for way in ways if (text := _spelled(way, spell))]
    return f"{message} ({', or '.join(found)})" if found else message


def _spelled(way: Way, spell: Spell) -> str:
    if isinstance(way, Call):
        return way.spelled(spell)
    names = {name: spell(name) for name in re.findall(r"\{(\w+)\}", way)}
    if None in names.values():
        return ""
    return re.sub(r"\{(\w+)\}", lambda match: names[match[1]] or "", way)


class HistoError(Exception):
    """An expected problem: the message says what is wrong and where, `ways` are the ways out.

    `str(error)` spells settings as Python does; the command line has its own spelling (`line`).
    """

    exit_status = 1
    said_elsewhere = False
    """whether another process of the launch reports it for this one"""

    def __init__(self, message: str, *ways: Way) -> None:
        message = plain(message)
        if len(message) > MAX_LENGTH:
            message = f"{message[: MAX_LENGTH - 2]} …"
        super().__init__(message)
        self.message, self.ways = message, ways

    def __str__(self) -> str:
        """Not from `args`, which fastai changes in exceptions from callbacks."""
        return self.line(spell_in_python)

    def line(self, spell: Spell) -> str:
        """The message and its ways out, in one line."""
        return plain(with_ways(self.message, self.ways, spell))


class Stopped(HistoError):  # noqa: N818  (not an error: the user wanted it)
    """The user pressed Ctrl-C; the status is the shell's own for it, 128 + SIGINT."""

    exit_status = 130


class LeftOut(HistoError):  # noqa: N818  (not an error: the work is done, without some patches)
    """The work is done, but patches were left out that could not be used."""

    exit_status = 3
