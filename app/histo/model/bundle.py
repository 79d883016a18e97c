"""Write a bundle: a trained model as data that is safe to load, and fastai's learner."""

from __future__ import annotations

import copy
import io
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from histo import __version__
from histo.config import ModelCard
from histo.files.digests import sha256
from histo.files.limits import MB
from histo.files.writing import write_json, written
from histo.model.card import (
    CARD,
    FILES,
    INT8,
    LEARNER,
    ONNX,
    SEAL,
    TRAINED,
    TRAINED_GROUPS,
    TRAINED_NEAR,
    WEIGHTS,
    Onnx,
    name_digests,
    seal_of,
    short_digests,
)
from histo.model.checkpoint import on_cpu
from histo.model.levels import Levels
from histo.model.network import PixelsToProbabilities
from histo.model.onnx import OnnxEngine, metadata_of

Step = Callable[[str], AbstractContextManager[None]]
OPSET = 18
ONNX_BYTES = 1536 * MB
"""Above this size of the weights no model.onnx is written: a protobuf ends at 2 GB, and torch would
move the weights to a second file."""
PACKAGES = ("fastai", "torch", "torchvision")
"""Packages whose versions a card records."""


def write_bundle(
    folder: Path,
    model: nn.Module,
    card: ModelCard,
    facts: dict[str, Any],
    trained_on: TrainedOn | None = None,
    pickled: bool = True,
    step: Step = lambda _: nullcontext(),
    more: Callable[[Onnx], Mapping[str, Any]] = lambda _: {},
) -> bool:
    """Write weights, learner, ONNX model and, last, the card with the SHA-256 of each.

    `step("what")` is a context around each part of the work that takes time.
    `trained_on` is by what the patches behind the model are recognised later; None leaves those
    files out; `pickled=False` leaves fastai's learner out; `facts["weights"]` says what the body
    started from. `more` writes and judges what is faster than model.onnx, which lies in `folder`,
    and returns what the card says of it.
    Returns whether there is an ONNX model: a few architectures cannot be converted, and the largest
    foundation models do not fit in one file. Several models that are averaged have no fastai
    learner: it would need histo to load. Nor have probes of the few bodies that torch.fx cannot trace.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with written(folder / WEIGHTS) as file:
        file.write(save(on_cpu(model.state_dict())))
    (folder / LEARNER).unlink(missing_ok=True)
    if pickled and isinstance(model, nn.Sequential):
        with step(f"writing fastai's learner, {LEARNER}"), suppress(UntraceableError):
            write_learner(folder / LEARNER, model, card)
    with step(f"converting to {ONNX}, and comparing the two"):
        onnx = write_onnx(folder / ONNX, model, card, facts.get("weights"))
    (folder / INT8).unlink(missing_ok=True)
    if onnx is None:
        (folder / ONNX).unlink(missing_ok=True)
    facts = facts | dict(more(onnx)) if onnx else facts
    write_trained(folder, trained_on)
    there = [name for name in FILES if (folder / name).is_file()]
    all_facts = {
        "format": card.format,
        **card.as_dict(),
        "channel_order": "RGB",
        "versions": {"histo": __version__, **{p: version(p) for p in PACKAGES}},
        **facts,
        **({"onnx": asdict(onnx)} if onnx else {}),
        "files": {name: sha256(folder / name) for name in there},
        "bytes": {name: (folder / name).stat().st_size for name in there},
    }
    write_json(folder / CARD, {**all_facts, SEAL: seal_of(all_facts)})
    return onnx is not None


@dataclass(frozen=True)
class TrainedOn:
    """The patches that a model was trained or chosen on, as hashes."""

    sha1: Sequence[str] = ()
    """of the pixels of each"""
    near: NDArray[np.uint8] | None = None
    """what near-duplicates share (histo.data.similar), uint8 [N, K]"""
    groups: Sequence[str] = ()
    """the slides or patients they are from, if known"""


def write_trained(folder: Path, trained_on: TrainedOn | None) -> None:
    """Write what the patches behind the model are recognised by, and remove what is not to be there."""
    known = trained_on or TrainedOn()
    arrays = {
        TRAINED: None if trained_on is None else np.sort(short_digests(known.sha1)),
        TRAINED_NEAR: known.near,
        TRAINED_GROUPS: name_digests(known.groups) if known.groups else None,
    }
    for name, array in arrays.items():
        if array is None:
            (folder / name).unlink(missing_ok=True)
        else:
            with written(folder / name) as file:
                np.save(file, array)


def write_onnx(
    path: Path, model: nn.Module, card: ModelCard, weights: Mapping[str, Any] | None = None
) -> Onnx | None:
    """Write model.onnx, checked against the model itself; None if torch cannot convert it to one file."""
    if sum(tensor.nbytes for tensor in model.state_dict().values()) > ONNX_BYTES:
        return None
    whole = (
        PixelsToProbabilities(model, card).cpu().eval().to(memory_format=torch.contiguous_format)
    )
    side = card.patch_size
    patches = torch.randint(0, 256, (3, side, side, 3), dtype=torch.uint8)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                whole,
                (patches[:2],),
                dynamo=True,
                opset_version=OPSET,
                input_names=[Onnx.input],
                output_names=[Onnx.output],
                dynamic_shapes=({0: torch.export.Dim("n")},),
                verbose=False,
            )
            assert program is not None
            program.model.graph.metadata_props.clear()
            for node in program.model.graph.all_nodes():
                node.metadata_props.clear()  # stack traces with local paths
            program.model.metadata_props.clear()
            program.model.metadata_props.update(metadata_of(card, weights))
            with tempfile.TemporaryDirectory() as folder:
                program.save(str(Path(folder, ONNX)))
                data = Path(folder, ONNX).read_bytes()
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError, ValueError):
        return None
    name = Onnx(OPSET)
    theirs = OnnxEngine(card, data, name).run(patches.numpy())
    with torch.inference_mode():
        ours = whole(patches).numpy()
    if np.abs(ours - theirs).max() > 1e-5:
        return None
    with written(path) as file:
        file.write(data)
    return name


def write_learner(path: Path, model: nn.Sequential, card: ModelCard) -> None:
    """Pickle a plain fastai learner: `load_learner(path).predict("patch.tif")` needs no histo.

    It holds only objects of torch, torchvision (or timm) and fastai. It reads 8-bit images. The
    temperature is in its last layer; it calls the most probable class, whatever the threshold.
    Raises UntraceableError where that is not possible.
    """
    model = without_histo(with_temperature(model, card.temperature), card)
    from fastai.data.block import CategoryBlock, DataBlock
    from fastai.data.transforms import Normalize
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.vision.augment import CropPad, Resize, ResizeMethod
    from fastai.vision.data import ImageBlock
    from fasttransform import Pipeline
    from PIL import Image

    crop = [] if card.crop is None else [CropPad(card.crop)]
    size = [] if card.size is None else [Resize(card.size, method=ResizeMethod.Squish)]
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=card.vocab, sort=False)),
        get_y=Pipeline([attrgetter("name"), {"blank.png": card.vocab[0]}.get]),
        splitter=_first_only,
        item_tfms=[*crop, *size],
        batch_tfms=[Normalize.from_stats(card.mean, card.std, cuda=False)],
    )
    with tempfile.TemporaryDirectory() as folder:
        # fastai learns its types from one real item
        blank = Path(folder) / "blank.png"
        side = card.crop or card.patch_size
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(blank)
        dls = block.dataloaders([blank], bs=64, num_workers=0, device=torch.device("cpu"))
        learn = Learner(dls, model.cpu().eval(), loss_func=CrossEntropyLossFlat(), path=Path())
        dls.path = Path()
        learn.export(Path(folder, LEARNER).resolve())
        with written(path) as file:
            file.write(Path(folder, LEARNER).read_bytes())


class UntraceableError(Exception):
    """A model cannot be pickled without histo's own classes."""


def without_histo(model: nn.Sequential, card: ModelCard) -> nn.Sequential:
    """The model, where it is a probe of several blocks with its body as a traced graph."""
    body, head = next(model[0].children()), model[1]
    if not isinstance(body, Levels):
        return model
    patches = torch.rand(2, 3, card.patch_size, card.patch_size)
    try:
        plain = body.cpu().eval().without_histo()
        with torch.inference_mode():
            same = torch.allclose(plain(patches), body(patches), rtol=1e-4, atol=1e-5)
    except Exception as error:  # torch.fx runs the body's own code, which can raise anything
        raise UntraceableError from error
    if not same:
        raise UntraceableError
    return nn.Sequential(nn.Sequential(plain), head)


def with_temperature(model: nn.Sequential, temperature: float) -> nn.Sequential:
    """A copy of body and head whose logits are divided by the temperature, by its last layer."""
    if temperature == 1:
        return model
    model = copy.deepcopy(model)
    *_, weight, bias = model.parameters()
    with torch.no_grad():
        weight.div_(temperature)
        bias.div_(temperature)
    return model


def _first_only(items: Any) -> tuple[list[int], list[int]]:
    return [0], [0]
