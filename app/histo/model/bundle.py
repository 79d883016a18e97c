"""The bundle: a trained model as data, safe to load anywhere, and fastai's own learner beside it."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from histo.config import ModelCard
from histo.errors import HistoError
from histo.files.digests import sha256
from histo.files.writing import write_json, written
from histo.model.card import (
    CARD,
    FILES,
    FORMAT,
    LEARNER,
    ONNX,
    SEAL,
    TRAINED,
    WEIGHTS,
    Onnx,
    check_files,
    member,
    read_card,
    read_verified,
    seal_of,
    short_digests,
)
from histo.model.checkpoint import on_cpu
from histo.model.network import make_model, shapes_of
from histo.model.onnx import OnnxModel
from histo.model.weights import check_shapes
from histo.pixels import d4

OPSET = 18


def write_bundle(
    folder: Path,
    model: nn.Module,
    card: ModelCard,
    facts: dict[str, Any],
    trained_on: Sequence[str] = (),
    pickled: bool = True,
) -> bool:
    """Write weights, learner, ONNX model and, last, the card that vouches for them by SHA-256.

    `trained_on` are the SHA-1s of the patches behind the model, to tell later who is new to it;
    `pickled=False` leaves fastai's learner out.
    Returns whether there is an ONNX model: a few architectures cannot be converted. Several models
    that are averaged have no fastai learner: it would need histo to load.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with written(folder / WEIGHTS) as file:
        file.write(save(on_cpu(model.state_dict())))
    if pickled and isinstance(model, nn.Sequential):
        write_learner(folder / LEARNER, model, card)
    else:
        (folder / LEARNER).unlink(missing_ok=True)
    onnx = write_onnx(folder / ONNX, model, card)
    if onnx is None:
        (folder / ONNX).unlink(missing_ok=True)
    with written(folder / TRAINED) as file:
        np.save(file, np.sort(short_digests(trained_on)))
    there = [name for name in FILES if (folder / name).is_file()]
    all_facts = {
        "format": FORMAT,
        **card.as_dict(),
        "channel_order": "RGB",
        "versions": {p: version(p) for p in ("histo", "fastai", "torch", "torchvision")},
        **facts,
        **({"onnx": asdict(onnx)} if onnx else {}),
        "files": {name: sha256(folder / name) for name in there},
        "bytes": {name: (folder / name).stat().st_size for name in there},
    }
    write_json(folder / CARD, {**all_facts, SEAL: seal_of(all_facts)})
    return onnx is not None


class PixelsToProbabilities(nn.Module):
    """From pixels to probabilities, as model.onnx has it: uint8 [N, S, S, 3] to float32 [N, C]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", 255 * torch.tensor(card.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(card.std).view(1, 3, 1, 1))

    def forward(self, patches: Tensor) -> Tensor:
        """Normalise, run, softmax."""
        pixels = patches.permute(0, 3, 1, 2).float()
        return torch.softmax(self.model((pixels - self.mean) / self.std), dim=1)


def write_onnx(path: Path, model: nn.Module, card: ModelCard) -> Onnx | None:
    """Write model.onnx, checked against the model itself; None where torch cannot convert it."""
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
                node.metadata_props.clear()  # stack traces, with paths of this machine
            with tempfile.TemporaryDirectory() as folder:
                program.save(str(Path(folder, ONNX)))
                data = Path(folder, ONNX).read_bytes()
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError, ValueError):
        return None
    name = Onnx(OPSET)
    theirs = OnnxModel(card, data, name).predict(patches.numpy())
    with torch.inference_mode():
        ours = whole(patches).numpy()
    if np.abs(ours - theirs).max() > 1e-5:
        return None
    with written(path) as file:
        file.write(data)
    return name


def write_learner(path: Path, model: nn.Sequential, card: ModelCard) -> None:
    """Pickle a plain fastai learner: `load_learner(path).predict("patch.tif")` needs no histo.

    All it holds is torch's, torchvision's (or timm's) and fastai's. It reads 8-bit images.
    """
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


def _first_only(items: Any) -> tuple[list[int], list[int]]:
    return [0], [0]


class Bundle:
    """A loaded model: `predict` takes whole decoded patches to probabilities."""

    def __init__(self, card: ModelCard, model: nn.Module, device: torch.device) -> None:
        self.card, self.device = card, device
        self.model = PixelsToProbabilities(model, card).eval().to(device)
        self.model = self.model.to(memory_format=torch.channels_last)

    @property
    def engine(self) -> str:
        """What computes, whichever of a machine's GPUs it is."""
        return f"PyTorch, {self.device.type}"

    @classmethod
    def open(cls, folder: Path, device: torch.device) -> Bundle:
        """Load a bundle once its files are those of its card, and its weights fit the model.

        No pickle is read, and nothing is made room for before that.
        """
        card, facts = read_card(folder)
        check_files(folder, facts)
        check_shapes(member(folder, WEIGHTS), shapes_of(card))
        data = read_verified(folder, WEIGHTS, facts)
        model = make_model(card)
        try:
            model.load_state_dict(load(data))
        except (SafetensorError, RuntimeError):
            raise HistoError(f"{folder / WEIGHTS} does not fit the model of its card") from None
        return cls(card, model, device)

    def predict(self, patches: NDArray[np.uint8], tta: bool = False) -> NDArray[np.float32]:
        """Probabilities float32 [B, C] of uint8 RGB patches [B, S, S, 3].

        `tta` averages the probabilities of the eight D4 views.
        """
        batch = torch.from_numpy(patches)
        if self.device.type == "cuda":
            batch = batch.pin_memory()
        batch = batch.to(self.device, non_blocking=True)
        views = range(d4.VIEWS if tta else 1)
        with torch.inference_mode():
            total = sum(self.model(d4.view(batch, k)) for k in views)
        return np.asarray((total / len(views)).cpu().numpy())


def open_pickle(
    path: Path, device: torch.device
) -> tuple[list[str], Callable[[list[Path]], NDArray[np.float32]]]:
    """Vocab and predictor of a pickled fastai learner. Loading runs whatever the file says."""
    from fastai.learner import load_learner

    try:
        learn = load_learner(path, cpu=device.type == "cpu")
    except FileNotFoundError:
        raise HistoError(f"no file {path}") from None
    except Exception as error:  # a pickle can raise anything
        raise HistoError(f"{path} is not a fastai learner ({type(error).__name__})") from None

    def predict(files: list[Path]) -> NDArray[np.float32]:
        with learn.no_bar():
            probabilities, _ = learn.get_preds(dl=learn.dls.test_dl(files, num_workers=0))
        return np.asarray(probabilities)

    return [str(name) for name in learn.dls.vocab], predict
