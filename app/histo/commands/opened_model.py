"""A bundle, or a trusted pickle, opened to predict files batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histo.config import PREDICT_BATCH, ModelCard
from histo.data.decode import read_patch
from histo.data.decode_ahead import DecodedBatch, decode_batches, fitting_batch
from histo.data.pixel_size import mpp_apart_near
from histo.distributed import ranks
from histo.distributed.prefetch import prefetch
from histo.errors import HistoError
from histo.files.digests import sha256
from histo.run.positive import Positive, bundle_positive, choose_positive

if TYPE_CHECKING:
    from histo.model.engines import Judged
    from histo.model.predictor import Calls

Predicted = Iterator[tuple[DecodedBatch, "Calls | None"]]
"""Batches of files, and the calls of those that can be used; None where none can."""


@dataclass(frozen=True)
class Settings:
    """How a model is opened and asked."""

    trust_pickle: bool = False
    device: str = "auto"
    batch_size: int = PREDICT_BATCH
    tta: bool = False
    raw: bool = False
    skip_bad: bool = False
    precision: str = "auto"


@dataclass(frozen=True)
class Opened:
    """A model at work on files: its classes, its engine, its predictions batch by batch."""

    vocab: list[str]
    engine: str
    fingerprint: str
    """of the bundle or the pickle"""
    predict: Callable[[Sequence[Path]], Predicted]
    batch_size: int
    """fewer than were asked for where the patches are very large"""
    positive: Callable[[str | None], Positive | None]
    """the positive class of two, where this one is given"""
    threshold: float = 0.5
    scale: str = ""
    """of the threshold, where it is another than that of the table"""
    judged: Judged | None = None
    """what the card says of the engine, where it is not the exact one"""
    passed_over: str = ""
    """why the fastest engine of the card is not used, where it is not"""
    reduced: str = ""
    """what the table says of such an engine"""
    apart: Callable[[Path], str] = lambda _: ""
    """a note where a patch is known to have another µm per px than the model's"""


def open_model(bundle: Path, how: Settings) -> Opened:
    """A bundle, or a trusted pickle."""
    if bundle.suffix == ".pkl":
        return open_pickle(bundle, how)

    from histo.model.predictor import open_bundle

    predictor = open_bundle(bundle, how.device, how.precision)

    def predict_batch(batch: DecodedBatch) -> tuple[DecodedBatch, Calls | None]:
        if not batch.sha1:
            return batch, None
        return batch, predictor.predict(batch.pixels, how.tta, how.raw)

    count = fitting_batch(how.batch_size, predictor.card.patch_size)

    def predict_files(paths: Sequence[Path]) -> Predicted:
        return prefetch(predict_batch, decode_batches(paths, predictor.fit, count, how.skip_bad))

    name, card = predictor.engine.name, predictor.card
    known = partial(bundle_positive, card.vocab, card.positive, card.format == 1)
    on_table = card.temperature == 1 or how.raw == (card.format == 1)
    scale = "" if on_table else f" {'with' if how.raw else 'before'} the temperature"
    files = predictor.files.fingerprint()
    return Opened(
        card.vocab,
        name,
        files,
        predict_files,
        count,
        known,
        card.threshold,
        scale,
        predictor.judged,
        predictor.passed_over,
        predictor.reduced,
        partial(note_of_mpp, card),
    )


def note_of_mpp(card: ModelCard, patch: Path) -> str:
    """A note where a patch that was cut or imported has another µm per px than the model's."""
    if card.mpp is None:
        return ""
    try:
        side = card.crop or int(read_patch(patch).shape[0])
    except HistoError:  # a damaged patch is named when it is predicted
        return ""
    return mpp_apart_near(patch, side, card.size, card.mpp)


def open_pickle(path: Path, how: Settings) -> Opened:
    """fastai's own learner, where the user trusts it."""
    if not how.trust_pickle:
        raise HistoError(
            f"{path} is a pickle, and loading one runs whatever code it holds",
            "give the bundle's folder instead",
            "{trust_pickle} if you made the file yourself",
        )
    if how.tta:
        raise HistoError("averaging views needs a bundle, not a pickle", "leave {tta} out")
    if how.raw:
        raise HistoError("the temperature is in the pickle's last layer", "leave {raw} out")
    if how.skip_bad:
        raise HistoError("leaving patches out needs a bundle, not a pickle", "leave {skip_bad} out")
    if ranks.world_size() > 1:  # fastai's get_preds would gather over processes by itself
        raise HistoError("several processes need a bundle, not a pickle")

    from histo.model.pickled import PickledLearner

    learner = PickledLearner.open(path, how.device)

    def predict_files(paths: Sequence[Path]) -> Predicted:
        nothing = np.empty((0, 0, 0, 3), np.uint8)  # fastai reads the files itself
        for i in range(0, len(paths), how.batch_size):
            part = paths[i : i + how.batch_size]
            yield DecodedBatch(list(part), nothing, [], {}), learner.predict(part)

    known, count = partial(choose_positive, learner.vocab), how.batch_size
    return Opened(learner.vocab, learner.engine_name, sha256(path), predict_files, count, known)
