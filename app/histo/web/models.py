"""The bundles of the folder that is served: what their cards say, and the models at work."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from histo.errors import HistoError
from histo.model.card import CARD, read_card
from histo.model.predictor import Predictor, open_bundle
from histo.web.served import Served

OPEN = 4
"""Bundles in memory at once; that which was asked longest ago goes."""


@dataclass(frozen=True)
class BundleRow:
    """A bundle, or why it cannot be used."""

    name: str
    arch: str = ""
    classes: tuple[str, ...] = ()
    positive: str | None = None
    threshold: float | None = None
    patch_size: int | None = None
    mpp: float | None = None
    error: str = ""


class Models:
    """Predictors of the bundles in a folder, opened when they are first asked."""

    def __init__(self, served: Served, device: str = "auto", precision: str = "auto") -> None:
        self._served, self._device, self._precision = served, device, precision
        self._open: OrderedDict[tuple[Path, int, int], tuple[Predictor, str]] = OrderedDict()
        self._lock = threading.Lock()

    def rows(self) -> Iterator[BundleRow]:
        """Every bundle of the folder."""
        for name in self._served.bundles():
            try:
                card, _ = read_card(self._served.with_file(name, CARD))
            except HistoError:
                yield BundleRow(name, error="the card is damaged, or of a later histo")
                continue
            two = len(card.vocab) == 2
            yield BundleRow(
                name,
                card.arch,
                tuple(card.vocab),
                card.positive,
                card.threshold if two else None,
                card.patch_size,
                card.mpp,
            )

    def open(self, name: str) -> tuple[Predictor, str]:
        """The model of a bundle and its fingerprint; a bundle that has changed is opened again."""
        folder = self._served.with_file(name, CARD)
        kind = (folder / CARD).stat()
        key = (folder, kind.st_mtime_ns, kind.st_ino)
        with self._lock:
            if key not in self._open:
                predictor = open_bundle(folder, self._device, self._precision)
                self._open[key] = predictor, predictor.files.fingerprint()
            self._open.move_to_end(key)
            while len(self._open) > OPEN:
                self._open.popitem(last=False)
            return self._open[key]
