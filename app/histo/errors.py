"""What can go wrong and is not a bug: one line for the user, no traceback."""

from __future__ import annotations


class HistoError(Exception):
    """An expected problem: the message names what is wrong, where, and the way out."""

    exit_status = 1


class Stopped(HistoError):
    """The user pressed Ctrl-C; the status is the shell's own for it, 128 + SIGINT."""

    exit_status = 130
