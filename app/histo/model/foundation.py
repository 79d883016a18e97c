"""Published foundation models of pathology: how each is built, prepared, pooled and licensed.

From their model cards and the public code that loads them (the cards' own, TRIDENT, STAMP, eva,
LazySlide). None of this needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

from histo.screen import Screen

HUB = "https://huggingface.co/"
SIDE = 224
"""Side in px of the patches that all of them were trained or published for."""
Access = Literal["gated", "open", "perhaps gated"]
"""Of the weights; the last where public sources differ."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BIOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
HIBOU = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
KAIKO_LICENCE = "Kaiko Non-Commercial Public License 1"
NO_COMMERCE = "CC-BY-NC-ND-4.0"


@dataclass(frozen=True)
class Foundation:
    """One model: features are its class token, or that and the mean of the patch tokens."""

    timm: str
    """the model of timm that it is"""
    repository: str
    """where its weights are, on the hub"""
    licence: str
    access: Access
    args: Mapping[str, Any] = field(default_factory=dict)
    """what it has other than timm's"""
    swiglu: bool = False
    """its blocks have gated linear units that timm's model of that name has not"""
    stats: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    """mean and standard deviation of RGB in 0..1"""
    mean_of_tokens: bool = False
    stem: bool = False
    """patches are embedded by three convolutions (CTransPath)"""
    antialias: bool = True
    """how its positions are resampled to another size"""


def _kaiko(timm: str, name: str = "") -> Foundation:
    name = f"1aurent/{name or timm}.kaiko_ai_towards_large_pathology_fms"
    return Foundation(timm, name, KAIKO_LICENCE, "open", stats=HALF)


_OPTIMUS: dict[str, Any] = {"args": {"init_values": 1e-5}, "stats": BIOPTIMUS}
FOUNDATIONS: Mapping[str, Foundation] = {
    "uni": Foundation(
        "vit_large_patch16_224", "MahmoodLab/UNI", NO_COMMERCE, "gated", {"init_values": 1e-5}
    ),
    "uni2-h": Foundation(
        "vit_giant_patch14_224",
        "MahmoodLab/UNI2-h",
        NO_COMMERCE,
        "gated",
        {
            **{"depth": 24, "num_heads": 24, "embed_dim": 1536, "mlp_ratio": 2.66667 * 2},
            **{"init_values": 1e-5, "no_embed_class": True, "reg_tokens": 8},
        },
        swiglu=True,
    ),
    "virchow2": Foundation(
        "vit_huge_patch14_224",
        "paige-ai/Virchow2",
        NO_COMMERCE,
        "gated",
        {"init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4},
        swiglu=True,
        mean_of_tokens=True,
    ),
    "h-optimus-0": Foundation(
        *("vit_giant_patch14_reg4_dinov2", "bioptimus/H-optimus-0", "Apache-2.0", "perhaps gated"),
        **_OPTIMUS,
    ),
    "h-optimus-1": Foundation(
        *("vit_giant_patch14_reg4_dinov2", "bioptimus/H-optimus-1", NO_COMMERCE, "gated"),
        **_OPTIMUS,
    ),
    "prov-gigapath": Foundation(
        "vit_giant_patch14_dinov2",
        "prov-gigapath/prov-gigapath",
        "Apache-2.0 with conditions of use: research only",
        "gated",
        {"patch_size": 16, "mlp_ratio": 5.33334},
    ),
    "hibou-b": Foundation(
        "vit_base_patch14_reg4_dinov2",
        "histai/hibou-b",
        "Apache-2.0",
        "gated",
        {"mlp_ratio": 5.33334},
        swiglu=True,
        stats=HIBOU,
    ),
    "hibou-l": Foundation(
        "vit_large_patch14_reg4_dinov2",
        "histai/hibou-L",
        "Apache-2.0",
        "gated",
        {"mlp_ratio": 5.34375},
        swiglu=True,
        stats=HIBOU,
    ),
    "phikon-v2": Foundation(
        "vit_large_patch16_224",
        "owkin/phikon-v2",
        "Owkin non-commercial licence",
        "open",
        {"init_values": 1e-5},
    ),
    "midnight": Foundation(
        "vit_giant_patch14_dinov2",
        "kaiko-ai/midnight",
        "MIT",
        "perhaps gated",
        stats=HALF,
        mean_of_tokens=True,
        antialias=False,
    ),
    "kaiko-vits16": _kaiko("vit_small_patch16_224"),
    "kaiko-vits8": _kaiko("vit_small_patch8_224"),
    "kaiko-vitb16": _kaiko("vit_base_patch16_224"),
    "kaiko-vitb8": _kaiko("vit_base_patch8_224"),
    "kaiko-vitl14": _kaiko("vit_large_patch14_reg4_dinov2", "vit_large_patch14_reg4_224"),
    "ctranspath": Foundation(
        "swin_tiny_patch4_window7_224",
        "1aurent/swin_tiny_patch4_window7_224.CTransPath",
        "GPL-3.0",
        "open",
        stem=True,
    ),
}
"""By the name that `arch` has."""


def hub_step(arch: str, imagenet: bool, screen: Screen) -> AbstractContextManager[None]:
    """Say that a foundation model's weights are being taken: a hub out of reach is tried for a minute."""
    if imagenet and arch in FOUNDATIONS:
        return screen.step("taking the weights from the hub, or from its cache here")
    return nullcontext()
