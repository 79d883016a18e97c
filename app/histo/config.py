"""Every setting and its default, once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

Augment = Literal["none", "d4", "stain"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
PREDICT_BATCH = 64
"""Patches predicted at once: on a CPU as fast as 256, in less than half the memory."""


@dataclass(frozen=True)
class DataConfig:
    """Which patches, and how a file becomes an array."""

    data: Path
    labels: Path | None = None
    """the label CSV; DATA/train_labels.csv where none is given"""
    images: Path | None = None
    """the folder of patches; DATA/train where none is given"""
    id_column: str = "id"
    label_column: str = "label"
    crop: int | None = None
    """side in px of the centre crop, taken before `size`"""
    size: int | None = None
    """side in px the patch is resized to"""
    store: Path | None = None
    """where decoded patches are kept; found where none is given"""

    @property
    def labels_csv(self) -> Path:
        """The label CSV: the one given, else Kaggle's name for it."""
        return self.labels or self.data / "train_labels.csv"

    @property
    def images_folder(self) -> Path:
        """The folder of patches: the one given, else Kaggle's name for it."""
        return self.images or self.data / "train"


@dataclass(frozen=True)
class CheckConfig(DataConfig):
    """What is checked beside labels and patches, and where the report goes."""

    out: Path = Path("check")
    """the folder of the report and the CSVs; an earlier check's is replaced"""
    split_column: str | None = None
    groups: str | None = None
    write_exclusions: Path | None = None
    """a CSV of ids to leave out, to be given to train as `exclude`"""


@dataclass(frozen=True)
class TrainConfig(DataConfig):
    """All that decides a training run, beside the patches themselves."""

    out: Path | None = None
    """the run folder; runs/ARCH-N where none is given"""
    split_column: str | None = None
    """a column of the label CSV that says train or valid"""
    groups: str | None = None
    """`CSV[:column]` that names each patch's slide, patient or hospital"""
    allow_leak: bool = False
    """train though a given split has equal patches or a group on both sides"""
    exclude: Path | None = None
    """a CSV of ids to leave out"""
    valid_pct: float = 20.0
    """per cent of the patches kept for validation"""
    folds: int | None = None
    """train so many models, each validated on another part"""
    augment: Augment = "stain"
    arch: str = "resnet50"
    weights: str = "imagenet"
    """imagenet, none, or a file"""
    epochs: int = 8
    freeze_epochs: int | None = None
    """epochs of the head alone before `epochs` of everything; found from `weights`"""
    lr: str | None = None
    """the peak learning rate, or `find`; found from `arch`"""
    batch_size: int | None = None
    """found from the device"""
    seed: int = 0
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    """compile the model with torch.compile"""
    no_store: bool = False
    checkpoint_minutes: float = 5.0
    """minutes between checkpoints within an epoch; each epoch ends with one"""
    given: frozenset[str] = field(default=frozenset(), repr=False)
    """the names of the settings the user gave"""

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
    """What must be known to rebuild a trained model and feed it: the heart of model.json."""

    arch: str
    vocab: list[str]
    patch_size: int
    """side in px of the square the model sees"""
    crop: int | None
    size: int | None
    mean: list[float]
    std: list[float]
    """of RGB in 0..1"""
    head: int = 512
    """units of the hidden layer between features and classes"""
    temperature: float = 1.0
    """what predict divides logits by, so that probabilities come true as often as they say"""
    threshold: float = 0.5
    """for two classes: class 1 is called at or above this probability, before the temperature"""
    models: int = 1
    """how many trained models' probabilities are averaged"""

    def as_dict(self) -> dict[str, Any]:
        """The card as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Wanted:
    """A sensitivity or specificity (0 to 1) that the operating point shall have."""

    rate: str
    value: float

    def __str__(self) -> str:
        return f"{self.rate} {self.value:g}"
