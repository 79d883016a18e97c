"""From patches to the features of a frozen body."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from histo.config import ModelCard
from histo.errors import HistoError
from histo.pixels.d4 import view
from histo.pixels.normalise import Normalise


def digest_of(body: nn.Module, card: ModelCard) -> str:
    """What a body's features depend on, as 12 hex digits: its weights, and how patches are prepared.

    Two bodies of one architecture with the same tensors give the same features.
    """
    found = hashlib.blake2b(digest_size=6)
    facts: tuple[object, ...] = (
        card.arch,
        card.crop,
        card.size,
        card.patch_size,
        card.mean,
        card.std,
    )
    facts += (card.levels,) if card.levels else ()
    found.update(repr(facts).encode())
    for name, value in sorted(body.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


class Extractor:
    """A frozen body on a device: patches uint8 [B, S, S, 3] to features float32 [B, V, F]."""

    def __init__(self, body: nn.Module, card: ModelCard, device: torch.device) -> None:
        self.device = device
        self.body = body.eval().to(device).to(memory_format=torch.channels_last)
        self.normalise = Normalise(card.mean, card.std).to(device)

    def __call__(
        self, patches: NDArray[np.uint8], views: Sequence[int] = (0,)
    ) -> NDArray[np.float32]:
        """The features of these D4 views (0 to 7) of each patch, in fp32; HistoError if any is NaN."""
        with torch.inference_mode():
            batch = self.normalise(torch.from_numpy(patches).to(self.device))
            each = [
                self.body(
                    view(batch, number)
                    .permute(0, 3, 1, 2)
                    .contiguous(memory_format=torch.channels_last)
                )
                for number in views
            ]
            found = torch.stack(each, 1).float()
            if not found.isfinite().all():
                raise HistoError("the features are not finite: the body's weights are damaged")
            return np.asarray(found.cpu().numpy())
