"""Read a run's settings and data back, and check that they are unchanged."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

from histo.config import TrainConfig
from histo.data.dataset import Dataset, KnownSplit, load_dataset
from histo.data.label_table import LabelTable
from histo.distributed import ranks
from histo.errors import HistoError
from histo.files.writing import read_json
from histo.run.folder import RunFolder
from histo.run.origin import is_mine
from histo.screen import Screen

MAY_DIFFER = (
    *("data", "labels", "images", "store", "no_store", "groups", "corrections"),
    *("device", "checkpoint_minutes"),
)
"""Settings that a resumed run may change: where its data are, and the hardware it trains on."""


def read_settings(run: RunFolder, asked: TrainConfig) -> TrainConfig:
    """The settings a run was started with; HistoError if others are given now."""
    record = ranks.broadcast(lambda: read_json(run.config))
    try:
        known = {f.name for f in fields(TrainConfig)} - {"given"}
        values = {
            name: entry["value"]
            for name, entry in record.items()
            if name in known and name != "store"
        }
        given = {name for name, entry in record.items() if entry["source"] == "given"}
        if "store" in given:
            values["store"] = Path(record["store"]["value"])
        before = TrainConfig(**values)
    except (AttributeError, KeyError, TypeError):
        raise HistoError(f"{run.config} is not the config of a training run") from None
    changed = [
        name
        for name in sorted(asked.given)
        if name not in MAY_DIFFER and str(getattr(asked, name)) != str(values.get(name))
    ]
    if changed:
        name = changed[0]
        why = (
            "the learning rate schedule depends on it"
            if "epochs" in name
            else "it cannot change within a run"
        )
        raise HistoError(
            f"{run.path} was started with {name} {values.get(name)}, not {getattr(asked, name)}: {why}",
            f"leave {{{name}}} out",
            "start a new training",
        )
    now = {name: getattr(asked, name) for name in MAY_DIFFER if name in asked.given}
    if "data" in now:  # the data folder has moved: labels and images lie in it as before
        now = {"labels": None, "images": None, **now}
    return replace(before, out=run.path, given=frozenset(given | now.keys()), **now)


def without_strange_places(
    run: RunFolder, config: TrainConfig, asked: TrainConfig, screen: Screen
) -> TrainConfig:
    """The settings of a run, without the store and the tracker that another user's run names.

    What the user names now is used; else patches are decoded into the user's own cache.
    """
    if ranks.broadcast(lambda: is_mine(run.path, read_json(run.config))):
        return config
    import platformdirs

    tracker = config.tracker if "tracker" in asked.given else None
    named = asked.given & {"data", "store", "no_store"}
    own = None if "data" in asked.given else platformdirs.user_cache_path("histo")
    store = config.store if config.no_store or "store" in named else own
    if not named and not config.no_store:
        screen.say(
            f"note: {run.path} was not started here by this user: patches are decoded into {store}",
            "give {store} to choose a folder",
        )
    if tracker != config.tracker:
        screen.say(
            f"note: {run.path} was not started here by this user: nothing is sent to {config.tracker}",
            "give {tracker}",
        )
    given = config.given | ({"store"} if store else set())  # a config.json written anew keeps to it
    return replace(config, store=store, tracker=tracker, given=given)


def known_of(run: RunFolder) -> tuple[KnownSplit, dict[str, str]]:
    """A run's split, and the fingerprints of the data it was started with."""
    sides = {row["id"]: row["split"] for row in run.read_split()}
    settings = run.settings()
    known = KnownSplit(sides, run.split_of(settings), str(settings.get("group_column") or ""))
    return known, read_json(run.environment).get("fingerprint", {})


def load_again(run: RunFolder, config: TrainConfig, table: LabelTable, screen: Screen) -> Dataset:
    """The data of a run, split as before; HistoError if labels or pixels have changed."""
    known, before = ranks.broadcast(lambda: known_of(run))
    data = load_dataset(config, table, screen, known)
    changed = [part for part, now in data.fingerprints().items() if before.get(part) != now]
    if changed:
        raise HistoError(
            f"the {' and the '.join(changed)} of {config.data} are not those that {run.path} was "
            "started with: it cannot be resumed (restore them, or start a new training)"
        )
    return data
