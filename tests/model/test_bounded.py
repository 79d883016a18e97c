"""A stranger's ONNX model that asks for too much, never ends, or gives no probabilities."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from histo.config import ModelCard
from histo.errors import HistoError
from histo.files.digests import sha256
from histo.files.limits import RUN_BYTES, RUN_SECONDS
from histo.files.writing import write_json
from histo.model.card import CARD, FORMAT, ONNX, SEAL, seal_of
from histo.model.memory_bound import STATM
from histo.model.predictor import open_bundle
from tests.conftest import Memory, write_image

SIDE = 8


def constant(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def floats(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def graph(*nodes: onnx.NodeProto, **constants: Any) -> bytes:
    """A model whose `nodes` make `out` from `half`, 0.5 for each class, and `f`, the patches."""
    start = [
        helper.make_node("Cast", ["patches"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f", "axes"], ["m"], keepdims=0),
        helper.make_node("Sub", ["m", "m"], ["zero"]),
        helper.make_node("Reshape", ["zero", "column"], ["z"]),
        helper.make_node("Concat", ["z", "z"], ["zz"], axis=1),
        helper.make_node("Add", ["zz", "point5"], ["half"]),
    ]
    own = {"axes": [1, 2, 3], "column": [-1, 1], "point5": np.float32(0.5), **constants}
    patches = helper.make_tensor_value_info("patches", TensorProto.UINT8, ["n", SIDE, SIDE, 3])
    out = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 2])
    whole = helper.make_graph(
        [*start, *nodes], "g", [patches], [out], [constant(k, v) for k, v in own.items()]
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(whole, opset_imports=opsets, ir_version=9).SerializeToString()


def endless() -> bytes:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Identity", ["a"], ["b"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            floats("a"),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), floats("b")],
    )
    loop = helper.make_node("Loop", ["", "true", "half"], ["probabilities"], body=body)
    return graph(loop, true=True)


def slow(boxes: int = 200_000) -> bytes:
    """One operator, on one core, that compares each box with each other one: some 15 s."""
    at = np.arange(boxes, dtype=np.float32)
    return graph(
        helper.make_node("Mul", ["m", "none"], ["no"]),
        helper.make_node("ReduceMax", ["no", "first"], ["zero1"], keepdims=0),
        helper.make_node("Add", ["scores", "zero1"], ["s"]),
        helper.make_node("NonMaxSuppression", ["boxes", "s", "most"], ["selected"]),
        helper.make_node("Cast", ["selected"], ["found"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["found", "all"], ["x"], keepdims=0),
        helper.make_node("Mul", ["x", "none"], ["nothing"]),
        helper.make_node("Add", ["half", "nothing"], ["probabilities"]),
        boxes=np.stack([at, at, at + 0.5, at + 0.5], axis=1)[None],
        scores=np.ones((1, 1, boxes), np.float32),
        most=np.array([boxes], np.int64),
        first=[0],
        all=[0, 1],
        none=np.float32(0),
    )


def large(times: int = 7_000_000) -> bytes:
    """Ten gigabytes, or so many times 1,536 bytes, of which nothing is used."""
    return graph(
        helper.make_node("Expand", ["f", "size"], ["e"]),
        helper.make_node("ReduceMin", ["e", "all"], ["x"], keepdims=0),
        helper.make_node("Mul", ["x", "none"], ["nothing"]),
        helper.make_node("Add", ["half", "nothing"], ["probabilities"]),
        size=[times, 1, SIDE, SIDE, 3],
        all=[0, 1, 2, 3, 4],
        none=np.float32(0),
    )


def folding() -> bytes:
    """Forty times 200 MB, which ONNX Runtime computes while it loads: nothing in them depends on patches."""
    nodes, own = [], {}
    for n in range(40):
        own[f"k{n}"] = np.full((1,) * 5, n, np.float32)
        nodes.append(helper.make_node("Expand", [f"k{n}", "size"], [f"e{n}"]))
        nodes.append(helper.make_node("ReduceMin", [f"e{n}", "all"], [f"x{n}"], keepdims=0))
    nodes += [
        helper.make_node("Sum", [f"x{n}" for n in range(40)], ["x"]),
        helper.make_node("Mul", ["x", "none"], ["nothing"]),
        helper.make_node("Add", ["half", "nothing"], ["probabilities"]),
    ]
    size = [270_000, 1, SIDE, SIDE, 3]
    return graph(*nodes, size=size, all=[0, 1, 2, 3, 4], none=np.float32(0), **own)


def sparse() -> bytes:
    """Weights of more than a gigabyte in a few bytes: one of them is not zero."""
    model = onnx.load_from_string(
        graph(
            helper.make_node("ReduceMin", ["w", "all"], ["x"], keepdims=0),
            helper.make_node("Mul", ["x", "none"], ["nothing"]),
            helper.make_node("Add", ["half", "nothing"], ["probabilities"]),
            all=[0],
            none=np.float32(0),
        )
    )
    one = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    at = helper.make_tensor("", TensorProto.INT64, [1], [3])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(one, at, [300_000_000]))
    return model.SerializeToString()


def nested() -> bytes:
    """Functions that each call the next one twice: two to the power of thirty nodes."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model = onnx.load_from_string(
        graph(helper.make_node("f0", ["half"], ["probabilities"], domain="own"))
    )
    model.opset_import.append(opsets[1])
    for n in range(30):
        inner = ("Identity", "") if n == 29 else (f"f{n + 1}", "own")
        calls = [helper.make_node(inner[0], [a], [b], domain=inner[1]) for a, b in ("xy", "yz")]
        model.functions.append(helper.make_function("own", f"f{n}", ["x"], ["z"], calls, opsets))
    return model.SerializeToString()


