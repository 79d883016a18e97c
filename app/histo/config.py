"""Every setting, its default and its range."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any, Literal, get_args

from histo.errors import HistoError

Augment = Literal["none", "d4", "stain"]
"""How training patches are varied: functions of histo.data.augment, by name."""
Precision = Literal["auto", "fp32", "bf16", "fp16"]
ExportPrecision = Literal["auto", "fp32"]
EnginePrecision = Literal["auto", "fp32", "bf16", "int8"]
"""Of prediction: auto is the fastest that the card of the bundle vouches for, fp32 the exact."""
Tracker = Literal["tensorboard", "mlflow", "wandb"]
Layout = Literal["clam", "stamp"]
"""How features lie in HDF5: as CLAM and TRIDENT read them, or as STAMP does."""
Rate = Literal["sensitivity", "specificity"]

CNN_LR = 1.5e-3
"""Peak learning rate of convolutional nets; found by measurement (benchmarks/README.md)."""
TRANSFORMER_LR = 1e-4
"""Peak learning rate of transformers and ConvNeXt, which diverge at that of a convolutional net."""
BODY_LR_DIVISOR = 3.0
"""Discriminative rates: the first half of a pretrained body learns at the peak rate over this."""
EPOCHS, EPOCHS_OF_FEW = 8, 14
"""Epochs of the whole model, and those for few training patches."""
FEW_PATCHES = 10_000
"""Fewer training patches than that are few."""
LINEAR_HEAD = ("tf_efficientnet_lite",)
"""Architectures, by their beginning, with one linear layer as the head: the whole model is trained
from the first step at one rate, with constant moments of AdamW. Found by measurement
(docs/measurements.md)."""
HEAD_UNITS = 512
"""Units of the head's hidden layer."""
HEAD_DROPOUT = 0.5
CPU_BATCH = 32
"""Training batch on a CPU, where many small steps learn more than few large ones."""
GPU_BATCH = 256
"""Training batch on a GPU: large enough to keep it busy."""
PREDICT_BATCH = 64
"""Patches predicted at once: on a CPU as fast as 256, in less than half the memory."""
RANGES: Mapping[str, tuple[float, float | None]] = {
    "crop": (8, None),
    "size": (8, None),
    "valid_pct": (1, 90),
    "folds": (2, 100),
    "epochs": (1, None),
    "freeze_epochs": (0, None),
    "batch_size": (1, None),
    "seed": (0, 2**32 - 1),
    "checkpoint_minutes": (0, None),
    "sensitivity": (0, 1),
    "specificity": (0, 1),
    "centre": (0, None),
    "devices": (1, None),
    "most": (1, None),
    "mpp": (0.05, 50),
    "views": (1, 8),
    "stride": (1, None),
    "per_slide": (1, None),
    "port": (0, 65535),
}
"""The least and the greatest value of each setting that is a number."""
CHOICES = {"augment": get_args(Augment), "precision": get_args(Precision)}
CHOICES["tracker"] = get_args(Tracker)


def check_setting(name: str, value: Any) -> None:
    """Refuse a value that is out of the setting's range or not among its choices."""
    if value is None:
        return
    if name in CHOICES and value not in CHOICES[name]:
        raise HistoError(f"{name} is {value!r}: give one of {', '.join(CHOICES[name])}")
    if name in RANGES:
        low, high = RANGES[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise HistoError(f"{name} is {value!r}, not a number")
        if not low <= value <= (value if high is None else high):  # NaN is not, either
            bound = f"from {low:g} to {high:g}" if high is not None else f"at least {low:g}"
            raise HistoError(f"{name} is {value:g}: it must be {bound}")


def parse_lr(given: object) -> float:
    """A learning rate as a number; HistoError if it is not a positive one."""
    try:
        lr = float(str(given))
    except ValueError:
        lr = math.nan
    if not (math.isfinite(lr) and lr > 0):
        raise HistoError(
            f"learning rate {given!r} is not a positive number", "{lr} takes a number, or find"
        )
    return lr


@dataclass(frozen=True)
class Settings:
    """A group of settings: paths may be given as text, values are checked when it is made."""

    def __post_init__(self) -> None:
        """Make paths of text, and refuse values out of range."""
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, str) and "Path" in str(each.type):
                object.__setattr__(self, each.name, Path(value))
            check_setting(each.name, value)


