"""What a command shows, in a terminal and elsewhere."""

from __future__ import annotations

import io
import sys

import pytest
import rich
from rich.console import Console

from histo import screen as screen_module
from histo.screen import Pace, Screen, screen_of
from histo.text import width_of


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
    for seconds, said in ((1000, []), (0, ["reading: 1 of 3", "reading: 2 of 3"])):
        monkeypatch.setattr(screen_module, "PLAIN_SECONDS", seconds)
        assert list(Screen().track("abc", "reading", 3)) == ["a", "b", "c"]
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(",")[0] for line in lines] == said


def test_a_quiet_screen_says_nothing(terminal, capsys):
    screen = Screen(quiet=True)
    screen.say("a")
    assert list(screen.track("abc", "reading", 3)) == ["a", "b", "c"]
    assert terminal.getvalue() == capsys.readouterr().out == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_an_encoding_cannot_say_is_replaced(monkeypatch, encoding):
    """histo's own characters are spelled out, others escaped: two names stay two names."""
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", out)
    Screen().say("a … 癌 癖")
    out.seek(0)
    said = out.read()
    assert said.startswith("a … " if encoding == "cp1252" else "a ... ")
    assert said.endswith("\\u764c \\u7656\n")


@pytest.mark.parametrize("columns", [60, 80])
def test_a_table_fits_and_its_numbers_are_whole(capsys, monkeypatch, columns):
    """Long names lose their middle, so that names that begin alike differ."""
    monkeypatch.setenv("COLUMNS", str(columns))
    names = ["x" * 190 + end for end in ("one", "two")] + ["癌" * 60, "a\u202eb", "short"]
    Screen().table([["class", "patches", "AUC"]] + [[n, "12,345", "0.95 (0.94 to 0.96)"] for n in names])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert all(width_of(line) <= columns for line in lines)
    assert all(line.endswith("  12,345  0.95 (0.94 to 0.96)") for line in lines[1:])
    assert len({width_of(line) for line in lines}) == 1
    assert lines[1].split()[0].endswith("one")
    assert lines[2].split()[0].endswith("two")
    assert lines[4].startswith("a\\u202eb ")


def test_a_header_is_said_again_where_other_lines_came_between(capsys):
    screen = Screen()
    screen.row("epoch  loss", "1")
    screen.row("epoch  loss", "2")
    screen.say("epoch 3/9: 1 patches/s")
    screen.row("epoch  loss", "3")
    said = ["epoch  loss", "1", "2", "epoch 3/9: 1 patches/s", "epoch  loss", "3"]
    assert capsys.readouterr().out.splitlines() == said


def test_speed_and_time_left_are_those_of_this_process_after_a_resume(monkeypatch):
    """9,000 steps that were done before the resume do not count as done in its first second."""
    now = [100.0]
    monkeypatch.setattr(screen_module.time, "monotonic", lambda: now[0])
    pace = Pace(10_000, 9_000, "patches", 32)
    assert pace.parts == []
    for _ in range(10):
        now[0] += 1
        pace.advance(5)
    assert pace.line == "160 patches/s, 0:03:10 left"


def test_a_dumb_terminal_gets_plain_lines(terminal, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "dumb")
    screen = Screen()
    with screen.step("loading"), screen.bar("reading", 3) as advance:
        advance(3)
    assert terminal.getvalue() == ""
    assert capsys.readouterr().out == "loading\n"


def test_of_several_processes_only_the_first_prints(monkeypatch, capsys):
    """From Python too, where each process asks for progress."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        screen_of(True).say(f"process {rank}")
    assert capsys.readouterr().out == "process 0\n"
