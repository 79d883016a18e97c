"""A hundred ways for a bundle to be corrupt, each a name and what it does to a sound one.

The card is sealed again wherever the damage could be a stranger's: its hashes then vouch for it.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from histo.files.digests import sha256
from histo.model.bundle import TrainedOn, write_trained
from histo.model.card import CARD, FILES, INT8, LEARNER, ONNX, SEAL, TRAINED, WEIGHTS
from tests.conftest import edit_card
from tests.conftest import replace_file as write

Corrupt = Callable[[Path], object]


class Evil:
    """A pickle that makes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def vouch(bundle: Path) -> None:
    """Make the card vouch for whatever the files are now."""
    there = [name for name in FILES if (bundle / name).is_file()]
    sizes = {name: (bundle / name).stat().st_size for name in there}
    edit_card(bundle, files={name: sha256(bundle / name) for name in there}, bytes=sizes)


def flip(name: str, region: int) -> Corrupt:
    def corrupt(bundle: Path) -> None:
        data = bytearray((bundle / name).read_bytes())
        data[(2 * region + 1) * len(data) // 16] ^= 1 << region % 7
        write(bundle / name, bytes(data))

    return corrupt


def cut(name: str, share: float) -> Corrupt:
    def corrupt(bundle: Path) -> None:
        data = (bundle / name).read_bytes()
        write(bundle / name, data[: int(len(data) * share)] if share <= 1 else data + b"\0")

    return corrupt


def swap(a: str, b: str) -> Corrupt:
    def corrupt(bundle: Path) -> None:
        first, second = (bundle / a).read_bytes(), (bundle / b).read_bytes()
        write(bundle / a, second)
        write(bundle / b, first)

    return corrupt


def strange_weights(make: Callable[[bytes, dict[str, Any], bytes], bytes]) -> Corrupt:
    """Weights from (the length's eight bytes, header, tensors), vouched for, and no ONNX model."""

    def corrupt(bundle: Path) -> None:
        data = (bundle / WEIGHTS).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        write(bundle / WEIGHTS, make(data[:8], header, data[8 + length :]))
        without_onnx(bundle)

    return corrupt


def header_of(n: int) -> Corrupt:
    return strange_weights(lambda _, header, data: struct.pack("<Q", n) + dumped(header) + data)


def dumped(header: Any) -> bytes:
    return header if isinstance(header, bytes) else json.dumps(header).encode()


def new_header(change: Callable[[dict[str, Any]], Any]) -> Corrupt:
    def make(_: bytes, header: dict[str, Any], data: bytes) -> bytes:
        text = dumped(change(header))
        return struct.pack("<Q", len(text)) + text + data

    return strange_weights(make)


def without_onnx(bundle: Path) -> None:
    (bundle / ONNX).unlink()
    vouch(bundle)


def facts(**changes: Any) -> Corrupt:
    return lambda bundle: edit_card(bundle, **changes)


def unnamed(name: str) -> Corrupt:
    """A file that the card says nothing of."""

    def corrupt(bundle: Path) -> None:
        card = json.loads((bundle / CARD).read_text())
        parts = ("files", "bytes")
        edit_card(bundle, **{p: {n: x for n, x in card[p].items() if n != name} for p in parts})

    return corrupt


def unsealed(bundle: Path) -> None:
    """A card that was changed and its own SHA-256 taken away; the first cards had none."""
    card = {**json.loads((bundle / CARD).read_text()), "threshold": 0.9}
    card.pop(SEAL)
    write(bundle / CARD, json.dumps(card).encode())


def other_arch(arch: str, **more: Any) -> Corrupt:
    """The card of a model a thousand times larger than its weights."""

    def corrupt(bundle: Path) -> None:
        edit_card(bundle, arch=arch, **more)
        without_onnx(bundle)

    return corrupt


def raw_card(text: bytes) -> Corrupt:
    return lambda bundle: write(bundle / CARD, text)


def instead(name: str, make: Callable[[Path], object]) -> Corrupt:
    def corrupt(bundle: Path) -> None:
        (bundle / name).unlink()
        make(bundle / name)

    return corrupt


def link_out(path: Path) -> None:
    """A link to just what should be there, but outside."""
    outside = path.parent.parent / f"{path.parent.name}-{path.name}"
    os.link(path.parent.parent / "sound" / path.name, outside)
    path.symlink_to(outside)


def strange_onnx(nodes: list[Any], *tensors: Any, classes: int = 2) -> Corrupt:
    """An ONNX model of these nodes from `patches` to `probabilities`, vouched for."""

    def corrupt(bundle: Path) -> None:
        patches = helper.make_tensor_value_info("patches", TensorProto.UINT8, ["n", 48, 48, 3])
        out = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", classes])
        graph = helper.make_graph(nodes, "g", [patches], [out], tensors)
        opset = helper.make_opsetid("", 18)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
        write(bundle / ONNX, model.SerializeToString())
        vouch(bundle)

    return corrupt


def outside_tensor(place: str) -> Any:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=1)
    for key, value in (("location", place), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def means(classes: int) -> list[Any]:
    """Nodes that make `classes` numbers of a patch, and add `w` to them."""
    return [
        helper.make_node("Cast", ["patches"], ["float"], to=1),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("Slice", ["flat", "from", "to", "axis"], ["some"]),
        helper.make_node("Add", ["some", "w"], ["probabilities"]),
    ]


def slices(classes: int) -> list[Any]:
    values = {"from": 0, "to": classes, "axis": 1}
    return [numpy_helper.from_array(np.array([v]), name) for name, v in values.items()]


W = numpy_helper.from_array(np.zeros(1, np.float32), "w")
CHANGED = [("first", 0), ("half", 0.5), ("last", 0.999999), ("more", 2)]
CORRUPTIONS: dict[str, Corrupt] = {
    **{f"{name}: bit in region {r}": flip(name, r) for name in (CARD, *FILES) for r in range(8)},
    **{f"{name}: cut at {how}": cut(name, x) for name in (CARD, *FILES) for how, x in CHANGED},
    **{
        f"{a} and {b} swapped": swap(a, b)
        for a, b in (
            (WEIGHTS, ONNX),
            (WEIGHTS, LEARNER),
            (ONNX, LEARNER),
            (WEIGHTS, TRAINED),
            (ONNX, CARD),
        )
    },
    **{f"header of {n:,} bytes": header_of(n) for n in (0, 1, 2**31, 2**63, 2**64 - 1, 10**8)},
    "header of nested lists": new_header(lambda _: b"[" * 20_000),
    "header that is a list": new_header(list),
    "header of no tensor": new_header(lambda _: {}),
    "a tensor too many": new_header(lambda h: {**h, "x": next(iter(h.values()))}),
    "a tensor too few": new_header(lambda h: dict(list(h.items())[1:])),
    "a tensor of a terabyte": new_header(
        lambda h: {**h, "1.1.weight": {**h["1.1.weight"], "shape": [10**6, 10**6]}}
    ),
    "a tensor of no dtype": new_header(
        lambda h: {**h, "1.1.weight": {**h["1.1.weight"], "dtype": "F31"}}
    ),
    "a tensor beyond the file": new_header(
        lambda h: {**h, "1.1.weight": {**h["1.1.weight"], "data_offsets": [0, 2**40]}}
    ),
    "tensors one over another": new_header(
        lambda h: {k: {**v, "data_offsets": [0, 4]} for k, v in h.items() if k != "__metadata__"}
    ),
    **{f"{name} links out": instead(name, link_out) for name in (CARD, *FILES)},
    "a ring of links": instead(ONNX, lambda path: path.symlink_to(path)),
    "endless weights": instead(WEIGHTS, lambda path: path.symlink_to("/dev/zero")),
    "an endless card": instead(CARD, lambda path: path.symlink_to("/dev/zero")),
    **{f"{name} is a pipe": instead(name, os.mkfifo) for name in (CARD, WEIGHTS, ONNX, LEARNER)},
    **{f"{name} is a folder": instead(name, Path.mkdir) for name in (CARD, WEIGHTS, ONNX)},
    **{
        f"a file called {name!r}": facts(files={name: "0" * 64})
        for name in ("../x", "/etc/passwd", "a/b", "..", "")
    },
    "an arch that leads out": facts(arch="../../weights"),
    "no such arch": other_arch("resnet0"),
    "hashes that are numbers": facts(files={WEIGHTS: 1}),
    "sizes that are words": facts(bytes={WEIGHTS: "1"}),
    "no files": facts(files=...),
    "a learner the card does not name": unnamed(LEARNER),
    "hashes of its training that the card does not name": unnamed(TRAINED),
    "no seal": unsealed,
    "no vocab": facts(vocab=...),
    "one class": facts(vocab=["a"]),
    "a class twice": facts(vocab=["a", "a"]),
    "a hundred thousand classes": facts(vocab=[str(i) for i in range(100_000)]),
    "half a character": facts(vocab=["a", "\ud800"]),
    "a terminal's command": facts(vocab=["a", "\x1b[2J"]),
    "an endless name": facts(vocab=["a", "b" * 10_000]),
    "three classes": facts(vocab=["a", "b", "c"]),
    "no number": facts(std=[0.2, float("nan"), 0.2]),
    "an endless number": facts(mean=[float("inf"), 0.5, 0.5]),
    "a mean of words": facts(mean=["a", "b", "c"]),
    "a vast patch": facts(patch_size=10**9),
    "a patch of yes": facts(patch_size=True),
    "a vast head": facts(head=10**9),
    "a million models": facts(models=10**6),
    "a temperature of no number": facts(temperature=float("nan")),
    "a threshold beyond reach": facts(threshold=2.0),
    "a card of format 0": facts(format=0),
    "a card of format '1'": facts(format="1"),
    "a card of a later format": facts(format=3),
    "a huge model's card": other_arch("vit_h_14", patch_size=224),
    "a huge net's card": other_arch("regnet_y_128gf"),
    "a hundred huge models' card": other_arch("regnet_y_128gf", models=100),
    "a card of a list": raw_card(b"[]"),
    "a card of nested lists": raw_card(b"[" * 100_000),
    "a card of five million lists": raw_card(b"[" + b"[]," * 5_000_000 + b"[]]"),
    "a card of a million lists": raw_card(b"[" + b"[]," * 1_350_000 + b"[]]"),
    "a card of no UTF-8": raw_card(b'{"format": 1, "arch": "\xff"}'),
    "a card of a huge number": raw_card(b'{"format": ' + b"1" * 10_000 + b"}"),
    "ONNX called by other names": facts(onnx={"opset": 18, "input": "x", "output": "y"}),
    "ONNX not told how to call": facts(onnx={"opset": 18, "more": 1}),
    "ONNX of a file beside it": strange_onnx(means(2), outside_tensor("secret"), *slices(2)),
    "ONNX of a file elsewhere": strange_onnx(means(2), outside_tensor("/etc/passwd"), *slices(2)),
    "ONNX of three classes": strange_onnx(means(3), W, *slices(3), classes=3),
    "ONNX of no graph": strange_onnx([]),
}
"""Each leaves a bundle that must be refused."""


def sound_bundle(golden: Path, folder: Path, touched: Path) -> Path:
    """A sound bundle, but its learner is a pickle that would make `touched`."""
    folder.mkdir()
    for name in (CARD, WEIGHTS, ONNX):
        write(folder / name, (golden / name).read_bytes())
    write(folder / INT8, (golden / ONNX).read_bytes())
    write_trained(folder, TrainedOn([64 * "0"], np.ones((4, 63), np.uint8), ["a slide"]))
    write(folder / LEARNER, pickle.dumps(Evil(touched)))
    vouch(folder)
    return folder
