"""From probabilities to calls: temperature scaling, and the only place where a threshold is applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def call(probabilities: Any, threshold: float = 0.5, positive: int = 1) -> NDArray[np.int64]:
    """The class called for each patch, int64 [N], from probabilities [N, C].

    Two classes: the positive one where its probability is at or above the threshold, else the
    other. More classes: the most probable, whatever the threshold.
    """
    import numpy as np

    table = np.asarray(probabilities, np.float64)
    if table.shape[1] != 2:
        return np.asarray(table.argmax(1), np.int64)
    return np.where(table[:, positive] >= threshold, positive, 1 - positive).astype(np.int64)


def apply_temperature(probabilities: Any, temperature: float) -> Any:
    """Probabilities [N, C] as if the logits had been divided by the temperature.

    Guo et al., 2017, arXiv:1706.04599. A temperature above 1 moves them towards 1/C, one below 1
    away from it; the most probable class never changes.
    """
    import numpy as np

    if temperature == 1:
        return probabilities
    logits = np.log(np.clip(probabilities, 1e-38, 1)) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
