"""What the terminal, metrics.json and the report say about each kind of split."""

from __future__ import annotations

import json
from html import unescape

import pytest

from histo.run.split import Leak, Split
from tests.conftest import run_histo
from tests.report.tables import page_of, report_of, two_classes, write_run, write_table

OPTIMISTIC = "these metrics are optimistic for new slides"
CASES = {
    "random": (Split("random"), True, ["random over patches:", "on both sides", OPTIMISTIC]),
    "random, folds": (
        Split("random", folds=3),
        True,
        ["random over patches, in 3 folds:", "in several folds", OPTIMISTIC],
    ),
    "grouped": (
        Split("grouped", "slide", 216),
        False,
        ["The split is by slide: none of 216 is on both sides."],
    ),
    "grouped, folds": (
        Split("grouped", "slide", 216, folds=3),
        False,
        ["The split is by slide, in 3 folds: none of 216 is in two folds."],
    ),
    "column": (
        Split("column", "side"),
        False,
        ["The split is given by the column side of the labels."],
    ),
    "unseen": (
        Split("unseen"),
        False,
        ["none of these patches is among those the model was trained or chosen on"],
    ),
    "unknown": (Split("unknown"), True, ["kept apart from those trained on is not known"]),
    "leak of groups": (
        Split("column", "side", leak=Leak(groups=2, unit="slide", first_groups=("s1", "s2"))),
        True,
        ["The split leaks: 2 slides on both sides, as s1, s2.", "given by the column side"],
    ),
    "leak of a random split": (
        Split("random", leak=Leak(patches=1, first_patches=("7",))),
        True,
        ["The split leaks: 1 patch with equals on the other side, as 7.", OPTIMISTIC],
    ),
    "leak of a bundle": (
        Split("unseen", leak=Leak(patches=60, of=160)),
        True,
        ["60 of 160 patches are among those the model was trained or chosen on", "too optimistic"],
    ),
    "as histo 0.1 wrote it": ("3 folds, random over patches", True, ["in 3 folds", OPTIMISTIC]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_terminal_metrics_json_and_the_page_say_what_the_split_was(name, tmp_path):
    """The same sentence in both texts, a warning where the metrics are not those of new slides."""
    split, warning, sentences = CASES[name]
    run = write_run(tmp_path / "run", split)
    result = run_histo("interpret", run)
    assert result.exit_code == 0, result.output
    line = next(line for line in result.stdout.splitlines() if sentences[0] in line)
    assert line.startswith("note: ") == warning
    assert all(sentence in line for sentence in sentences)
    page = unescape(page_of(run / "report"))
    kind = "note warning" if warning else "note"
    assert f'<p class="{kind}">{line.removeprefix("note: ")}</p>' in page
    found = json.loads((run / "report" / "metrics.json").read_text())
    expected = split if isinstance(split, Split) else Split("random", folds=3)
    assert found["split"] == json.loads(json.dumps(expected.as_dict()))
    assert "leak" not in found


@pytest.mark.slow
def test_a_leak_is_said_before_the_kind_of_split(tmp_path):
    split = Split("random", leak=Leak(patches=1, first_patches=("7",)))
    run = write_run(tmp_path / "run", split)
    run_histo("interpret", run)
    text = page_of(run / "report")
    assert text.index("The split leaks") < text.index("random over patches")


def test_the_split_of_a_table_alone_is_not_known(tmp_path):
    write_table(tmp_path, *two_classes())
    assert report_of(tmp_path)["split"]["kind"] == "unknown"
    assert "is not known" in page_of(tmp_path / "report")
