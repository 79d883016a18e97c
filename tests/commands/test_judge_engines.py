"""What `histo export` keeps beside fp32: judged on validation patches, recorded in the card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from histo.commands import judge_engines
from histo.commands.judge_engines import Sample, judge
from histo.config import ModelCard
from histo.data.synth import write_dataset
from histo.errors import HistoError
from histo.model.card import CARD, INT8
from histo.run.folder import RunFolder
from histo.screen import Screen
from tests.conftest import TINY, rows_of, run_histo

CARD_OF = ModelCard("any", ["0", "1"], 8, None, None, [0.5] * 3, [0.5] * 3)
COUNT = 1000


class Fake:
    """An engine that gives the probabilities it was made with, as slowly as it was told."""

    name = "fake"

    def __init__(self, positive: np.ndarray, seconds: float = 0.0) -> None:
        self.table, self.seconds = np.stack([1 - positive, positive], 1), seconds

    def put(self, patches: np.ndarray) -> np.ndarray:
        """The patches, whose first px is their number."""
        return patches

    def run(self, batch: np.ndarray) -> np.ndarray:
        """The rows of these patches."""
        import time

        time.sleep(self.seconds)
        return self.table[batch[:, 0, 0, :2].astype(int) @ [1, 256]]

    def get(self, probabilities: np.ndarray) -> np.ndarray:
        """As float32."""
        return probabilities.astype(np.float32)


@pytest.fixture
def sample() -> Sample:
    """Patches that hold their number; the truth follows a fake model's scores, more or less."""
    patches = np.zeros((COUNT, 8, 8, 3), np.uint8)
    numbers = np.arange(COUNT)
    patches[:, 0, 0, 0], patches[:, 0, 0, 1] = numbers % 256, numbers // 256
    labels = (np.random.default_rng(1).random(COUNT) < scores()).astype(np.int64)
    return Sample(patches[:8], patches, labels)


def scores() -> np.ndarray:
    return np.random.default_rng(0).permutation(np.linspace(0.02, 0.98, COUNT))


def verdict(sample: Sample, other: object):
    exact = Fake(scores(), 0.004)
    (found,) = judge(exact, [("fake", "int8", lambda: other)], sample, CARD_OF, Screen(quiet=True))
    return found


def test_what_is_as_good_and_faster_is_kept_with_what_it_cost_and_won(sample):
    found = verdict(sample, Fake(scores() + 1e-4))
    assert (found.kept, found.why) == (True, "")
    assert found.speed > 2
    assert (abs(found.auc) < 1e-3, found.changed < 0.005) == (True, True)


def test_what_is_not_faster_is_refused(sample):
    found = verdict(sample, Fake(scores(), 0.02))
    assert not found.kept
    assert "times as fast as fp32, needed is 1.1" in found.why


def test_what_changes_calls_is_refused_though_its_auc_is_the_same(sample):
    found = verdict(sample, Fake(np.clip(scores() + 0.01, 0, 1)))
    assert not found.kept
    assert found.auc == 0
    assert "of calls change, allowed is less than 0.5%" in found.why


def test_what_is_sure_of_itself_is_refused_for_its_log_loss(sample):
    """The same order and the same calls, but other probabilities."""
    s = scores()
    found = verdict(sample, Fake(s**3 / (s**3 + (1 - s) ** 3)))
    assert (found.kept, abs(found.auc) < 1e-6, found.changed) == (False, True, 0)
    assert found.why.startswith("its log loss is higher by")


def test_what_is_plainly_wrong_is_refused_for_its_auc(sample):
    wrong = np.where(np.arange(COUNT) % 10, scores(), 0.4)
    found = verdict(sample, Fake(wrong))
    assert not found.kept
    assert found.why.startswith("its AUC is lower by")


@pytest.mark.parametrize("value", [float("nan"), -1.0, 3.0])
def test_what_gives_no_probabilities_is_refused(sample, value):
    found = verdict(sample, Fake(np.full(COUNT, value)))
    assert (found.kept, found.why) == (False, "it gives no probabilities")


