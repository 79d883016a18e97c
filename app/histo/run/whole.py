"""Whether a run is whole: finished, and its weights and predictions of the same epoch."""

from __future__ import annotations

from contextlib import suppress

from histo.errors import Call, HistoError
from histo.files.writing import flush_folder, read_json, write_json
from histo.run.folder import RunFolder

KEPT = "kept.json"
"""In the checkpoint folder: the epoch of the best weights and of predictions.csv."""


def begin_keeping(run: RunFolder) -> None:
    """Say that weights and predictions are being replaced: from here to `keep` they may differ."""
    (run.checkpoint / KEPT).unlink(missing_ok=True)
    flush_folder(run.checkpoint)


def keep(run: RunFolder, epoch: int) -> None:
    """Say that both are there, of the same epoch."""
    write_json(run.checkpoint / KEPT, {"epoch": epoch})


def unfinished(run: RunFolder) -> str:
    """What a run that has not finished has done so far, as a clause; nothing for one that has.

    HistoError where its weights and predictions may be of different epochs, or are not there.
    """
    resume = Call("to resume", "train", {"resume": run.path})
    if not run.predictions.is_file():
        why = "no predictions and has no model: no epoch of it ended"
        with suppress(HistoError):
            why = "folds that are not trained yet" if run.settings().get("folds") else why
        raise HistoError(f"{run.path} has {why}", resume)
    if run.finished:
        return ""
    settings, kept = run.settings(), (run.checkpoint / KEPT).is_file()
    if settings.get("folds"):
        return "its folds are trained, but it was stopped before its end"
    if not kept and not run.last.is_file():
        return ""  # an evaluation of an earlier histo, whose table is its last file
    if not kept:
        raise HistoError(
            f"{run.path} was stopped while it replaced its weights and predictions, which may be of "
            "different epochs",
            resume,
        )
    if settings.get("probe"):
        return "its head is fitted, but it was stopped before its end"
    planned = [settings.get("epochs"), settings.get("freeze_epochs")]
    epochs = sum(number for number in planned if isinstance(number, int))
    done, best = len(run.read_history()), kept_epoch(run)
    return f"{done} of {epochs} epochs are trained; the weights are those of epoch {best}"


def kept_epoch(run: RunFolder) -> int:
    """The epoch of the weights and predictions of a run that is not finished."""
    found = read_json(run.checkpoint / KEPT)
    epoch = found.get("epoch") if isinstance(found, dict) else None
    if type(epoch) is not int:
        raise HistoError(f"{run.checkpoint / KEPT} is damaged")
    return epoch
