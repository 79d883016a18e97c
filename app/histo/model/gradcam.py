"""Grad-CAM: which part of a patch is evidence for the class it was called.

Selvaraju et al., 2017, arXiv:1610.02391: the channels of the last feature map, each weighted by
its effect on the output. A map is as coarse as that layer (3x3 cells for a ResNet on 96 px).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from histo.config import ModelCard
from histo.model.body import watch
from histo.model.checkpoint import load_best
from histo.pixels.normalise import Normalise
from histo.run.folder import RunFolder
from histo.run.gradcam import GradCam, write_gradcam
from histo.run.predictions import Predictions, read_predictions
from histo.screen import Screen

SHEET = 6
"""Mistakes, and hits, to show."""
SAMPLE = 256
"""Patches drawn at random, for means."""


def save_gradcam(
    run: RunFolder,
    model: nn.Sequential,
    card: ModelCard,
    take: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
    places: NDArray[np.int64],
    batch_size: int,
    screen: Screen,
) -> None:
    """Write gradcam.npz: maps of a run's worst mistakes, typical hits and a random sample.

    `model` is body and head, and gets the weights of the best epoch; `take` returns the patches
    uint8 [B, S, S, 3] at given places, and `places` is the place of each row of predictions.csv.
    A model without a last feature map, as most transformers, gets no file, only a note.
    """
    load_best(run.checkpoint, model)
    layer = last_map(model.eval()[0], card.patch_size)
    if layer is None:
        screen.say(f"note: {card.arch} has no last feature map: no picture of where it looked")
        return
    table = read_predictions(run.predictions)
    rows, drawn = choose(table)
    maps, called = [], []
    with screen.bar("where it looked", len(rows)) as advance:
        for start in range(0, len(rows), batch_size):
            batch = to_input(take(places[rows[start : start + batch_size]]), model, card)
            heat, classes = grad_cam(model, layer, batch)
            maps.append(heat.cpu().numpy())
            called += [card.vocab[c] for c in classes.tolist()]
            advance(len(batch))
    ids = [table.ids[row] for row in rows]
    found = GradCam(ids, called, drawn, np.concatenate(maps), card.patch_size)
    write_gradcam(run.path, found)


def choose(table: Predictions) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows of the most confident mistakes, typical hits and a seeded sample; which of them are the sample.

    A typical hit has the median confidence of its class; classes take turns.
    """
    called = table.probabilities.argmax(1)
    sure = table.probabilities.max(1)
    wrong = np.flatnonzero(called != table.labels)
    mistakes = wrong[np.argsort(-sure[wrong], kind="stable")][:SHEET]
    turn, far = np.full(len(called), np.inf), np.zeros(len(called))
    for c in range(len(table.vocab)):
        hits = np.flatnonzero((called == c) & (table.labels == c))
        if len(hits):
            far[hits] = np.abs(sure[hits] - np.median(sure[hits]))
            turn[hits[np.argsort(far[hits], kind="stable")]] = np.arange(len(hits))
    order = np.lexsort((far, turn))
    typical = order[np.isfinite(turn[order])][:SHEET]
    sample = np.sort(np.random.default_rng(0).permutation(len(called))[:SAMPLE])
    rows = np.concatenate([mistakes, typical, sample])
    return rows, np.arange(len(rows)) >= len(rows) - len(sample)


def to_input(patches: NDArray[np.uint8], model: nn.Module, card: ModelCard) -> Tensor:
    """Patches uint8 [B, S, S, 3] as the model sees them: float [B, 3, S, S] on its device."""
    device = next(model.parameters()).device
    normalise = Normalise(card.mean, card.std).to(device)
    batch: Tensor = normalise(torch.from_numpy(patches).to(device)).permute(0, 3, 1, 2)
    return batch


def grad_cam(model: nn.Sequential, layer: str, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [B, h, w] in 0..1 of normalised patches [B, 3, S, S], and the classes called, [B].

    The explained output is the log-odds of the called class, not its logit: adding the same number
    to all logits changes no probability, and must change no map.
    """
    body, head = model
    kept: list[Tensor] = []
    hook = body.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[2]))
    try:
        with torch.enable_grad():
            logits = head(body(batch.requires_grad_()))  # not model(batch), which may be compiled
            called = logits.argmax(1, keepdim=True)
            others = logits.scatter(1, called, -torch.inf).logsumexp(1)
            odds = logits.gather(1, called).squeeze(1) - others
            (slope,) = torch.autograd.grad(odds.sum(), kept[-1])
    finally:
        hook.remove()
    heat = (slope.mean((2, 3), keepdim=True) * kept[-1]).sum(1).relu().detach()
    peak = heat.amax((1, 2), keepdim=True)
    return heat / peak.clamp(min=torch.finfo(heat.dtype).tiny), called.squeeze(1)


def last_map(body: nn.Module, side: int) -> str | None:
    """The module that outputs the body's last feature map [B, C, h, w]; None if there is none.

    It is the last output with more than one place. There is none if that is a list of tokens
    [B, T, C] or a map [B, h, w, C], or if the patch shrinks to one place within a block.
    """
    seen: list[tuple[str, torch.Size]] = []

    def note(name: str, output: Tensor) -> None:
        if output.ndim >= 3:
            seen.append((name, output.shape))

    watch(body, side, body.named_modules(), note)
    spread = [n for n, (_, shape) in enumerate(seen) if places_of(shape) > 1]
    if not spread:
        return None
    name, shape = seen[spread[-1]]
    within = any(name.startswith(f"{later}.") for later, _ in seen[spread[-1] + 1 :])
    return None if within or len(shape) != 4 or shape[2] != shape[3] else name


def places_of(shape: torch.Size) -> int:
    """The number of places of an output: tokens of [B, T, C], cells of [B, C, h, w]."""
    return shape[1] if len(shape) == 3 else shape[2:].numel()
