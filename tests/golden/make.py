"""Make the golden bundle of a format anew, in a folder that is not there yet.

    python tests/golden/make.py tests/golden/bundle-2

histo itself writes it. The weights are of three values only, most of them zero, so that git packs
a megabyte and a half into little; the patches are synthetic. Never make one over: a bundle of an
older histo has to load as it is.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from histo.config import ModelCard
from histo.data.decode import read_patch
from histo.data.synth import write_dataset
from histo.model.bundle import TrainedOn, write_bundle
from histo.model.network import make_model
from histo.model.predictor import open_bundle
from histo.run.predictions import write_predictions
from histo.screen import Screen

SIDE = 48
CARD = ModelCard(
    "shufflenet_v2_x0_5",
    ["normal", "tumour"],
    SIDE,
    None,
    None,
    [0.7, 0.55, 0.7],
    [0.24, 0.28, 0.22],
    head=8,
    temperature=1.25,
    threshold=0.4,
    positive="tumour",
    wanted={"sensitivity": 0.9},
)


def few_values(model: nn.Module, pixels: torch.Tensor) -> None:
    """Make each matrix one of -s, 0 and s, nine of ten zero, and fit the batch norms to it."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            there = (torch.rand_like(parameter) < max(0.1, 4 / parameter[0].numel())).float()
            scale = 2.0 ** round(math.log2(4.5 / parameter[0].numel() ** 0.5))
            parameter.data = torch.sign(parameter) * there * scale
    list(model.parameters())[-2].data /= 4  # the last layer: answers that are not all of one mind
    model.train()
    with torch.no_grad():
        for _ in range(40):
            model(pixels)
    model.eval()


def main(folder: Path) -> None:
    """Bundle, four patches and what the bundle makes of them."""
    folder.mkdir()
    torch.manual_seed(1)
    write_dataset(folder / "made", 64, 5, Screen(quiet=True), side=SIDE)
    paths = sorted((folder / "made" / "train").iterdir())
    patches = np.stack([read_patch(path) for path in paths])
    mean, std = (255 * torch.tensor(x).view(1, 3, 1, 1) for x in (CARD.mean, CARD.std))
    model = make_model(CARD)
    few_values(model, (torch.from_numpy(patches).permute(0, 3, 1, 2) - mean) / std)
    write_bundle(folder, model, CARD, {}, TrainedOn(["0123456789abcdef" + 24 * "0"]), pickled=False)
    (folder / "patches").mkdir()
    for name, patch in zip("abcd", patches, strict=False):
        Image.fromarray(patch).save(folder / "patches" / f"{name}.png")
    for path in sorted((folder / "made").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / "made").rmdir()
    found = open_bundle(folder, "cpu").probabilities(patches[:4])
    labels = [CARD.vocab[c] for c in found.argmax(1)]
    write_predictions(folder / "predictions.csv", list("abcd"), labels, found, CARD.vocab)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
