"""Temperature scaling of probabilities: one number makes a classifier as sure as it should be."""

from __future__ import annotations

from typing import Any


def apply_temperature(probabilities: Any, temperature: float) -> Any:
    """Probabilities [N, C] as if the logits had been divided by the temperature.

    Guo et al., 2017, arXiv:1706.04599. Above 1 they move towards 1/C, below 1 away from it; which
    class has the largest never changes.
    """
    import numpy as np

    if temperature == 1:
        return probabilities
    logits = np.log(np.clip(probabilities, 1e-38, 1)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
