"""The bundle: a trained model as data, safe to load anywhere, and fastai's own learner beside it."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable
from dataclasses import fields
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

from histo import d4
from histo.config import ModelCard
from histo.errors import HistoError
from histo.model.body import features_of, make_body
from histo.model.learner import make_head, predict_probabilities, state_on_cpu
from histo.run import read_json, write_json, written

FORMAT = 1
WEIGHTS = "model.safetensors"
CARD = "model.json"
LEARNER = "learner.pkl"


def make_model(card: ModelCard) -> nn.Sequential:
    """The architecture of a card, untrained: normalised [B, 3, S, S] to logits [B, C]."""
    body = make_body(card.arch)
    features = features_of(body, card.patch_size, card.arch)
    head = make_head(features, card.head, len(card.vocab))
    return nn.Sequential(nn.Sequential(body), head)  # as vision_learner nests them


def write_bundle(
    folder: Path, model: nn.Sequential, card: ModelCard, facts: dict[str, Any]
) -> None:
    """Write weights, learner and, last, the card that vouches for both by SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    with written(folder / WEIGHTS) as file:
        file.write(save(state_on_cpu(model)))
    write_learner(folder / LEARNER, model, card)
    write_json(
        folder / CARD,
        {
            "format": FORMAT,
            **card.as_dict(),
            "channel_order": "RGB",
            "versions": {p: version(p) for p in ("histo", "fastai", "torch", "torchvision")},
            **facts,
            "files": {name: sha256(folder / name) for name in (WEIGHTS, LEARNER)},
        },
    )


def sha256(path: Path) -> str:
    """SHA-256 of a file in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


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
        self.model = model.eval().to(device).to(memory_format=torch.channels_last)
        self._mean = torch.tensor(card.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(card.std, device=device).view(1, 3, 1, 1)

    @classmethod
    def open(cls, folder: Path, device: torch.device) -> Bundle:
        """Load a bundle after checking its format and SHA-256; no pickle is read."""
        card, facts = read_card(folder)
        try:
            data = (folder / WEIGHTS).read_bytes()
        except OSError:
            raise HistoError(f"{folder} has no readable {WEIGHTS}") from None
        if hashlib.sha256(data).hexdigest() != facts["files"].get(WEIGHTS):
            raise HistoError(f"{folder / WEIGHTS} is not the file its card vouches for (SHA-256)")
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
        batch = torch.from_numpy(patches).to(self.device)
        views = range(d4.VIEWS if tta else 1)
        total = sum(self._one_view(d4.view(batch, k)) for k in views)
        return np.asarray((total / len(views)).cpu().numpy())  # type: ignore[union-attr]

    def _one_view(self, batch: Tensor) -> Tensor:
        pixels = batch.permute(0, 3, 1, 2).float().div_(255)
        return predict_probabilities(self.model, (pixels - self._mean) / self._std)


def read_card(folder: Path) -> tuple[ModelCard, dict[str, Any]]:
    """The card of a bundle and all its facts; HistoError where it is none or of a later format."""
    if not folder.is_dir():
        raise HistoError(f"no bundle {folder}")
    path = folder / CARD
    facts = read_json(path)
    if not isinstance(facts, dict) or not isinstance(facts.get("files"), dict):
        raise HistoError(f"{path} is not the card of a bundle (histo export RUN writes one)")
    if facts.get("format") != FORMAT:
        raise HistoError(
            f"{path} is of format {facts.get('format')!r}; this histo reads {FORMAT} (update histo)"
        )
    return parse_card(facts, path), facts


def parse_card(facts: dict[str, Any], path: Path) -> ModelCard:
    """The model's part of a card, its types and bounds checked."""
    try:
        card = ModelCard(**{f.name: facts[f.name] for f in fields(ModelCard)})
        sides = [card.patch_size, card.head, *(x for x in (card.crop, card.size) if x is not None)]
        good = (
            bool(re.fullmatch(r"[\w.\-/]{1,100}", card.arch))
            and len(card.vocab) == len(set(card.vocab)) >= 2
            and all(isinstance(name, str) for name in card.vocab)
            and all(type(side) is int and 1 <= side <= 8192 for side in sides)
            and all(
                len(x) == 3 and all(isinstance(v, float) for v in x) for x in (card.mean, card.std)
            )
            and min(card.std) > 0
        )
    except (KeyError, TypeError):
        good = False
    if not good:
        raise HistoError(f"{path} is damaged: a value is missing or out of bounds")
    return card


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
