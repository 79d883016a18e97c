"""bf16 on a CPU: what is chosen, that it is kept, and that figures are judged in fp32."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import histo
from histo.config import TrainConfig
from histo.model.device import has_bf16
from histo.screen import Screen
from histo.training.precision import bf16_speed, choose_precision
from tests.conftest import assert_one_line_error, rows_of, run_histo, unfinish
from tests.kills import result
from tests.small import CPU, NOISE, dataset_of, learner_of

ROOT = Path(__file__).parents[2]
TRAIN = ("--arch", "squeezenet1_1", "--no-store", "--batch-size", "16", "--device", "cpu")
TRAIN += ("--weights", "none", "--epochs", "1")
needs_bf16 = pytest.mark.skipif(not has_bf16(CPU), reason="this processor has no bf16")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cache of the test's own, without trials of before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in bf16 on the CPU."""
    out = tmp_path_factory.mktemp("bf16") / "run"
    done = run_histo("train", dataset, *TRAIN, "--precision", "bf16", "--out", out)
    assert done.exit_code == 0, done.output
    assert "squeezenet1_1 on cpu" in done.stdout
    assert ", bf16, batch size 16" in done.stdout
    return out


def kept_precision(run: Path) -> str:
    """The precision in the run's config."""
    return str(json.loads((run / "config.json").read_text())["precision"]["value"])


@pytest.mark.slow
@needs_bf16
def test_the_same_seed_gives_the_same_run_and_other_weights_than_fp32(run, dataset, tmp_path):
    for name in ("bf16", "fp32"):
        words = (*TRAIN, "--precision", name, "--out", tmp_path / name)
        assert run_histo("train", dataset, *words).exit_code == 0
        assert kept_precision(tmp_path / name) == name
    assert result(tmp_path / "bf16") == result(run)
    assert result(tmp_path / "fp32")[0] != result(run)[0]


@needs_bf16
def test_the_figures_and_the_table_are_those_of_the_kept_weights_in_fp32(run):
    learn = histo.Run(run).learner
    with learn.no_bar():
        probabilities, _ = learn.get_preds()
    table = rows_of(run / "predictions.csv")
    given = [[float(row["p_0"]), float(row["p_1"])] for row in table]
    assert probabilities.dtype == torch.float32
    assert probabilities.numpy() == pytest.approx(np.array(given), abs=1e-6)


@needs_bf16
def test_weights_gradients_and_loss_are_in_fp32_and_the_body_works_in_bf16():
    learn = learner_of(dataset_of(NOISE, np.arange(48) < 16), "squeezenet1_1", 8, precision="bf16")
    seen: dict[str, set[torch.dtype]] = {"body": set(), "weights": set(), "loss": set()}

    def keep(body, _, features):
        if body.training:
            seen["body"].add(features.dtype)

    learn.model[0].register_forward_hook(keep)
    step = learn.opt_func.step

    def watched(self, closure=None):
        for group in self.param_lists:
            seen["weights"] |= {tensor.dtype for p in group for tensor in (p, p.grad)}
        seen["loss"].add(learn.loss_grad.dtype)
        step(self)

    learn.create_opt()
    learn.opt.step = watched.__get__(learn.opt)
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-4)
    assert seen["body"] == {torch.bfloat16}
    assert seen["weights"] == seen["loss"] == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.long
@needs_bf16
@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "tf_efficientnet_lite0"])
def test_depthwise_convolutions_that_are_slow_in_bf16_do_not_make_training_slow(arch):
    assert bf16_speed(arch, 64) > 0.6, "0.4 if they worked in bf16"


@needs_bf16
def test_layer_norm_within_autocast_sums_in_fp32():
    """Of features far from zero: sums in bf16 would lose their variance."""
    features = (torch.randn(4, 512) + 100).bfloat16()
    norm = nn.LayerNorm(512)
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(features)
    assert torch.allclose(found.float(), norm(features.float()), atol=0.02)


