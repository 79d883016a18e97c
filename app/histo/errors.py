"""What can go wrong and is not a bug: one line for the user, no traceback."""

from __future__ import annotations

MOST = 1000
"""Characters of a message: what a file holds is named in it, not poured out."""


def plain(text: str) -> str:
    """The text as one line that a terminal shows and does not obey: control characters escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class HistoError(Exception):
    """An expected problem: the message names what is wrong, where, and the way out."""

    exit_status = 1
    said = False
    """whether another process of a launch says it for this one"""

    def __init__(self, message: str) -> None:
        message = plain(message)
        if len(message) > MOST:
            message = f"{message[: MOST - 2]} …"
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        """The message as it was raised: fastai rewrites the `args` of what a callback raises."""
        return self.message


class Stopped(HistoError):  # noqa: N818  (it is no error: the user wanted it)
    """The user pressed Ctrl-C; the status is the shell's own for it, 128 + SIGINT."""

    exit_status = 130
