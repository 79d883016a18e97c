"""`histo export`: from a run to a bundle."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histo.commands.interpret import patch_reader
from histo.commands.tables import positive_of, say_unfinished
from histo.config import ModelCard, Wanted, check_setting
from histo.errors import HistoError
from histo.files.aside import is_occupied
from histo.files.writing import built, read_json
from histo.model.foundation import FOUNDATIONS, HUB
from histo.run.calls import apply_temperature
from histo.run.folder import RunFolder
from histo.run.positive import Positive
from histo.run.predictions import Predictions, read_predictions
from histo.screen import Progress, Screen, screen_of

if TYPE_CHECKING:
    from histo.model.bundle import TrainedOn
    from histo.model.card import Onnx

QUPATH = "qupath"
"""The folder in a bundle for QuPath's model."""
NOT_IN_CARD = ("confusion_matrix", "calibration", "split", "unit", "units")
"""Metrics that a card leaves out; the confusion matrix of many classes would dominate it."""


def export(
    run: str | Path,
    *,
    out: str | Path | None = None,
    sensitivity: float | None = None,
    specificity: float | None = None,
    no_pickle: bool = False,
    no_fingerprint: bool = False,
    positive: str | None = None,
    qupath: bool = False,
    mpp: float | None = None,
    images: str | Path | None = None,
    precision: str = "auto",
    progress: Progress = False,
) -> Path:
    """Write the bundle of a run's best epoch; returns its folder, RUN/export by default.

    Its threshold is the one that reaches `sensitivity` or `specificity` (0 to 1), given here or
    for the run's report; else 0.5. `no_pickle` leaves fastai's learner out; `no_fingerprint` what
    tells whether the model was trained on a patch; `positive` is the positive class of two, where
    the run does not say. `qupath` also writes a folder for QuPath's WSInfer extension; `mpp` is the
    µm per px of the patches, where the run does not say. What predicts faster on this machine, in int8
    or bf16, is judged on validation patches, and kept where it is as good; `images` is where the
    patches are, if they have moved, and `precision="fp32"` leaves it out. Raises HistoError.
    """
    screen, folder = screen_of(progress), RunFolder.open(Path(run))
    wanted = Wanted.of(sensitivity, specificity)
    check_setting("mpp", mpp)
    check_export_precision(precision)
    cut = say_unfinished(folder, screen)
    place = new_folder(Path(out)) if out else folder.export
    table = read_predictions(folder.predictions)
    known = positive_of(folder.path, table.vocab, positive)
    wanted = wanted or wanted_in_report(folder, known)
    if wanted and known:
        known.needed_for(f"a threshold for a {wanted.rate}")
    if known:
        screen.say(f"positive class: {known}", *known.ways)

    with screen.step("loading torch and fastai"):
        from histo.model.bundle import write_bundle
        from histo.model.card import CARD, FILES, LEARNER, ONNX, UNFINISHED, parse_card

    card = parse_card(read_json(folder.path / CARD), folder.path / CARD)
    card = replace(
        card,
        positive=known.name if known and known.known else None,
        mpp=float(mpp) if mpp else card.mpp,
    )
    if qupath:
        check_mpp(card, folder)
    card = with_calibration(card, folder, table, wanted, screen)
    card = replace(card, models=folder.settings().get("folds") or 1)
    facts, trained_on = facts_of(folder, table, known), None
    facts |= {UNFINISHED: cut} if cut else {}
    if no_fingerprint:
        del facts["fingerprint"]
    else:
        trained_on = trained_on_of(folder)
    model = load_model(folder, card)
    with built(place, last=CARD, earlier=[*FILES, CARD, *qupath_files(place)]) as made:
        more = partial(faster, made, folder, model, card, images, screen)
        has_onnx = write_bundle(
            made,
            model,
            card,
            facts,
            trained_on,
            not no_pickle,
            screen.step,
            more if precision == "auto" else lambda _: {},
        )
        if not has_onnx:
            screen.say(
                f"no {ONNX}: {card.arch} is too large or cannot be converted; predict will use "
                "torch on a CPU too"
            )
        if not no_pickle and card.models == 1 and not (made / LEARNER).is_file():
            screen.say(
                f"no {LEARNER}: a probe of {card.arch} cannot be written without histo's code"
            )
        name = folder.path.resolve().name
        if qupath:
            export_qupath(made, name, model)
    if qupath:
        where = place / QUPATH / name
        screen.say(f"for QuPath: {where} (copy it to the folder user of WSInfer's models)")
    screen.say(f"bundle: {place} (next: histo predict {place} PATCHES)")
    return place


def check_export_precision(precision: str) -> None:
    """HistoError for what is neither `auto` nor `fp32`."""
    if precision not in ("auto", "fp32"):
        raise HistoError(f"precision is {precision!r}: a bundle is made with auto or fp32")


def faster(
    place: Path,
    run: RunFolder,
    model: Any,
    card: ModelCard,
    images: str | Path | None,
    screen: Screen,
    onnx: Onnx,
) -> dict[str, Any]:
    """Make and judge what is faster than model.onnx in `place`; what the card says of it."""
    from histo.commands.judge_engines import Sample, engine_facts

    sample = Sample.draw(run, card.vocab, patch_reader(run, Path(images) if images else None))
    if isinstance(sample, HistoError):
        screen.say(f"only fp32: {sample.message}", *sample.ways)
        return {}
    return engine_facts(place, onnx, model, card, sample, screen)


