"""The model for QuPath's WSInfer extension: TorchScript, and config.json by WSInfer's schema.

https://github.com/SBU-BMI/wsinfer-zoo (model-config.schema.json), read by
https://github.com/qupath/qupath-extension-wsinfer from its user folder.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from histo.config import ModelCard
from histo.errors import HistoError
from histo.files.writing import write_json, write_text, written
from histo.model.predictor import Predictor

SPEC = "1.0"
"""Version of WSInfer's model schema."""
TORCHSCRIPT = "torchscript_model.pt"
CONFIG = "config.json"
README = "README.md"
FILES = (TORCHSCRIPT, CONFIG, README)
EQUAL = 1e-5
"""Largest difference between a probability in QuPath and the bundle's."""


class ToLogits(nn.Module):
    """Normalised float patches [N, 3, S, S] to logits [N, C] whose softmax has the temperature."""

    def __init__(self, model: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.model, self.temperature = model, card.temperature

    def forward(self, patches: Tensor) -> Tensor:
        """Run, divide by the temperature; of folds the logits are the log of the mean."""
        logits: Tensor = self.model(patches)
        return logits / self.temperature


def config_of(card: ModelCard) -> dict[str, Any]:
    """config.json: patches of the model's size, scaled and normalised."""
    return {
        "spec_version": SPEC,
        "architecture": card.arch,
        "num_classes": len(card.vocab),
        "patch_size_pixels": card.patch_size,
        "spacing_um_px": card.mpp,
        "class_names": list(card.vocab),
        "transform": [
            # QuPath rounds a patch to whole px of the slide: this makes it the model's size again
            {"name": "Resize", "arguments": {"size": card.patch_size}},
            {"name": "ToTensor"},
            {"name": "Normalize", "arguments": {"mean": card.mean, "std": card.std}},
        ],
    }


def write_qupath(folder: Path, model: nn.Module, predictor: Predictor) -> None:
    """Write the model folder for QuPath, checked against the bundle that `predictor` opened.

    The folder's name is what QuPath shows. HistoError where TorchScript does not give the bundle's
    probabilities.
    """
    card = predictor.card
    data = traced(model, card)
    check_equal(data, predictor)
    folder.mkdir(parents=True, exist_ok=True)
    with written(folder / TORCHSCRIPT) as file:
        file.write(data)
    write_json(folder / CONFIG, config_of(card))
    write_text(folder / README, readme(card))


def traced(model: nn.Module, card: ModelCard) -> bytes:
    """The model as TorchScript, from normalised patches to logits."""
    whole = ToLogits(model, card).cpu().eval().to(memory_format=torch.contiguous_format)
    side = card.patch_size
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and is what QuPath reads
        try:
            script = torch.jit.trace(  # type: ignore[no-untyped-call]
                whole, torch.rand(2, 3, side, side), check_trace=False
            )
            file = io.BytesIO()
            torch.jit.save(script, file)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise HistoError(
                f"{card.arch} cannot be converted to TorchScript ({type(error).__name__})",
                "leave {qupath} out",
            ) from None
    return file.getvalue()


def check_equal(data: bytes, predictor: Predictor) -> None:
    """HistoError where the TorchScript model and the bundle differ, for one patch or several."""
    card, rng = predictor.card, np.random.default_rng(0)
    side = card.patch_size
    for count in (1, 5):
        patches = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        apart = float(
            np.abs(as_qupath_does(data, card, patches) - bundled(predictor, patches)).max()
        )
        if not apart <= EQUAL:
            raise HistoError(
                f"the TorchScript model of {card.arch} differs from the bundle by {apart:.2g}",
                "leave {qupath} out",
            )


def bundled(predictor: Predictor, patches: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The probabilities of the bundle, float64 [N, C]."""
    return predictor.predict(patches).probabilities


def as_qupath_does(data: bytes, card: ModelCard, patches: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Probabilities [N, C] of patches uint8 [N, S, S, 3] as the extension computes them."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        script = torch.jit.load(  # type: ignore[no-untyped-call]
            io.BytesIO(data), map_location="cpu"
        )
        tensors = torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (card.mean, card.std))
        found = torch.softmax(script((tensors - mean) / std), 1)
    return np.asarray(found.numpy(), np.float64)


def readme(card: ModelCard) -> str:
    """README.md of the folder: what the model is, and what differs from histo."""
    lines = [
        f"# {card.arch}, {len(card.vocab)} classes",
        "",
        f"Classes: {', '.join(card.vocab)}. Patches of {card.patch_size} x {card.patch_size} px at "
        f"{card.mpp:g} µm per px. The probabilities have histo's temperature ({card.temperature:.3f}).",
        "",
        "QuPath calls the most probable class."
        + (
            f" histo calls {card.vocab[card.positive_index]} from a probability of "
            f"{card.threshold:.4f} on."
            if len(card.vocab) == 2 and card.threshold != 0.5
            else ""
        ),
        "",
        "To use it: copy this folder into the folder `user` of the model directory that QuPath's "
        "WSInfer extension shows under its settings. For research only, not a medical device.",
        "",
    ]
    return "\n".join(lines)