def giving(value: float) -> bytes:
    return graph(helper.make_node("Mul", ["half", "by"], ["probabilities"]), by=np.float32(value))


@pytest.fixture
def bundle(tmp_path: Path):
    """Writes a stranger's bundle around a graph, with its hashes."""

    def write(data: bytes, patch_size: int = SIDE) -> Path:
        folder = tmp_path / "bundle"
        folder.mkdir()
        (folder / ONNX).write_bytes(data)
        card = ModelCard("resnet18", ["0", "1"], patch_size, None, None, [0.5] * 3, [0.25] * 3)
        facts = {
            "format": FORMAT,
            **card.as_dict(),
            "onnx": {"opset": 18, "input": "patches", "output": "probabilities"},
            "files": {ONNX: sha256(folder / ONNX)},
            "bytes": {ONNX: (folder / ONNX).stat().st_size},
        }
        write_json(folder / CARD, {**facts, SEAL: seal_of(facts)})
        return folder

    return write


PATCHES = np.zeros((2, SIDE, SIDE, 3), np.uint8)


def test_a_plain_graph_predicts(bundle):
    found = open_bundle(bundle(giving(1)), "cpu").predict(PATCHES).probabilities
    assert np.allclose(found, 0.5)


@pytest.mark.parametrize("value", [float("nan"), -1, 2, float("inf")])
def test_what_are_no_probabilities_is_one_line(bundle, value):
    predictor = open_bundle(bundle(giving(value)), "cpu")
    with pytest.raises(HistoError, match=r"gives no probabilities: NaN, below 0, or not 1 in all"):
        predictor.predict(PATCHES)


def test_a_graph_that_asks_for_five_gigabytes_gets_none_of_them(bundle):
    predictor, memory = open_bundle(bundle(large()), "cpu"), Memory()
    with pytest.raises(HistoError, match=rf"more than 4,294,967,296 bytes .*{RUN_BYTES.name}"):
        predictor.predict(PATCHES)
    assert memory.taken < 50 << 20


@pytest.mark.slow
@pytest.mark.parametrize("made", [folding, sparse])
def test_a_graph_that_grows_while_it_loads_is_refused_before_it_takes_much(
    bundle, monkeypatch, made
):
    monkeypatch.setenv(RUN_BYTES.name, str(512 << 20))
    memory = Memory()
    with pytest.raises(HistoError, match=RUN_BYTES.name):
        open_bundle(bundle(made()), "cpu").predict(PATCHES)
    assert memory.taken < 700 << 20