def trained_on_of(run: RunFolder) -> TrainedOn:
    """The patches that a run's model was trained or chosen on; runs before 0.2 have no near.npy."""
    from histo.data.similar import LENGTH
    from histo.files.limits import MODEL_BYTES, read_bytes
    from histo.model.bundle import TrainedOn
    from histo.model.card import parse_near

    rows = [row for row in run.read_split() if row.get("sha1")]
    near = None
    if run.near.is_file():
        near = parse_near(read_bytes(run.near, MODEL_BYTES), run.near, LENGTH)
    groups = [row["group"] for row in rows if row.get("group")]
    return TrainedOn([row["sha1"] for row in rows], near, groups)


def check_mpp(card: ModelCard, run: RunFolder) -> None:
    """HistoError where it is not known at how many µm per px the patches are."""
    if card.mpp is None:
        raise HistoError(
            f"{run.path} does not say at how many µm per px its patches are, which QuPath needs",
            "give {mpp}: 0.972 for PatchCamelyon",
        )


def qupath_files(place: Path) -> list[str]:
    """What an earlier export wrote for QuPath, which is of another bundle; the user's own files stay."""
    from histo.model.torchscript import FILES

    folders = [folder for folder in (place / QUPATH).glob("*/") if folder.is_dir()]
    return [f"{QUPATH}/{folder.name}/{name}" for folder in folders for name in FILES]


def export_qupath(place: Path, name: str, model: Any) -> None:
    """Write the bundle's model for QuPath into a folder of the run's name, in `place`/qupath."""
    from histo.model.predictor import open_bundle
    from histo.model.torchscript import write_qupath

    write_qupath(place / QUPATH / name, model, open_bundle(place, "cpu", "fp32"))


def new_folder(out: Path) -> Path:
    """The folder for a bundle; HistoError if it has other content."""
    if out.exists() and (not out.is_dir() or is_occupied(out)):
        raise HistoError(f"{out} exists and is not empty", "give another {out}")
    return out


def load_model(run: RunFolder, card: ModelCard) -> Any:
    """The network of a card with the weights of the run's best epoch, or those of its folds."""
    from histo.model.checkpoint import load_best
    from histo.model.network import make_model

    model = make_model(card)
    for number, part in enumerate(getattr(model, "models", [model])):
        source = run if card.models == 1 else RunFolder(run.fold(number))
        load_best(source.checkpoint, part)
    return model


def facts_of(run: RunFolder, table: Predictions, positive: Positive | None) -> dict[str, Any]:
    """Facts of the card that are not needed to use the model."""
    from histo.report.compute import compute_metrics
    from histo.report.subject import Subject

    environment = run.facts()
    found = compute_metrics(table, Subject(positive=positive), rounds=0).as_dict()
    return {
        "weights": weights_of(run.settings()),
        "metrics": {name: value for name, value in found.items() if name not in NOT_IN_CARD},
        "trained": environment.get("started"),
        "fingerprint": environment.get("fingerprint"),
        "appearance": environment.get("appearance"),
    }


def weights_of(settings: dict[str, Any]) -> dict[str, str]:
    """Where the weights that the body started from are from, and their licence where it is known."""
    from histo.model.body import licence_of

    weights = str(settings.get("weights", ""))
    if foundation := FOUNDATIONS.get(settings["arch"]):
        source = "hub" if weights == "imagenet" else Path(weights).name
        published = {"repository": HUB + foundation.repository, "access": foundation.access}
        return {"source": source, "licence": foundation.licence, **published}
    if weights not in ("imagenet", "none"):
        return {"source": Path(weights).name}  # a path would say something of this machine
    licence = licence_of(settings["arch"]) if weights == "imagenet" else None
    return {"source": weights, **({"licence": licence} if licence else {})}


def wanted_in_report(run: RunFolder, positive: Positive | None) -> Wanted | None:
    """The operating point that the run's report was asked for, if it was for this positive class."""
    try:
        found = read_json(run.report / "metrics.json")
        same = positive is not None and found["positive"] == positive.name
        return Wanted.read(found["at_wanted"]["wanted"]) if same else None
    except (HistoError, KeyError, TypeError):
        return None


def with_calibration(
    card: ModelCard, run: RunFolder, table: Predictions, wanted: Wanted | None, screen: Screen
) -> ModelCard:
    """The card with the temperature, and the threshold, found on the validation patches.

    The threshold is for probabilities with the temperature.
    """
    from histo.report.calibration import calibrate
    from histo.report.thresholds import between_scores
    from histo.report.weighted import wanted_threshold

    groups = run.groups_of(table.ids)
    temperature = float(calibrate(table.labels, table.probabilities, groups).temperature)
    screen.say(f"temperature {temperature:.3f}, fitted on the validation patches")
    card = replace(card, temperature=temperature, threshold=0.5, wanted=None)
    if not wanted:
        return card
    scaled, index = apply_temperature(table.probabilities, temperature), card.positive_index
    found = wanted_threshold(table.labels, scaled, table.vocab, wanted, index)
    threshold = between_scores(found, scaled[:, index])
    screen.say(
        f"'{card.vocab[index]}' is called at or above {threshold:.4f}: {wanted} on the validation "
        "patches, on which it was chosen"
    )
    return replace(card, threshold=threshold, wanted=wanted.as_dict())
