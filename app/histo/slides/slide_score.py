"""A slide's score from its tiles, and the choice of how it is made and what it is called from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.errors import HistoError
from histo.files.writing import read_json, write_json
from histo.slides.heat import SCORED, slide_score

FORMAT = 1
DEFAULT = "top10"
POOLINGS: Mapping[str, str] = {
    DEFAULT: "the mean of its ten highest tiles",
    "max": "its highest tile",
    "top100": "the mean of its hundred highest tiles",
    "top1%": "the mean of the highest hundredth of its tiles",
    "mean": "the mean of its tiles",
    "share": "the share of its tiles that are called positive",
}
"""The ways to make a slide's score; of equally good ones the first is taken."""
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class ScoreRule:
    """How a slide's score is made, from which score on a slide is positive, and where that is from."""

    pooling: str = DEFAULT
    threshold: float | None = None
    bundle: str = ""
    """the fingerprint of the bundle that it was chosen for"""
    slides: Mapping[str, str] | None = None
    """the slides that it was chosen on, and what identifies the files of each"""
    aucs: Mapping[str, float] | None = None
    """the AUC over those slides by each way"""

    def score(self, tiles: Scores, called_from: float) -> float:
        """A slide's score from the probabilities of its tiles [N]; 0 where it has none."""
        return pooled(self.pooling, tiles, called_from)

    def write(self, path: Path) -> None:
        """Write it, for `read_rule`."""
        write_json(path, {"format": FORMAT, **vars(self)})

    def as_dict(self) -> dict[str, Any]:
        """As the figures keep it."""
        return {**vars(self), "slides": sorted(self.slides or {})}


def pooled(pooling: str, tiles: Scores, called_from: float) -> float:
    """One of POOLINGS of the probabilities of a slide's tiles."""
    if not len(tiles):
        return 0.0
    if pooling == "share":
        return float((tiles >= called_from).mean())
    highest = {"max": 1, "top100": 10 * SCORED, "top1%": -(-len(tiles) // 100), "mean": len(tiles)}
    if pooling not in highest:
        return slide_score(tiles)
    return float(np.sort(tiles)[-highest[pooling] :].mean())


def choose_rule(
    tiles: Sequence[Scores],
    positive: NDArray[np.bool_],
    called_from: float,
    bundle: str,
    slides: Mapping[str, str],
    auc: Callable[[NDArray[np.bool_], Scores], float | None],
) -> ScoreRule:
    """The pooling with the highest AUC over slides, and Youden's threshold (1950, Cancer 3:32) for it.

    `auc` computes that of scores. HistoError where the slides are all positive or all negative.
    """
    if positive.all() or not positive.any():
        raise HistoError(
            f"a slide's score is chosen on positive and negative slides: {positive.sum()} of "
            f"{len(positive)} are positive"
        )
    by_way = {way: np.array([pooled(way, one, called_from) for one in tiles]) for way in POOLINGS}
    aucs = {way: float(auc(positive, scores) or 0) for way, scores in by_way.items()}
    best = max(POOLINGS, key=lambda way: aucs[way])
    return ScoreRule(best, youden(by_way[best], positive), bundle, slides, aucs)


def youden(scores: Scores, positive: NDArray[np.bool_]) -> float:
    """The middle of the gap between scores that parts the classes best; of equal ones the widest."""
    levels = np.unique(scores)
    if len(levels) < 2:
        return float(levels[0])
    middles = (levels[1:] + levels[:-1]) / 2
    called = scores[None] >= middles[:, None]
    gain = called[:, positive].mean(1) - called[:, ~positive].mean(1)
    good = gain >= gain.max() - 1e-12
    return float(middles[np.argmax(np.where(good, np.diff(levels), -1))])


def read_rule(path: Path) -> ScoreRule:
    """What `write` wrote; HistoError for whatever is not that."""
    try:
        found = read_json(path)
        rule = ScoreRule(
            str(found["pooling"]),
            float(found["threshold"]),
            str(found["bundle"]),
            {str(name): str(each) for name, each in found["slides"].items()},
            {str(name): float(each) for name, each in found["aucs"].items()},
        )
        good = found["format"] == FORMAT and rule.pooling in POOLINGS
        good = good and math.isfinite(rule.threshold or 0)
    except (KeyError, TypeError, ValueError, AttributeError):
        good = False
    if not good:
        raise HistoError(f"{path} is not the score of slides that histo chose")
    return rule


def check_rule(rule: ScoreRule, path: Path, bundle: str, slides: Mapping[str, str]) -> None:
    """HistoError where a rule is for another bundle, or one of these slides helped to choose it."""
    if rule.bundle != bundle:
        raise HistoError(f"{path} was chosen for another model")
    chosen_on = set((rule.slides or {}).values())
    if same := [name for name, each in slides.items() if each in chosen_on]:
        raise HistoError(
            f"{same[0]} is one of the slides on which {path} was chosen: it cannot be judged by it"
        )