def test_a_graph_that_fills_its_bound_leaves_the_next_one_bounded(tmp_path, bundle, monkeypatch):
    monkeypatch.setenv(RUN_BYTES.name, str(512 << 20))
    first = bundle(large(150_000)).rename(tmp_path / "first")
    kept = open_bundle(first, "cpu")
    assert np.allclose(kept.predict(PATCHES).probabilities, 0.5)
    predictor, memory = open_bundle(bundle(large()), "cpu"), Memory()
    with pytest.raises(HistoError, match=RUN_BYTES.name):
        predictor.predict(PATCHES)
    assert memory.taken < 50 << 20


TWO_PARTS = """
import threading
from histo.errors import HistoError
from histo.files.limits import RUN_BYTES
from histo.model.bounded import Bounded

most, held, seen = 256 << 20, threading.Event(), threading.Event()

def hold():
    kept = bytearray(most * 3 // 4)
    held.set()
    seen.wait(20)
    return len(kept)

def take():
    held.wait(20)
    try:
        return len(bytearray(most * 3 // 4))
    finally:
        seen.set()

try:
    Bounded("a model", 2).run(hold, lambda: held.wait(20), take)
except HistoError as error:
    assert RUN_BYTES.name in str(error)
    assert len(bytearray(2 * most)) == 2 * most, "the bound ends with the batch"
    print("refused")
"""


@pytest.mark.slow
def test_what_one_part_of_a_batch_holds_the_next_cannot_take_once_more():
    """A part may hold all of its bound until parts that begin later have theirs.

    In a process of its own: what other tests gave back would be free to take.
    """
    if not STATM.exists():
        pytest.skip("only Linux bounds the whole process")
    done = subprocess.run(
        [sys.executable, "-c", TWO_PARTS],
        env={**os.environ, RUN_BYTES.name: str(256 << 20)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.parametrize("made", [endless, slow])
def test_a_graph_that_does_not_end_is_stopped(bundle, monkeypatch, made):
    predictor = open_bundle(bundle(made()), "cpu")
    monkeypatch.setenv(RUN_SECONDS.name, "1")
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(HistoError, match=rf"takes more than 1 s .*{RUN_SECONDS.name}"):
            predictor.predict(PATCHES)
    assert time.monotonic() - start < 10


@pytest.mark.slow
@pytest.mark.parametrize("made", [endless, slow, nested])
def test_such_a_command_ends_with_one_line_and_so_does_its_process(bundle, tmp_path, made):
    (tmp_path / "a").mkdir()
    write_image(tmp_path / "a" / "a.png", PATCHES[0])
    done = subprocess.run(
        [sys.executable, "-m", "histo", "predict", bundle(made()), "a", "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, RUN_SECONDS.name: "1"},
        timeout=60,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert re.search("takes more than 1 s (to load|for one batch)", done.stderr)
    assert not (tmp_path / "predictions.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("made", [endless, slow])
def test_the_second_ctrl_c_ends_it(bundle, tmp_path, made):
    (tmp_path / "a").mkdir()
    write_image(tmp_path / "a" / "a.png", PATCHES[0])
    process = subprocess.Popen(
        [sys.executable, "-m", "histo", "predict", bundle(made()), "a", "--device", "cpu"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    part = tmp_path / "predictions.csv.part"
    while not part.exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130


@pytest.mark.slow
def test_patches_of_200_mb_do_not_wait_by_the_hundred(tmp_path):
    """Sixteen patches of 48 MB are decoded in the memory of a few."""
    from histo.data.decode_ahead import decode_each
    from histo.data.patch_files import list_patches
    from histo.pixels.fit import Fit

    (tmp_path / "a").mkdir()
    for n in range(16):
        write_image(tmp_path / "a" / f"{n:02d}.png", np.full((4000, 4000, 3), n, np.uint8))
    memory, seen = Memory(), []
    for found in decode_each(list_patches(tmp_path / "a"), Fit(), 2):
        assert not isinstance(found, HistoError)
        seen.append(int(found[0][0, 0, 0]))
        time.sleep(0.05)
    assert seen == list(range(16))
    assert memory.taken < 600 << 20
