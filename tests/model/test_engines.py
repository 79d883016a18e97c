"""Engines beside fp32: which one predicts, what a table says of it, and a stranger's graph in it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import histo
from histo.errors import HistoError
from histo.files.digests import sha256
from histo.files.limits import RUN_BYTES, RUN_SECONDS
from histo.model import engines
from histo.model.card import CARD, INT8, ONNX
from histo.model.predictor import open_bundle
from histo.model.quantise import write_int8
from tests.conftest import assert_one_line_error, edit_card, replace_file, rows_of, run_histo
from tests.model.test_bounded import (  # noqa: F401  (bundle is a fixture)
    PATCHES,
    bundle,
    endless,
    giving,
    graph,
    large,
    slow,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "bundle-2"
BY = [("ONNX Runtime", "int8"), ("OpenVINO", "bf16"), ("OpenVINO", "int8")]


@pytest.fixture(autouse=True)
def any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is chosen does not depend on the machine of the tests."""
    monkeypatch.setattr(engines, "fast_precisions", lambda: frozenset({"bf16", "int8"}))


def entry(engine: str, precision: str, **changes: Any) -> dict[str, Any]:
    """An engine as a card has it."""
    found = {"engine": engine, "precision": precision, "kept": True, "speed": 2.0, "auc": 0.0}
    return {**found, "log_loss": 0.0, "changed": 0.0, "why": "", **changes}


def vouch(folder: Path, *judged: dict[str, Any], int8: bytes | None = None) -> Path:
    """Let the card of a bundle vouch for engines; `int8` is the file of those in int8."""
    card = json.loads((folder / CARD).read_text())
    files, sizes = dict(card["files"]), dict(card["bytes"])
    if int8 is not None:
        replace_file(folder / INT8, int8)
        files[INT8], sizes[INT8] = sha256(folder / INT8), len(int8)
    edit_card(folder, files=files, bytes=sizes, engines={"judged": list(judged)})
    return folder


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The golden bundle's model in int8."""
    path, rng = tmp_path_factory.mktemp("int8") / INT8, np.random.default_rng(0)
    patches = rng.integers(0, 256, (32, 48, 48, 3), dtype=np.uint8)
    assert write_int8(GOLDEN / ONNX, path, patches, "patches") == ""
    return path.read_bytes()


@pytest.fixture
def golden(tmp_path: Path, quantised: bytes) -> Path:
    """A bundle that vouches for int8 by ONNX Runtime."""
    folder = shutil.copytree(GOLDEN, tmp_path / "golden")
    return vouch(folder, entry("ONNX Runtime", "int8"), int8=quantised)


def needs(engine: str) -> None:
    """Skip where an engine is not installed."""
    if engine == "OpenVINO":
        pytest.importorskip("openvino")


def test_a_model_in_int8_says_the_same_of_itself_and_nothing_of_the_machine(quantised):
    import onnx

    plain = onnx.load(GOLDEN / ONNX)
    told = {prop.key: prop.value for prop in onnx.load_from_string(quantised).metadata_props}
    assert told == {prop.key: prop.value for prop in plain.metadata_props}
    assert b"/tmp" not in quantised


@pytest.mark.parametrize(("engine", "precision"), BY)
def test_the_engine_that_the_card_vouches_for_predicts_nearly_the_same(
    golden, quantised, engine, precision
):
    needs(engine)
    vouch(golden, entry(engine, precision))
    patches = np.random.default_rng(1).integers(0, 256, (5, 48, 48, 3), dtype=np.uint8)
    fast, exact = open_bundle(golden, "cpu"), open_bundle(golden, "cpu", "fp32")
    assert (fast.reduced, exact.reduced) == (f"{engine} {precision}", "")
    apart = np.abs(fast.probabilities(patches) - exact.probabilities(patches)).max()
    assert 0 < apart < 0.1
    assert np.array_equal(
        exact.probabilities(patches), open_bundle(GOLDEN, "cpu").probabilities(patches)
    )


