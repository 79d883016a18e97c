"""The head: from a body's features to logits, and the parameter groups of body and head."""

from __future__ import annotations

from torch import nn

from histo.config import HEAD_DROPOUT


def make_head(features: int, units: int, classes: int) -> nn.Sequential:
    """A new head: features [B, F] to logits [B, C].

    Layer norm, one hidden layer, dropout: of the heads tried the best on real patches, and far
    better than one with batch norm (benchmarks/README.md). With no units it is the last layer alone,
    as a probe has it.
    """
    if not units:
        return nn.Sequential(nn.Linear(features, classes))
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