@needs_bf16
def test_bf16_trains_the_head_alone_first(dataset, weights, tmp_path):
    words = ("--weights", weights, "--freeze-epochs", "1", "--precision", "bf16")
    done = run_histo("train", dataset, *TRAIN, *words, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert len(rows_of(tmp_path / "run" / "history.csv")) == 2


@pytest.mark.slow
@needs_bf16
def test_folds_choose_once_and_keep_it(dataset, tmp_path, monkeypatch):
    speeds = iter([2.0, 0.5, 0.5])
    monkeypatch.setattr("histo.training.precision.bf16_speed", lambda *_: next(speeds))
    done = run_histo("train", dataset, *TRAIN, "--folds", "2", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    runs = [tmp_path / "run", *sorted((tmp_path / "run").glob("fold-*"))]
    assert [kept_precision(run) for run in runs] == ["bf16"] * 3
    assert next(speeds) == 0.5


@pytest.mark.slow
@needs_bf16
def test_a_resumed_run_does_not_choose_again(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("histo.training.precision.bf16_speed", lambda *_: 2.0)
    out = tmp_path / "run"
    done = run_histo("train", dataset, *TRAIN, "--out", out)
    assert "bf16: a step in bf16 is 2.0 times as fast here" in done.stdout
    whole = result(out)
    unfinish(out)
    shutil.rmtree(out / "checkpoint")
    monkeypatch.setattr("histo.training.precision.bf16_speed", lambda *_: 0.5)
    assert run_histo("train", "--resume", out).exit_code == 0
    assert result(out) == whole


@needs_bf16
def test_a_slow_bf16_is_not_taken(monkeypatch, capsys):
    monkeypatch.setattr("histo.training.precision.bf16_speed", lambda *_: 0.4)
    config = TrainConfig(Path(), arch="squeezenet1_1")
    assert choose_precision(config, 48, CPU, Screen()) == "fp32"
    assert "fp32: a step in bf16 is 0.4 times as fast here" in capsys.readouterr().out


@needs_bf16
def test_the_next_training_chooses_the_same_though_a_trial_would_come_out_otherwise(monkeypatch):
    speeds = iter([1.14, 1.06])
    monkeypatch.setattr("histo.training.precision.bf16_speed", lambda *_: next(speeds))
    config = TrainConfig(Path(), arch="squeezenet1_1")
    assert [choose_precision(config, 48, CPU, Screen()) for _ in range(2)] == ["bf16"] * 2
    assert choose_precision(config, 64, CPU, Screen()) == "fp32", "patches of 64 px have their own"


@needs_bf16
def test_the_trial_leaves_the_random_state_as_it_was():
    before = torch.random.get_rng_state()
    assert bf16_speed("squeezenet1_1", 48) > 0
    assert torch.equal(torch.random.get_rng_state(), before)


EMULATED = """
from histo.training.precision import bf16_speed
print(bf16_speed("squeezenet1_1", 48))
"""


@pytest.mark.long
@needs_bf16
def test_the_trial_notices_a_library_that_emulates_bf16():
    """oneDNN told to use no more than AVX512, though the processor has bf16."""
    where = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "ignore", "-c", EMULATED]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=where, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.1


def test_a_processor_without_bf16_trains_in_fp32_and_says_what_it_lacks(
    dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr("histo.model.device._cpu_has_bf16", lambda: False)
    out = tmp_path / "run"
    done = run_histo("train", dataset, *TRAIN, "--out", out)
    assert ", fp32, batch size 16" in done.stdout
    assert kept_precision(out) == "fp32"
    refused = run_histo("train", dataset, *TRAIN, "--precision", "bf16", "--out", tmp_path / "no")
    assert_one_line_error(refused, "bf16 needs a CUDA GPU, or a processor with AVX512_BF16")
    assert not (tmp_path / "no").exists()


@needs_bf16
def test_a_bf16_run_is_not_resumed_without_bf16_but_its_learner_loads(run, tmp_path, monkeypatch):
    monkeypatch.setattr("histo.model.device._cpu_has_bf16", lambda: False)
    cut = shutil.copytree(run, tmp_path / "cut")
    unfinish(cut)
    said = "started in bf16, which this cpu does not have in hardware"
    way = "resume it on a processor with AVX512_BF16"
    assert_one_line_error(run_histo("train", "--resume", cut), said, way, "--precision fp32")
    assert histo.Run(run).learner.model


@pytest.mark.long
@needs_bf16
def test_a_run_in_bf16_killed_at_random_moments_ends_bit_for_bit_as_an_unbroken_one(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "tests.kills", str(tmp_path), "--kills", "3"]
    command += ["--precision", "bf16"]
    where = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=where, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "same end: True" in done.stdout


@pytest.mark.long
@needs_bf16
def test_two_processes_train_in_bf16_as_in_fp32_up_to_its_rounding(dataset, tmp_path):
    """Not as one process does: their shares of a batch have other dropout masks."""
    found = []
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        words = [*TRAIN, "--lr", "1e-4", "--devices", "2", "--out", str(out)]
        command = [sys.executable, "-W", "ignore", "-m", "histo", "train", str(dataset), *words]
        where = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "--precision", precision],
            capture_output=True,
            text=True,
            env=where,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(rf"squeezenet1_1 on cpu .*, {precision},", done.stdout)
        assert kept_precision(out) == precision
        found.append([float(row["p_1"]) for row in rows_of(out / "predictions.csv")])
    assert found[0] == pytest.approx(found[1], abs=0.05)
