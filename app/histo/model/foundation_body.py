"""Foundation models as bodies: built by timm, their published tensors under timm's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from histo.errors import HistoError
from histo.model.foundation import FOUNDATIONS, HUB, SIDE, Foundation
from histo.model.weights import read_weights

PREFIXES = ("module.", "backbone.", "teacher.backbone.", "model.", "0.")
EMBED = "patch_embed.proj.weight"
"""From the px of a transformer's own patch to its token."""
FILES = ("model.safetensors", "pytorch_model.bin")
"""Of a repository on the hub, in the order in which they are looked for."""


class _ClassAndMean(nn.Module):
    """Tokens [B, T, D] to the class token and the mean of the patch tokens, [B, 2 D]."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.before = before

    def forward(self, tokens: Tensor) -> Tensor:
        """The first token is the class; registers, which lie before the patches, are left out."""
        return torch.cat([tokens[:, 0], tokens[:, self.before :].mean(1)], 1)


def make_foundation(arch: str, depth: int | None = None) -> nn.Module:
    """A foundation model by name, with random weights: normalised [B, 3, S, S] to features [B, F].

    S is 224, or another multiple of its patches' side. `depth` gives it fewer blocks than it has.
    """
    import timm

    known = FOUNDATIONS[arch]
    args: dict[str, Any] = {**known.args, "num_classes": 0, "img_size": SIDE}
    if known.swiglu:
        args |= {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU}
    if known.stem:
        args |= {"strict_img_size": False}
    else:
        args |= {"dynamic_img_size": True} | ({"depth": depth} if depth else {})
    if known.mean_of_tokens:
        args["global_pool"] = ""
    model: nn.Module = timm.create_model(known.timm, **args)
    if known.stem:
        _add_stem(model)
    body = _with_mean(model) if known.mean_of_tokens else model
    mean, std = known.stats
    # plain values, so that a pickled learner needs no histo
    body.pretrained_cfg = {"mean": mean, "std": std}  # type: ignore[assignment]
    body.foundation = arch  # type: ignore[assignment]
    return body


def _with_mean(model: Any) -> nn.Module:
    """With the mean of the patch tokens: as a traced graph, which a pickle holds without this class."""
    pool = torch.fx.symbolic_trace(_ClassAndMean(model.num_prefix_tokens))
    for node in pool.graph.nodes:
        node.type = None  # torch 2.10 fails to pickle types that are kept as strings
    pool.recompile()
    return nn.Sequential(model, pool)


def _add_stem(model: Any) -> None:
    """CTransPath's stem in place of the one convolution of a Swin transformer."""
    width = model.patch_embed.proj.out_channels
    first, second = width // 8, width // 4
    model.patch_embed.proj = nn.Sequential(
        nn.Conv2d(3, first, 3, 2, 1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        nn.Conv2d(first, second, 3, 2, 1, bias=False),
        nn.BatchNorm2d(second),
        nn.ReLU(inplace=True),
        nn.Conv2d(second, width, 1),
    )


def foundation_of(body: nn.Module) -> str | None:
    """The name of the foundation model that a body is; None for any other."""
    found = getattr(body, "foundation", None)
    return found if isinstance(found, str) else None


def download(arch: str) -> dict[str, Tensor]:
    """The published tensors; HistoError where the hub refuses or cannot be reached."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it warns of each attempt
    known = FOUNDATIONS[arch]
    page, mine = HUB + known.repository, "give {weights} a file that you copied here"
    for name in FILES:
        try:
            return read_weights(Path(hf_hub_download(known.repository, name)))
        except (GatedRepoError, RepositoryNotFoundError):  # the hub hides what is gated
            raise HistoError(
                f"{page} refuses its weights: its owners grant access on request",
                "ask there, then log in to the hub: hf auth login",
                mine,
            ) from None
        except EntryNotFoundError as error:
            if "LocalEntry" in type(error).__name__:  # it says that no file was found
                raise _no_weights(page, "the hub cannot be reached", mine) from None
            if name == FILES[-1]:
                raise _no_weights(page, error, mine) from None
        except (OSError, ValueError) as error:
            raise _no_weights(page, error, mine) from None
    raise AssertionError("unreachable")


def _no_weights(page: str, error: Exception | str, mine: str) -> HistoError:
    why = (str(error).splitlines() or [""])[0][:100].strip() or type(error).__name__
    return HistoError(f"the weights of {page} could not be downloaded: {why}", mine)


def load_foundation(body: Any, given: Mapping[str, Tensor], source: str) -> tuple[list[str], int]:
    """Load published tensors, all of them; the names that were left over, and how many were loaded.

    They may be named as timm does, as DINOv2 or as transformers' Dinov2Model. Positions of another
    size are resampled, as the published code does. HistoError where a tensor is missing.
    """
    arch = body.foundation
    model = body[0] if FOUNDATIONS[arch].mean_of_tokens else body
    tensors = renamed(given, model, FOUNDATIONS[arch])
    own = model.state_dict()
    good = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
    lost = [name for name in own if name not in good and not name.endswith("num_batches_tracked")]
    if lost:
        raise HistoError(
            f"{source} is not of {arch}: {len(lost)} of its {len(own)} tensors are missing or of "
            f"another shape, {lost[0]} first",
            "give the {arch} that the weights are for",
        )
    model.load_state_dict(good, strict=False)
    return [name for name in tensors if name not in good], len(good)


def renamed(given: Mapping[str, Tensor], model: nn.Module, known: Foundation) -> dict[str, Tensor]:
    """Published tensors under the names of timm's model."""
    from timm.models import swin_transformer, vision_transformer

    state = _without_prefix(given)
    if "embeddings.cls_token" in state:
        state = _from_transformers(state)
    if known.stem:
        found = swin_transformer.checkpoint_filter_fn(state, model)
    else:
        if "register_tokens" in state:
            state.setdefault("mask_token", torch.empty(0))  # by which timm knows DINOv2's names
        if EMBED in state and state[EMBED].numel() != model.state_dict()[EMBED].numel():
            del state[EMBED]  # of patches of another side: timm would resample it
        found = vision_transformer.checkpoint_filter_fn(state, model, antialias=known.antialias)
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _without_prefix(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    marks = ("cls_token", "embeddings.cls_token", "patch_embed.proj.0.weight")
    for prefix in ("", *PREFIXES):
        if any(prefix + mark in given for mark in marks):
            return {k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)}
    return dict(given)


NAMES = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
"""Names of transformers' Dinov2Model, and DINOv2's or timm's in their place."""


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Under DINOv2's names, with queries, keys and values in one tensor."""
    found, parts = dict[str, Tensor](), dict[str, dict[str, Tensor]]()
    for name, value in state.items():
        if match := re.match(r"encoder\.layer\.(\d+)\.attention\.attention\.(\w+)\.(\w+)", name):
            number, part, kind = match.groups()
            parts.setdefault(f"blocks.{number}.attn.qkv.{kind}", {})[part] = value
            continue
        for theirs, ours in NAMES:
            name = re.sub(theirs, ours, name)  # noqa: PLW2901  (one after the other)
        found[name] = value
    for name, three in parts.items():
        if len(three) == 3:
            found[name] = torch.cat([three["query"], three["key"], three["value"]])
    return found
