"""Predictions of uploaded patches, as `histo predict` makes them of files."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from histo.config import PREDICT_BATCH
from histo.data.decode import decode_patch, thumbnail_jpeg
from histo.data.inputs import plain_ids
from histo.errors import HistoError
from histo.model.predictor import Predictor
from histo.pixels.fit import Pixels
from histo.web.models import Models
from histo.web.queue import Late

Stop = Callable[[], bool]


@dataclass(frozen=True)
class Upload:
    """A file that was sent, and the name it came under."""

    name: str
    data: bytes


@dataclass(frozen=True)
class PatchPrediction:
    """What a bundle says about one patch, or why the patch cannot be used."""

    id: str
    predicted: str | None = None
    """the class called at the bundle's threshold"""
    probabilities: dict[str, float] = field(default_factory=dict)
    """of each class, with the nine digits of the table of `histo predict`"""
    error: str | None = None
    thumbnail: str | None = None
    """the patch as a JPEG, as a data URL, where it was asked for"""


@dataclass(frozen=True)
class Predicted:
    """The predictions of one request."""

    bundle: str
    fingerprint: str
    """of the bundle: SHA-256 of its card, which names the hashes of its other files"""
    engine: str
    classes: list[str]
    positive: str | None
    threshold: float | None
    """of two classes"""
    predictions: list[PatchPrediction]


def predict_uploads(
    models: Models, bundle: str, uploads: Sequence[Upload], tta: bool, thumbnails: bool, stop: Stop
) -> Predicted:
    """The predictions of all uploads, in batches of the size and order that `histo predict` uses."""
    predictor, fingerprint = models.open(bundle)
    ids = plain_ids([upload.name for upload in uploads])
    found: list[PatchPrediction] = []
    for start in range(0, len(uploads), PREDICT_BATCH):
        if stop():
            raise Late("the request took too long")
        part = slice(start, start + PREDICT_BATCH)
        found += predict_batch(predictor, ids[part], uploads[part], tta, thumbnails)
    card = predictor.card
    threshold = card.threshold if len(card.vocab) == 2 else None
    return Predicted(
        bundle, fingerprint, predictor.engine.name, card.vocab, card.positive, threshold, found
    )


def predict_batch(
    predictor: Predictor, ids: Sequence[str], uploads: Sequence[Upload], tta: bool, thumbnails: bool
) -> list[PatchPrediction]:
    """The predictions of one batch; files that cannot be used have their reason."""
    decoded = [decode(predictor, upload) for upload in uploads]
    patches = [each for each in decoded if not isinstance(each, HistoError)]
    if not patches:
        return [
            PatchPrediction(name, error=str(why)) for name, why in zip(ids, decoded, strict=True)
        ]
    calls = predictor.predict(np.stack(patches), tta)
    results = zip(predictor.names(calls), calls.probabilities.tolist(), strict=True)
    rows = []
    for name, each in zip(ids, decoded, strict=True):
        if isinstance(each, HistoError):
            rows.append(PatchPrediction(name, error=each.message))
            continue
        called, values = next(results)
        written = [float(f"{value:.9g}") for value in values]
        shown = data_url(each) if thumbnails else None
        rows.append(
            PatchPrediction(
                name, called, dict(zip(predictor.vocab, written, strict=True)), None, shown
            )
        )
    return rows


def decode(predictor: Predictor, upload: Upload) -> Pixels | HistoError:
    """The patch as the model takes it, or why it cannot be used."""
    try:
        path = Path(upload.name)
        return predictor.fit(decode_patch(upload.data, path), path)
    except HistoError as error:
        return error


def data_url(pixels: Pixels) -> str:
    """A patch as browsers show it: they have no reader of TIFs."""
    return f"data:image/jpeg;base64,{b64encode(thumbnail_jpeg(pixels)).decode()}"
