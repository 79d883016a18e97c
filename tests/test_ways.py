"""Every way out that a message names exists in the command that says it."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache

import pytest

import histo
from tests.test_layout import imports_of, modules
from tests.ways import COMMANDS, unknown_ways

SETTING = re.compile(r"\{([a-z_]+)\}")
NAMED = re.compile(r"(?<![\w./])histo ([a-z][a-z-]+)")
NOT_COMMANDS = {
    "did",
    "chose",
    "has",
    "writes",
    "splits",
    "reads",
    "is",
    "took",
    "before",
    "config",
    "then",
    "does",
    "itself",
    "knows",
    "calls",
}
"""Verbs of which histo is the subject."""


def docstrings(tree: ast.AST) -> set[int]:
    """The nodes of documentation, which is no message."""
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def texts_of(name: str) -> list[str]:
    """The texts of a module; what is put in when they are said is an ellipsis, `{{x}}` is `{x}`."""
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    skipped, inner, found = docstrings(tree), set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner |= {id(part) for part in node.values}
            values = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
            found.append("".join(map(str, values)))
        elif isinstance(node, ast.Constant) and id(node) not in inner | skipped:
            found += [node.value] if isinstance(node.value, str) else []
    return found


@cache
def ways() -> dict[str, set[str]]:
    """The settings that the ways out of each module name."""
    found = {name: set() for name in modules()}
    for name in found:
        for text in texts_of(name) if not name.startswith("commands.doctor") else []:
            found[name] |= set(SETTING.findall(text))
    return {name: settings for name, settings in found.items() if settings}


@cache
def reached() -> dict[str, set[str]]:
    """The modules that each command's module imports, at any depth."""
    graph = {name: imports_of(path, set(modules())) for name, path in modules().items()}

    def below(name: str) -> set[str]:
        seen, left = set(), [name]
        while left:
            if (at := left.pop()) not in seen:
                seen.add(at)
                left += graph.get(at, set())
        return seen

    return {verb: below(f"commands.{verb.replace('-', '_')}") for verb in COMMANDS}


def settings_of(verb: str) -> set[str]:
    """The settings that have an option: `classes` may be `--class`."""
    return {p.name for p in COMMANDS[verb].params if p.param_type_name == "option"}


def test_the_ways_out_are_found():
    """Otherwise the tests below would hold of nothing."""
    assert {"images", "labels", "out", "weights", "lr", "positive"} <= set().union(*ways().values())


@pytest.mark.parametrize("name", sorted(ways()))
def test_a_setting_that_a_message_names_is_an_option_of_a_command_that_can_say_it(name):
    """A command's own messages name its own options; those of a layer below, those of its callers."""
    own = name.removeprefix("commands.").replace("_", "-")
    verbs = [own] if own in COMMANDS else [v for v in COMMANDS if name in reached()[v]]
    verbs = verbs or [*COMMANDS]  # a module that the command line itself calls
    for setting in ways()[name]:
        assert any(setting in settings_of(verb) for verb in verbs), (setting, verbs)


@pytest.mark.parametrize("name", sorted({*modules()} - {"commands.doctor"}))
def test_commands_and_options_in_messages_exist(name):
    """`histo NAME` is a command, and `--option` one of the command named before it.

    Of a message that is put together from parts, the command may stand in another part. `doctor`
    names options of other programs.
    """
    texts = [text for text in texts_of(name) if text.count("\n") < 3]  # no style sheets
    said = {verb for text in texts for verb in NAMED.findall(text)} - NOT_COMMANDS
    assert said <= {*COMMANDS}
    own = name.removeprefix("commands.").replace("_", "-")
    verbs = said | ({own} & {*COMMANDS}) if own in COMMANDS else {*COMMANDS}
    for text in texts:
        assert not unknown_ways(text, *verbs), text


@pytest.mark.parametrize("verb", sorted(set(COMMANDS) - {"doctor"}))
def test_python_takes_each_setting_under_the_same_name(verb):
    """A way out spelled `setting=` works in Python too: the functions take what the options say."""
    call = getattr(histo, verb.replace("-", "_"))
    takes = set(inspect.signature(call).parameters)
    if "settings" in takes:
        pytest.skip("it takes the fields of its config, which tests/python holds")
    assert settings_of(verb) - takes <= CLI_ONLY


CLI_ONLY = {"shard", "devices"}
"""What a job's script or launcher gives, and no message names in Python."""