@dataclass(frozen=True)
class DataConfig(Settings):
    """Which patches, and how a file becomes an array."""

    data: Path
    labels: Path | None = None
    """the label CSV; DATA/train_labels.csv by default"""
    images: Path | None = None
    """the folder of patches; DATA/train by default"""
    id_column: str = "id"
    label_column: str = "label"
    corrections: Path | None = None
    """a CSV of ids and the labels that they shall have instead"""
    crop: int | None = None
    """side in px of the centre crop, taken before `size`"""
    size: int | None = None
    """side in px the patch is resized to"""
    store: Path | None = None
    """where decoded patches are kept; found where none is given"""
    label_from: str | None = None
    """labels from folder names: a level, counted from 1, or a regular expression over the path"""
    group_from: str | None = None
    """groups from paths, in the same way; `none` where folders name no groups"""

    @property
    def labels_csv(self) -> Path:
        """The label CSV, whether it exists or not: the one given, else Kaggle's name for it."""
        return self.labels or self.data / "train_labels.csv"

    @property
    def label_table(self) -> Path | None:
        """The label CSV; None where the names of folders are the labels."""
        if self.labels or not (self.images or self.data).is_dir():
            return self.labels_csv
        folders = self.label_from is not None or not self.labels_csv.exists()
        return None if folders else self.labels_csv

    @property
    def images_folder(self) -> Path:
        """The folder of patches: the one given, else Kaggle's name for it, else `data` itself."""
        if self.images:
            return self.images
        train = self.data / "train"
        whole = self.label_table is None or (self.labels and not train.is_dir())
        return self.data if whole and self.data.is_dir() else train


@dataclass(frozen=True)
class CheckConfig(DataConfig):
    """Settings of a check: what it reads, and where its report goes."""

    out: Path = Path("check")
    """the folder of the report and the CSVs; an earlier check's is replaced"""
    split_column: str | None = None
    groups: str | None = None
    write_exclusions: Path | None = None
    """a CSV of ids to leave out, to be given to train as `exclude`"""
    force: bool = False
    """write the exclusions over a file that histo did not write"""


@dataclass(frozen=True)
class CutConfig(Settings):
    """Settings of cutting slides into patches."""

    out: Path = Path("patches")
    """a new folder, or one of an earlier cut with the same settings"""
    mpp: float = 0.972
    """µm per px of the patches; PatchCamelyon's by default"""
    size: int = 96
    """side of the patches in px"""
    stride: int | None = None
    """step of the patches in px; their side by default"""
    cover: str = "0.5"
    """the share of a patch that its class must cover, or `centre`: PatchCamelyon's rule"""
    background: str | None = None
    """the class of tissue outside all annotations; without it, such tissue is left out"""
    unlabelled: bool = False
    """write tissue outside all annotations too, without a label"""
    normal_slides: bool = False
    """slides without annotations are background throughout; else they are left out"""
    classes: tuple[str, ...] = ()
    """`NAME=CLASS` for annotations of that name; others are left out"""
    tissue: Path | None = None
    """a folder of corrected outlines of tissue, a GeoJSON a slide"""
    no_tissue: bool = False
    """take patches without tissue too"""
    no_files: bool = False
    """keep the patches of a slide in one ZIP file, not in a file each"""
    per_slide: int | None = None
    """at most so many patches a slide and class, drawn by `seed`"""
    seed: int = 0
    patient_from: str | None = None
    """a regular expression that finds the patient in a slide's name"""
    slide_mpp: str | float | None = None
    """µm per px of slides that do not say: a number, or a CSV with the columns slide and mpp"""


