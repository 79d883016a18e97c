"""Predictions of uploaded patches, as `histo predict` makes them of files."""

from __future__ import annotations

import asyncio
import threading
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from histo.data.appearance import UNLIKE, Appearance, appearance_of, drift_of
from histo.data.decode import decode_patch, thumbnail_jpeg
from histo.data.inputs import plain_ids
from histo.errors import HistoError
from histo.model.predictor import Calls, Predictor
from histo.pixels.fit import Pixels
from histo.web.looking import MOST, covered, falls
from histo.web.models import Models
from histo.web.queue import Late, Queue
from histo.web.uploads import Asked, Upload

ENOUGH = 10
"""Patches from which on it is said that they look unlike those of the training: fewer say too little."""


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
    looked: list[list[float]] | None = None
    """where it was asked for: by how much the probability of the class called falls as each place
    of a grid over the patch is covered"""


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
    drift: str | None = None
    """in what the patches look unlike those that the model was trained on"""


@dataclass(frozen=True)
class Prepared:
    """Decoded uploads of one request, and the model that was asked."""

    predictor: Predictor
    fingerprint: str
    ids: list[str]
    decoded: list[Pixels | HistoError]
    patches: Pixels | None
    """those that can be used, uint8 [N, S, S, 3]; None where there is none"""


async def predict_uploads(models: Models, queue: Queue, bundle: str, asked: Asked) -> Predicted:
    """The predictions of all uploads, with the figures of `histo predict`."""
    ready = await prepared(models, bundle, asked.uploads)
    if ready.patches is None:
        return answer_of(bundle, ready, None, asked.thumbnails)
    calls = await queue.calls(ready.predictor, ready.patches, asked.tta)
    if len(ready.ids) < ENOUGH and not asked.thumbnails:  # quicker than another thread's turn
        found = answer_of(bundle, ready, calls, False)
    else:
        found = await asyncio.to_thread(answer_of, bundle, ready, calls, asked.thumbnails)
    if asked.looked:
        found = replace(found, predictions=await with_looks(queue, ready, calls, found))
    return found


async def prepared(models: Models, bundle: str, uploads: Sequence[Upload]) -> Prepared:
    """Decode in a thread; where the request gives up, the thread stops at the next file."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(prepare, models, bundle, uploads, stop)
    except asyncio.CancelledError:
        stop.set()
        raise


def prepare(
    models: Models, bundle: str, uploads: Sequence[Upload], stop: threading.Event
) -> Prepared:
    """Open the model, and decode what was sent."""
    predictor, fingerprint = models.open(bundle)
    decoded = []
    for upload in uploads:
        if stop.is_set():
            raise Late("the request took too long")
        decoded.append(decode(predictor, upload))
    usable = [each for each in decoded if not isinstance(each, HistoError)]
    patches = np.stack(usable) if usable else None
    names = plain_ids([each.name for each in uploads])
    return Prepared(predictor, fingerprint, names, decoded, patches)


def rows_of(predictor: Predictor, calls: Calls) -> list[tuple[str, dict[str, float]]]:
    """The class called of each patch, and its probabilities as a table has them."""
    written = [[float(f"{value:.9g}") for value in row] for row in calls.probabilities.tolist()]
    return [
        (called, dict(zip(predictor.vocab, values, strict=True)))
        for called, values in zip(predictor.names(calls), written, strict=True)
    ]


def answer_of(bundle: str, ready: Prepared, calls: Calls | None, thumbnails: bool) -> Predicted:
    """The answer to a request: a row an upload, in their order."""
    results, found = iter(rows_of(ready.predictor, calls) if calls else []), []
    for name, each in zip(ready.ids, ready.decoded, strict=True):
        if isinstance(each, HistoError):
            found.append(PatchPrediction(name, error=each.message))
            continue
        called, values = next(results)
        shown = data_url(each) if thumbnails else None
        found.append(PatchPrediction(name, called, values, None, shown))
    card = ready.predictor.card
    threshold = card.threshold if len(card.vocab) == 2 else None
    return Predicted(
        bundle,
        ready.fingerprint,
        ready.predictor.engine.name,
        card.vocab,
        card.positive,
        threshold,
        found,
        drift_words(ready),
    )


async def with_looks(
    queue: Queue, ready: Prepared, calls: Calls, found: Predicted
) -> list[PatchPrediction]:
    """The predictions, the first few with where the model looked."""
    rows, number = [], 0
    for row, each in zip(found.predictions, ready.decoded, strict=True):
        if isinstance(each, HistoError) or number >= MOST:
            rows.append(row)
            continue
        code = int(calls.called[number])
        parts = await queue.calls(ready.predictor, covered(each), False)
        whole = float(calls.probabilities[number, code])
        rows.append(replace(row, looked=falls(whole, parts.probabilities[:, code])))
        number += 1
    return rows


def drift_words(ready: Prepared) -> str | None:
    """In what the patches look unlike those of the training; None where they do not, or that is not known."""
    if ready.patches is None or len(ready.patches) < ENOUGH:
        return None
    trained = Appearance.read(ready.predictor.files.facts.get("appearance"))
    found = appearance_of(ready.patches) if trained else None
    if not trained or not found:
        return None
    far = sorted(drift_of(found, trained).by_figure.items(), key=lambda each: -abs(each[1]))
    said = [
        f"{name} {abs(value):.1f} {'above' if value > 0 else 'below'}"
        for name, value in far
        if abs(value) > UNLIKE
    ]
    return ", ".join(said) or None


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