WATCHED = """
import multiprocessing, os, socket, sys
from histo.model import engines
from pathlib import Path
from histo.model.predictor import open_bundle
def refuse(*given, **named): os._exit(9)  # also from a thread
multiprocessing.Process.start = socket.getaddrinfo = refuse
engines.fast_precisions = lambda: frozenset({"bf16"})
assert open_bundle(Path(sys.argv[1]), "cpu").reduced == "OpenVINO bf16"
assert "openvino" in sys.modules
"""


def test_openvino_sends_nothing_when_it_loads(golden):
    """By itself it tells a server that it was imported."""
    needs("OpenVINO")
    vouch(golden, entry("OpenVINO", "bf16"))
    words = [sys.executable, "-W", "ignore", "-c", WATCHED, golden]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_auto_takes_the_fastest_that_is_kept_and_that_this_machine_has(golden, monkeypatch):
    ours, theirs = entry("ONNX Runtime", "int8", speed=1.5), entry("OpenVINO", "bf16", speed=3.0)
    vouch(golden, ours, theirs)
    monkeypatch.setattr(engines, "openvino_is_there", lambda: False)
    assert open_bundle(golden, "cpu").reduced == "ONNX Runtime int8"
    monkeypatch.setattr(engines, "fast_precisions", lambda: frozenset({"bf16"}))
    assert open_bundle(golden, "cpu").reduced == ""
    with pytest.raises(HistoError, match="no instructions for int8"):
        open_bundle(golden, "cpu", "int8")
    with pytest.raises(HistoError, match="pip install 'histolearn\\[openvino\\]'"):
        open_bundle(golden, "cpu", "bf16")


def test_prediction_says_why_the_fastest_engine_of_the_card_is_not_used(
    golden, tmp_path, monkeypatch
):
    ours, theirs = entry("ONNX Runtime", "int8", speed=1.5), entry("OpenVINO", "bf16", speed=3.0)
    vouch(golden, ours, theirs)
    monkeypatch.setattr(engines, "openvino_is_there", lambda: False)
    words = ["predict", golden, GOLDEN / "patches", "--device", "cpu", "--out", tmp_path / "p.csv"]
    result = run_histo(*words)
    assert "note: bf16 by OpenVINO is not used: OpenVINO is not there: pip" in result.stdout
    assert "int8 by ONNX Runtime: 1.50 times as fast" in result.stdout
    monkeypatch.setattr(engines, "openvino_is_there", lambda: True)
    vouch(golden, ours)
    assert "is not used" not in run_histo(*words).stdout
    assert "is not used" not in run_histo(*words, "--precision", "fp32").stdout


def test_an_openvino_that_does_not_load_is_not_used_and_named(golden, tmp_path, monkeypatch):
    vouch(golden, entry("OpenVINO", "bf16"))
    monkeypatch.setattr(engines, "fast_precisions", lambda: frozenset({"bf16"}))
    monkeypatch.setattr(engines, "openvino_is_there", lambda: True)
    monkeypatch.setitem(sys.modules, "openvino", None)
    words = ["predict", golden, GOLDEN / "patches", "--device", "cpu", "--out", tmp_path / "p.csv"]
    asked = run_histo(*words, "--precision", "bf16")
    assert_one_line_error(asked, "OpenVINO does not load (", "--precision auto")
    result = run_histo(*words)
    assert result.exit_code == 0, result.output
    assert "note: bf16 by OpenVINO is not used: OpenVINO does not load (" in result.stdout
    assert "pip install --force-reinstall openvino" in result.stdout


def test_an_engine_that_was_refused_is_never_taken(golden):
    vouch(golden, entry("ONNX Runtime", "int8", kept=False, why="its AUC is lower by 0.04"))
    assert open_bundle(golden, "cpu").reduced == ""
    result = run_histo(
        *("predict", golden, GOLDEN / "patches", "--precision", "int8", "--device", "cpu")
    )
    assert_one_line_error(result, "it was refused: its AUC is lower by 0.04", "--precision auto")


def test_a_bundle_without_judged_engines_is_exact(tmp_path):
    assert open_bundle(GOLDEN, "cpu").reduced == ""
    with pytest.raises(HistoError, match="its card does not vouch for bf16"):
        open_bundle(GOLDEN, "cpu", "bf16")
    with pytest.raises(HistoError, match="precision is 'fp64'"):
        histo.load(GOLDEN, precision="fp64")


