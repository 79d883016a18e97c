"""What a command shows, in a terminal and elsewhere."""

from __future__ import annotations

import io
import sys

import pytest
import rich
from rich.console import Console

from histo import screen as screen_module
from histo.screen import Screen


@pytest.fixture
def terminal(monkeypatch) -> io.StringIO:
    """What a terminal of 80 columns is sent."""
    sent = io.StringIO()
    console = Console(file=sent, force_terminal=True, width=80, color_system=None)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    return sent


def test_a_terminal_has_a_bar_that_counts_and_lines_above_it(terminal):
    """What a name would make the terminal do is not done, and markup in it is text."""
    screen = Screen()
    with screen.bar("reading", 10) as advance:
        advance(7)
        screen.say("[bold]a\x1b[2Jb")
    assert "reading" in terminal.getvalue()
    assert "7/10" in terminal.getvalue()
    assert "[bold]a\\x1b[2Jb\n" in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()


def test_elsewhere_long_work_says_now_and_then_how_far_it_is(capsys, monkeypatch):
    for seconds, said in ((1000, ""), (0, "reading: 1 of 3\nreading: 2 of 3\n")):
        monkeypatch.setattr(screen_module, "PLAIN_SECONDS", seconds)
        assert list(Screen().track("abc", "reading", 3)) == ["a", "b", "c"]
        assert capsys.readouterr().out == said


def test_a_quiet_screen_says_nothing(terminal, capsys):
    screen = Screen(quiet=True)
    screen.say("a")
    assert list(screen.track("abc", "reading", 3)) == ["a", "b", "c"]
    assert terminal.getvalue() == capsys.readouterr().out == ""