def test_what_does_not_load_is_refused_and_the_others_are_judged(sample):
    def fail() -> Fake:
        raise HistoError("no such operator")

    others = [("a", "int8", fail), ("b", "bf16", lambda: Fake(scores()))]
    found = judge(Fake(scores(), 0.004), others, sample, CARD_OF, Screen(quiet=True))
    assert [(one.engine, one.kept, one.why) for one in found] == [
        ("a", False, "no such operator"),
        ("b", True, ""),
    ]
    assert found[0].verdict() == "refused, no such operator"  # without figures that nobody measured
    assert "times as fast as fp32" in found[1].verdict()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """A run with 280 validation patches."""
    folder = tmp_path_factory.mktemp("judged")
    write_dataset(folder / "data", 400, 1, Screen(quiet=True), side=48)
    words = ("--weights", weights, "--epochs", 1, "--valid-pct", 70, "--out", folder / "run")
    result = run_histo("train", folder / "data", *TINY, *words)
    assert result.exit_code == 0, result.output
    return folder / "run"


def engines_in(bundle: Path) -> dict:
    return json.loads((bundle / CARD).read_text()).get("engines", {})


@pytest.mark.slow
def test_export_says_and_records_what_was_kept_and_what_was_refused(run, tmp_path, monkeypatch):
    """Whatever is kept predicts; a file of int8 is there only if the card vouches for it."""
    monkeypatch.setattr(judge_engines, "fast_precisions", lambda: frozenset({"int8"}))
    result = run_histo("export", run, "--out", tmp_path / "b")
    assert result.exit_code == 0, result.output
    assert "quantising model.onnx on 120 training patches" in result.output
    found = engines_in(tmp_path / "b")
    assert (found["patches"], found["calibration"]) == (280, 120)
    assert found["bounds"] == {"auc": 0.001, "changed": 0.005, "log_loss": 0.005, "speed": 1.1}
    for one in found["judged"]:
        said = "kept" if one["kept"] else f"refused, {one['why']}"
        assert f"{one['precision']} by {one['engine']}: " in result.output
        assert said in result.output
    kept = any(one["kept"] for one in found["judged"] if one["precision"] == "int8")
    assert (tmp_path / "b" / INT8).exists() == kept
    patches, out = run.parent / "data" / "train", tmp_path / "p.csv"
    assert run_histo("predict", tmp_path / "b", patches, "--out", out).exit_code == 0
    assert len(rows_of(out)) == 400


@pytest.mark.slow
def test_export_in_fp32_judges_nothing_and_removes_what_an_earlier_one_kept(run, tmp_path):
    run_histo("export", run)
    (run / "export" / INT8).write_bytes(b"of an earlier export")
    result = run_histo("export", run, "--precision", "fp32")
    assert result.exit_code == 0, result.output
    assert "quantising" not in result.output
    assert engines_in(run / "export") == {}
    assert not (run / "export" / INT8).exists()


def test_of_folds_nothing_is_judged_and_the_reason_is_said(run, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "run"))
    settings = json.loads((other / "config.json").read_text())
    folds = {"folds": {"value": 3, "source": "given"}}
    (other / "config.json").write_text(json.dumps({**settings, **folds}))
    found = Sample.draw(RunFolder.open(other), ["0", "1"], None)
    assert isinstance(found, HistoError)
    assert found.message.startswith("with folds there is no patch that none of")


@pytest.mark.slow
def test_few_validation_patches_or_none_that_are_found_mean_fp32(run, tiny_run, tmp_path):
    result = run_histo("export", tiny_run, "--out", tmp_path / "few")
    assert "too few to judge others, 200 are needed\n" in result.output
    result = run_histo("export", run, "--out", tmp_path / "b", "--images", tmp_path)
    assert result.exit_code == 0, result.output
    assert "only fp32: no patch " in result.output
    assert "give --images if the patches have moved" in result.output
    assert engines_in(tmp_path / "b") == {}
