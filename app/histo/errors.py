"""What can go wrong and is not a bug: one line for the user, no traceback."""

from __future__ import annotations


class HistoError(Exception):
    """An expected problem: the message names what is wrong, where, and the way out."""

    exit_status = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        """The message as it was raised: fastai rewrites the `args` of what a callback raises."""
        return self.message


class Stopped(HistoError):  # noqa: N818  (it is no error: the user wanted it)
    """The user pressed Ctrl-C; the status is the shell's own for it, 128 + SIGINT."""

    exit_status = 130
