"""The network of a card, and the shapes of its tensors before it is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from histo.config import ModelCard
from histo.model.body import features_of, make_body
from histo.model.head import make_head
from histo.model.levels import Levels
from histo.pixels.normalise import Normalise

Shapes = dict[str, tuple[int, ...]]


class Mean(nn.Module):
    """Several models whose probabilities are averaged: [B, 3, S, S] to the log of the mean."""

    def __init__(self, models: Iterable[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, batch: Tensor) -> Tensor:
        """Logits [B, C] whose softmax is the mean of the models' softmaxes."""
        each = torch.stack([torch.log_softmax(model(batch), 1) for model in self.models])
        return torch.logsumexp(each, 0)


def make_model(card: ModelCard) -> nn.Module:
    """The network of a card, untrained: normalised [B, 3, S, S] to logits [B, C]."""
    return Mean(make_one(card) for _ in range(card.models)) if card.models > 1 else make_one(card)


def make_one(card: ModelCard) -> nn.Sequential:
    """One model of a card: body and head."""
    body = make_body(card.arch)
    body = Levels(body, card.levels) if card.levels else body
    features = features_of(body, card.patch_size, card.arch)
    head = make_head(features, card.head, len(card.vocab))
    return nn.Sequential(nn.Sequential(body), head)  # as vision_learner nests them


class PixelsToProbabilities(nn.Module):
    """From pixels to probabilities, as in model.onnx: uint8 [N, S, S, 3] to float32 [N, C].

    The card's temperature is in it, except in bundles of format 1.
    """

    def __init__(self, model: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.model, self.normalise = model, Normalise(card.mean, card.std)
        self.temperature = card.built_in_temperature

    def forward(self, patches: Tensor) -> Tensor:
        """Normalise, run, divide by the temperature, softmax."""
        logits = self.model(self.normalise(patches).permute(0, 3, 1, 2))
        if logits.dtype != torch.float32:  # under autocast: eight bits are too few for a softmax
            logits = logits.float()
        if self.temperature != 1:
            logits = logits / self.temperature
        return torch.softmax(logits, dim=1)


class _RealNumbers(TorchFunctionMode):
    """torchvision's RegNets compute their widths with small tensors: those get real memory."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a torch function; `arange` and `tensor` on the CPU."""
        real = {"device": "cpu"} if func in (torch.arange, torch.tensor) else {}
        return func(*args, **{**real, **(kwargs or {})})


def shapes_of(card: ModelCard) -> Shapes:
    """The tensors of a card's model by name, without allocating memory for them."""
    for numbers in (nullcontext(), _RealNumbers()):
        try:
            with torch.device("meta"), numbers:
                state = make_one(card).state_dict()
        except NotImplementedError:  # code that needs the value of a tensor without one
            continue
        parts = [f"models.{i}." for i in range(card.models)] if card.models > 1 else [""]
        return {f"{part}{name}": tuple(t.shape) for part in parts for name, t in state.items()}
    raise AssertionError(f"{card.arch} cannot be made without memory")
