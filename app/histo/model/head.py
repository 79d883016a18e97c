"""The head: from a body's features to logits, and the parameter groups of body and head."""

from __future__ import annotations

from torch import nn

from histo.config import HEAD_DROPOUT

START = 0.01
"""What the initial weights of a linear head are multiplied with."""


def make_head(features: int, units: int, classes: int) -> nn.Sequential:
    """A new head: features [B, F] to logits [B, C].

    Layer norm, one hidden layer, dropout: of the heads tried the best on real patches, and far
    better than one with batch norm (benchmarks/README.md). With no units it is the last layer alone,
    which starts near zero: its first steps leave the body as it is.
    """
    if not units:
        last = nn.Linear(features, classes)
        last.weight.data *= START
        return nn.Sequential(last)
    return nn.Sequential(
        nn.LayerNorm(features),
        nn.Linear(features, units),
        nn.ReLU(),
        nn.Dropout(HEAD_DROPOUT),
        nn.Linear(units, classes),
    )


def parameter_groups(model: nn.Sequential) -> list[list[nn.Parameter]]:
    """First half of the body by depth, second half, head: fastai's layer groups."""
    body = list(model[0].parameters())
    half = len(body) // 2
    return [body[:half], body[half:], list(model[1].parameters())]
