"""Bodies: torchvision or timm classifiers without their last layer, and their initial weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from histo.errors import HistoError
from histo.model.architectures import check_arch, torchvision_classifiers
from histo.model.foundation import FOUNDATIONS
from histo.model.foundation_body import (
    download,
    foundation_of,
    load_foundation,
    make_foundation,
)
from histo.model.weights import read_weights

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]


def make_body(arch: str, imagenet: bool = False) -> nn.Module:
    """A body: normalised patches [B, 3, S, S] to features [B, F].

    The whole published model, pooling included, without its last layer; so every torchvision
    classifier works as its authors wrote it, whatever its structure.
    `imagenet` fetches the weights torchvision or timm publish. Raises HistoError for an unknown
    name (with similar ones) and for a download that fails (with both ways out).
    """
    check_arch(arch)
    if arch in FOUNDATIONS:
        body = make_foundation(arch)
        if imagenet:
            load_foundation(body, download(arch), FOUNDATIONS[arch].repository)
        return body
    try:
        if arch in torchvision_classifiers():
            aux = {"aux_logits": False} if arch in ("googlenet", "inception_v3") else {}
            if aux:
                aux["init_weights"] = not imagenet
            if imagenet and aux:
                aux = {}  # torchvision adds and removes the auxiliary heads itself
            model = torchvision.models.get_model(
                arch, weights="DEFAULT" if imagenet else None, **aux
            )
            if hasattr(model, "aux_logits"):
                model.aux_logits = False
            if hasattr(model, "AuxLogits"):  # Inception keeps its own with published weights
                model.AuxLogits = None
            return _without_classes(model)
        import timm

        return _as_module(timm.create_model(arch, pretrained=imagenet, num_classes=0))
    except (OSError, RuntimeError) as error:
        if not imagenet:
            raise
        raise HistoError(
            f"the ImageNet weights of {arch} could not be downloaded: {_short(error)}",
            "give {weights} a .safetensors or .pth file that you copied here",
            "{weights} none starts from random weights",
        ) from None


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]


def _as_module(model: Any) -> nn.Module:
    assert isinstance(model, nn.Module)
    return model


def _without_classes(model: Any) -> nn.Module:
    """Remove the last linear layer of a torchvision model (in SqueezeNet a convolution)."""
    if isinstance(model, torchvision.models.SqueezeNet):
        model.classifier = nn.AdaptiveAvgPool2d(1)
        return _as_module(model)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    model.set_submodule(linears[-1], nn.Identity())
    return _as_module(model)


def watch(
    body: nn.Module,
    side: int,
    modules: Iterable[tuple[str, nn.Module]],
    note: Callable[[str, Tensor], None],
) -> Tensor:
    """The features of a black patch of `side` px; `note` gets name and output of modules as they come."""

    def heard(name: str, _module: nn.Module, _given: object, output: object) -> None:
        if isinstance(output, Tensor):
            note(name, output)

    hooks = [module.register_forward_hook(partial(heard, name)) for name, module in modules]
    was_training = body.training
    try:
        with torch.no_grad():
            device = next(body.parameters()).device
            features: Tensor = body.eval()(torch.zeros(1, 3, side, side, device=device))
    finally:
        body.train(was_training)
        for hook in hooks:
            hook.remove()
    return features


def features_of(body: nn.Module, side: int, arch: str) -> int:
    """The number of features for patches of `side` px; HistoError if the body cannot take them."""
    was_training = body.training
    try:
        with torch.no_grad():
            return int(body.eval()(torch.zeros(1, 3, side, side)).shape[1])
    except (RuntimeError, AssertionError, ValueError) as error:
        raise HistoError(
            f"{arch} does not take patches of {side}x{side} px: {_short(error)}",
            "resize them with {size}, 224 px for most architectures",
        ) from None
    finally:
        body.train(was_training)


def normalisation(body: nn.Module) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of RGB in 0..1 that the body's published weights expect."""
    published = getattr(body, "pretrained_cfg", None) or {}
    return (
        [float(x) for x in published.get("mean", IMAGENET_MEAN)],
        [float(x) for x in published.get("std", IMAGENET_STD)],
    )


def licence_of(arch: str) -> str | None:
    """The licence of an architecture's published weights; None where its library does not say."""
    if arch in FOUNDATIONS:
        return FOUNDATIONS[arch].licence
    if arch in torchvision_classifiers():
        found = torchvision.models.get_model_weights(arch)["DEFAULT"].meta.get("license")
    else:
        import timm

        found = getattr(timm.get_pretrained_cfg(arch), "license", None)
    return found if isinstance(found, str) else None


@dataclass(frozen=True)
class Loaded:
    """The result of loading a weights file: names of the tensors matched, new and left over."""

    matched: list[str]
    new: list[str]
    left_over: list[str]

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} tensors matched, {len(self.new)} new{_some(self.new)}, "
            f"{len(self.left_over)} left over{_some(self.left_over)}"
        )


def _some(names: list[str]) -> str:
    return f" ({', '.join(names[:2])}{', …' if len(names) > 2 else ''})" if names else ""


def load_weights(body: nn.Module, path: Path) -> Loaded:
    """Load the tensors of a state dict that fit the body, by name, else by order.

    Names are torchvision's or timm's, with or without a prefix such as `module.`. If no name
    fits, the tensors of a .pth are matched in order, if all shapes agree (a timm file for a
    torchvision arch, or a model saved by fastai). HistoError if no tensor fits.
    """
    given = read_weights(path)
    if foundation_of(body):
        left_over, count = load_foundation(body, given, str(path))
        return Loaded([*body.state_dict()][:count], [], left_over)
    own = body.state_dict()
    fits: dict[str, str] = {}
    for prefix in ("", "module.", "model.", "backbone.", "encoder.", "0.", "0.0.", "module.model."):
        pairs = {
            name: prefix + name
            for name, value in own.items()
            if prefix + name in given and given[prefix + name].shape == value.shape
        }
        if len(pairs) > len(fits):
            fits = pairs
    if not fits and path.suffix != ".safetensors":  # safetensors sorts its tensors by name
        fits = _by_order(own, given)
    if not fits:
        raise HistoError(
            f"{path}: none of its {len(given)} tensors fits this architecture",
            "give the {arch} that the weights are for",
        )
    body.load_state_dict({name: given[source] for name, source in fits.items()}, strict=False)
    used = set(fits.values())
    return Loaded(
        sorted(fits), sorted(set(own) - set(fits)), [name for name in given if name not in used]
    )


def _by_order(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, str]:
    """Pairs of names if all shapes agree in order; further tensors in the file are its head."""

    def real(tensors: Mapping[str, Tensor]) -> list[str]:
        return [name for name in tensors if not name.endswith("num_batches_tracked")]

    ours, theirs = real(own), real(given)
    if len(theirs) < len(ours):
        return {}
    pairs = dict(zip(ours, theirs, strict=False))
    return pairs if all(own[a].shape == given[b].shape for a, b in pairs.items()) else {}