@pytest.mark.parametrize(
    "judged",
    [
        "fast",
        [1],
        [entry("ONNX Runtime", "int8", speed="2")],
        [entry("ONNX Runtime", "int8", kept=1)],
        [entry("ONNX Runtime", "fp64")],
        [entry("ONNX Runtime", "int8")] * 21,
    ],
)
def test_a_card_that_judges_nonsense_is_refused(golden, judged):
    edit_card(golden, engines={"judged": judged})
    with pytest.raises(HistoError, match="is damaged"):
        open_bundle(golden, "cpu")


def test_a_table_says_which_engine_made_it_and_fp32_makes_the_table_of_before(golden, tmp_path):
    fast, exact, old = (tmp_path / name for name in ("fast.csv", "exact.csv", "old.csv"))
    words = ["--device", "cpu", "--out"]
    result = run_histo("predict", golden, GOLDEN / "patches", *words, fast)
    assert "int8 by ONNX Runtime: 2.00 times as fast as fp32" in result.output
    assert "--precision fp32 is exact" in result.output
    run_histo("predict", golden, GOLDEN / "patches", *words, exact, "--precision", "fp32")
    run_histo("predict", GOLDEN, GOLDEN / "patches", *words, old)
    assert exact.read_bytes() == old.read_bytes()
    rows = rows_of(fast)
    assert {row["engine"] for row in rows} == {"ONNX Runtime int8"}
    assert list(rows[0]) == [*rows_of(old)[0], "engine"]
    table = histo.load(golden, device="cpu").predict(GOLDEN / "patches")
    assert list(table.columns) == list(rows[0])


def test_a_table_of_int8_has_its_submission_and_is_compared_as_any(golden, tmp_path):
    out, kaggle = tmp_path / "p.csv", tmp_path / "kaggle.csv"
    words = ["predict", golden, GOLDEN / "patches", "--device", "cpu"]
    result = run_histo(*words, "--out", out, "--submission", kaggle)
    assert result.exit_code == 0, result.output
    assert [row["label"] for row in rows_of(kaggle)] == [row["p_tumour"] for row in rows_of(out)]
    labels = tmp_path / "labels.csv"
    named = [f"{row['id']},{row['predicted']}" for row in rows_of(out)]
    labels.write_text("id,label\n" + "\n".join(named) + "\n")
    other = tmp_path / "fp32.csv"
    run_histo(*words, "--out", other, "--precision", "fp32")
    result = run_histo("compare", out, other, "--labels", labels)
    assert result.exit_code == 0, result.output


def test_shares_of_two_engines_are_not_joined(golden, tmp_path):
    words = ["predict", golden, GOLDEN / "patches", "--device", "cpu", "--batch-size", 2]
    out = ["--out", tmp_path / "p.csv"]
    for share, precision in (("1/2", "auto"), ("2/2", "fp32")):
        assert not run_histo(*words, *out, "--shard", share, "--precision", precision).exit_code
    result = run_histo("merge", tmp_path)
    assert_one_line_error(result, "are not of one table: they are by", "ONNX Runtime")
    assert not run_histo(*words, *out, "--shard", "2/2").exit_code
    whole = tmp_path / "whole.csv"
    assert not run_histo(*words, "--out", whole).exit_code
    result = run_histo("merge", *sorted(tmp_path.glob("p.*-of-2.csv")))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "p.csv").read_bytes() == whole.read_bytes()


def stranger(bundle: Any, data: bytes, engine: str, precision: str) -> Path:  # noqa: F811
    """A stranger's bundle whose card vouches for a graph, whatever the file is called."""
    needs(engine)
    return vouch(bundle(data), entry(engine, precision), int8=data)


@pytest.mark.parametrize(("engine", "precision"), BY)
def test_a_strangers_graph_by_another_engine_is_bounded_as_model_onnx_is(
    bundle,  # noqa: F811
    monkeypatch,
    engine,
    precision,
):
    predictor = open_bundle(stranger(bundle, giving(1), engine, precision), "cpu")
    assert predictor.reduced == f"{engine} {precision}"
    assert np.allclose(predictor.predict(PATCHES).probabilities, 0.5)