@dataclass(frozen=True)
class TrainConfig(DataConfig):
    """Every setting of a training run."""

    out: Path | None = None
    """the run folder; runs/ARCH-N by default"""
    split_column: str | None = None
    """a column of the label CSV that says train or valid"""
    groups: str | None = None
    """`CSV[:column]` that names each patch's slide, patient or hospital"""
    allow_leak: bool = False
    """train even if the given split has duplicates or a group on both sides"""
    exclude: Path | None = None
    """a CSV of ids to leave out"""
    positive: str | None = None
    """the positive class of two; found by the classes' names where they are an obvious pair"""
    mpp: float | None = None
    """µm per px of the patches' files; known where histo cut or imported them"""
    skip_bad: bool = False
    """leave patches out that cannot be read or have another size, and list them"""
    valid_pct: float = 20.0
    """per cent of the patches kept for validation"""
    folds: int | None = None
    """number of models for cross-validation, each validated on a different part"""
    augment: Augment = "stain"
    probe: bool = False
    """fit only a linear head to the features of the frozen body, by logistic regression"""
    views: int | None = None
    """of a probe: how many D4 views of each training patch it sees; 8 by default"""
    arch: str = "resnet50"
    weights: str = "imagenet"
    """imagenet, none, or a file"""
    epochs: int | None = None
    """epochs of the whole model; found from the number of training patches"""
    freeze_epochs: int | None = None
    """epochs of the head alone, before `epochs` of the whole model; found from `weights` and `arch`"""
    lr: float | Literal["find"] | None = None
    """the peak learning rate, or `find`; found from `arch`"""
    batch_size: int | None = None
    """found from the device"""
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    """compile the model with torch.compile"""
    no_store: bool = False
    """keep decoded patches in memory, not on disk"""
    checkpoint_minutes: float = 5.0
    """minutes between checkpoints within an epoch; each epoch ends with one"""
    tracker: Tracker | None = None
    """an experiment tracker that records settings, epochs and results"""
    given: frozenset[str] = field(default=frozenset(), repr=False)
    """the names of the settings the user gave"""

    def __post_init__(self) -> None:
        """Convert a learning rate given as text to a number."""
        super().__post_init__()
        if self.lr is not None and self.lr != "find":
            object.__setattr__(self, "lr", parse_lr(self.lr))

    @property
    def pretrained(self) -> bool:
        """Whether the body starts from weights."""
        return self.weights != "none"

    def record(self, found: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Every setting as `{"value": …, "source": given | default | found}`, for config.json."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "given"}
        sources = {name: "given" if name in self.given else "default" for name in values}
        for name, value in found.items():
            if name not in self.given or values.get(name) != value:
                sources[name] = "found"
            values[name] = value
        return {
            name: {
                "value": str(value) if isinstance(value, Path) else value,
                "source": sources[name],
            }
            for name, value in values.items()
        }


@dataclass(frozen=True)
class ModelCard:
    """What is needed to rebuild a trained model and prepare its input: the core of model.json."""

    arch: str
    vocab: list[str]
    patch_size: int
    """side in px of the square the model sees"""
    crop: int | None
    size: int | None
    mean: list[float]
    std: list[float]
    """mean and standard deviation of RGB in 0..1"""
    head: int = HEAD_UNITS
    """units of the hidden layer between features and classes; 0 where there is none, as in a probe"""
    temperature: float = 1.0
    """divides the logits, so that the probabilities are calibrated"""
    threshold: float = 0.5
    """for two classes: the positive one is called at or above this probability"""
    models: int = 1
    """how many trained models are averaged, by their probabilities"""
    positive: str | None = None
    """the positive class of two; None if it is not known, and `threshold` is for class 1"""
    wanted: dict[str, float] | None = None
    """the sensitivity or specificity that the threshold was chosen for, as `{"sensitivity": 0.9}`"""
    mpp: float | None = None
    """µm per px of the patches that the model sees; None if it is not known"""
    levels: list[str] | None = None
    """blocks of the body whose means are features too, as in a probe; None if there are none"""
    format: int = 2
    """1: model.onnx leaves the temperature out, and the threshold is for what it gives; from 2 on
    both have the temperature in them"""

    @property
    def positive_index(self) -> int:
        """The place of the positive class in the vocab; 1 if it is not known."""
        return 1 if self.positive is None else self.vocab.index(self.positive)

    @property
    def built_in_temperature(self) -> float:
        """What the model divides logits by before it gives probabilities: 1 in format 1."""
        return self.temperature if self.format > 1 else 1.0

    def as_dict(self) -> dict[str, Any]:
        """The card as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Wanted:
    """The sensitivity or specificity (0 to 1) that the operating point must reach."""

    rate: Rate
    value: float

    def __str__(self) -> str:
        return f"{self.rate} {self.value:g}"

    def as_dict(self) -> dict[str, float]:
        """As JSON has it: `{"sensitivity": 0.9}`."""
        return {self.rate: self.value}

    @classmethod
    def read(cls, found: Any) -> Wanted | None:
        """What `as_dict` wrote; None for whatever is not that."""
        try:
            ((rate, value),) = found.items()
            known = rate in get_args(Rate) and 0 <= value <= 1
            return cls(rate, float(value)) if known else None
        except (AttributeError, TypeError, ValueError):
            return None

    @classmethod
    def of(cls, sensitivity: float | None, specificity: float | None) -> Wanted | None:
        """The given one of the two; None if neither is given."""
        check_setting("sensitivity", sensitivity)
        check_setting("specificity", specificity)
        if sensitivity is not None and specificity is not None:
            raise HistoError(
                "a threshold cannot be chosen for both sensitivity and specificity",
                "give {sensitivity} or {specificity}",
            )
        if sensitivity is not None:
            return cls("sensitivity", sensitivity)
        return None if specificity is None else cls("specificity", specificity)


def takes(kind: type[Settings]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Spell out `**settings` in a function's signature: the fields of a class of settings.

    Each setting and its default is thus defined once and shown by `help`, and an unknown name is
    Python's own TypeError.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = signature(function)
        named = [p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        known = {"given", *(p.name for p in named)}
        more = [
            Parameter(f.name, Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
            for f in fields(kind)
            if f.name not in known
        ]
        full = Signature([*named, *more], return_annotation=own.return_annotation)

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            full.bind(*args, **kwargs)
            return function(*args, **kwargs)

        call.__signature__ = full  # type: ignore[attr-defined]
        return call

    return decorate
