"""What `train` and `features` ask of the body that is named, before torch is loaded."""

from __future__ import annotations

from pathlib import Path

from histo.errors import HistoError
from histo.model.architectures import check_arch
from histo.model.foundation import FOUNDATIONS, HUB, SIDE
from histo.screen import Screen


def check_model(arch: str, weights: str) -> None:
    """HistoError for an unknown architecture or missing weights file, found without torch."""
    check_arch(arch)
    if weights not in ("imagenet", "none") and not Path(weights).exists():
        raise HistoError(f"no weights file {weights}", "{weights} is imagenet, none or a file")


def size_for_foundation(arch: str, size: int | None, screen: Screen) -> int | None:
    """The size given, or that which a foundation model takes; its licence and access are said."""
    known = FOUNDATIONS.get(arch)
    if known is None:
        return size
    screen.say(
        f"{arch}: licence of its weights {known.licence}; access {known.access} "
        f"({HUB}{known.repository})"
    )
    return size or SIDE