@pytest.mark.parametrize(("engine", "precision"), BY)
def test_of_five_gigabytes_it_gets_none(bundle, engine, precision):  # noqa: F811
    folder = stranger(bundle, large(), engine, precision)
    with pytest.raises(HistoError, match=rf"more than 4,294,967,296 bytes .*{RUN_BYTES.name}"):
        open_bundle(folder, "cpu").predict(PATCHES)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "precision"), BY)
@pytest.mark.parametrize("made", [endless, slow])
def test_without_an_end_it_is_stopped(bundle, monkeypatch, made, engine, precision):  # noqa: F811
    folder = stranger(bundle, made(), engine, precision)
    start = time.monotonic()
    monkeypatch.setenv(RUN_SECONDS.name, "4")
    with pytest.raises(HistoError):  # too slow, or a graph that the engine does not load
        open_bundle(folder, "cpu").predict(PATCHES)
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(("engine", "precision"), BY)
@pytest.mark.parametrize("value", [float("nan"), -1.0, 2.0])
def test_what_are_no_probabilities_is_refused(bundle, value, engine, precision):  # noqa: F811
    predictor = open_bundle(stranger(bundle, giving(value), engine, precision), "cpu")
    with pytest.raises(HistoError, match="gives no probabilities"):
        predictor.predict(PATCHES)


@pytest.mark.parametrize(("engine", "precision"), BY)
def test_its_tensors_are_in_no_other_file_and_its_ends_are_those_of_the_card(
    bundle,  # noqa: F811
    engine,
    precision,
):
    folder = stranger(bundle, giving(1) + b"location", engine, precision)
    with pytest.raises(HistoError, match="is not all in one file"):
        open_bundle(folder, "cpu")
    replace_file(folder / ONNX, b"")
    with pytest.raises(HistoError, match="bytes; its card says"):
        open_bundle(folder, "cpu")


@pytest.mark.parametrize(("engine", "precision"), BY)
def test_a_file_of_int8_that_is_not_that_of_the_card_is_refused(golden, engine, precision):
    vouch(golden, entry(engine, precision))
    data = (golden / INT8).read_bytes()
    replace_file(golden / INT8, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(HistoError, match="is not the file that its card names"):
        open_bundle(golden, "cpu")


def test_a_graph_of_another_size_does_not_fit_its_card(bundle, tmp_path):  # noqa: F811
    needs("OpenVINO")
    folder = stranger(bundle, giving(1), "OpenVINO", "bf16")
    edit_card(folder, patch_size=16)
    with pytest.raises(HistoError, match="does not fit its card"):
        open_bundle(folder, "cpu")


def test_bf16_by_torch_gives_probabilities():
    """As on a GPU: under autocast, on a CPU."""
    import torch

    from histo.model.bundle_files import BundleFiles
    from histo.model.torch_engine import TorchEngine

    files, cpu = BundleFiles.open(GOLDEN), torch.device("cpu")
    patches = np.random.default_rng(1).integers(0, 256, (5, 48, 48, 3), dtype=np.uint8)
    exact, fast = (TorchEngine.open(files, cpu, kind) for kind in ("fp32", "bf16"))
    assert (exact.name, fast.name) == ("PyTorch, cpu", "PyTorch bf16, cpu")
    each = [engine.get(engine.run(engine.put(patches))) for engine in (exact, fast)]
    assert np.abs(each[1].sum(1) - 1).max() < 1e-6
    assert 0 < np.abs(each[0] - each[1]).max() < 0.05
    assert next(fast.model.parameters()).dtype == torch.float32


def test_a_card_made_on_a_gpu_is_for_a_gpu(golden, monkeypatch):
    files = open_bundle(vouch(golden, entry("PyTorch", "bf16")), "cpu").files
    assert engines.choose_engine(files, "auto", on_cpu=True) is None
    monkeypatch.setattr(engines.sys, "platform", "linux")
    chosen = engines.choose_engine(files, "auto", on_cpu=False)
    assert (chosen.engine, chosen.precision) == ("PyTorch", "bf16")


def test_the_processor_is_asked_for_its_instructions(monkeypatch):
    monkeypatch.undo()
    assert engines.fast_precisions() <= {"bf16", "int8"}
