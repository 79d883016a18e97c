"""`histo cut`: annotated slides into labelled patches."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from histo.config import CutConfig, takes
from histo.data.folders import Rule
from histo.errors import HistoError
from histo.files.digests import sha256
from histo.files.outputs import check_apart
from histo.screen import Progress, Screen, counted, screen_of
from histo.slides.annotations import Annotations, find_annotation, names_in
from histo.slides.cut_folder import FAILED, GROUPS, CutFolder, Joined
from histo.slides.cut_slide import CutPlan, cut_slide
from histo.slides.grid import check_stride
from histo.slides.slide_files import SlideMpp, find_slides, fingerprint_of
from histo.slides.tile_labels import LabelRule
from histo.slides.tissue_outlines import tissue_file


@takes(CutConfig)
def cut(
    slides: str | Path | Sequence[str | Path],
    annotations: str | Path,
    *,
    progress: Progress = False,
    **settings: Any,
) -> Path:
    """Cut slides, files or folders of them, into patches labelled by a folder of annotations.

    Returns `out`, a folder for check and train. A slide that cannot be cut is listed in its
    failed.csv; killed, the same call goes on. Each setting is a field of histo.config.CutConfig.
    Raises HistoError.
    """
    config = CutConfig(**settings)
    given = [slides] if isinstance(slides, str | Path) else slides
    cut_to([Path(one) for one in given], Path(annotations), config, screen_of(progress))
    return config.out


def cut_to(slides: Sequence[Path], annotations: Path, config: CutConfig, screen: Screen) -> int:
    """`cut`; returns how many slides were left out."""
    check_settings(config)
    found = find_slides(slides)
    if not annotations.is_dir():
        raise HistoError(f"no folder {annotations} of annotations")
    check_installed()
    files = {name: find_annotation(annotations, path) for name, path in found.items()}
    if not any(files.values()):
        raise HistoError(
            f"{annotations} has annotations of none of the {counted(len(found), 'slide')}: "
            f"{next(iter(found))}.geojson, .xml or .png, say"
        )
    patients = patients_of(found, config.patient_from)
    classes = parse_classes(config.classes)
    check_names(files.values(), classes)
    rule = LabelRule.parse(config.cover, config.background or ("" if config.unlabelled else None))
    plan = CutPlan(
        *(config.size, config.mpp, config.stride, rule, classes, config.per_slide, config.seed),
        *(config.tissue, config.no_tissue, not config.no_files),
    )
    resolutions = SlideMpp.read(config.slide_mpp)
    with CutFolder.open(config.out, shared_settings(config)) as folder:
        check_apart(folder.path, found)
        cutter = Cutter(folder, plan, config.normal_slides, resolutions, screen)
        failed = [
            (name, why)
            for name, path in screen.track(found.items(), "cutting slides", len(found))
            if (why := cutter.cut(name, path, files[name]))
        ]
        folder.write_failed(failed)
        left_out = {name for name, _ in failed}  # though an earlier file of that name was cut
        whole = {name: one for name, one in patients.items() if name not in left_out}
        say_result(folder, folder.finish(whole), screen)
    return len(failed)


def check_settings(config: CutConfig) -> None:
    """HistoError for settings that contradict each other."""
    check_stride(config.size, config.stride)
    if config.tissue and config.no_tissue:
        raise HistoError(
            "outlines of tissue are given, and that they do not matter", "leave {no_tissue} out"
        )
    if config.background and config.unlabelled:
        raise HistoError(
            "tissue outside the annotations cannot be a class and without a label",
            "give {background} or {unlabelled}",
        )
    if config.normal_slides and not config.background:
        raise HistoError(
            "the class of slides without annotations is not known", "give {background}"
        )


def check_installed() -> None:
    """HistoError where a package that cutting needs is missing."""
    for name in ("openslide", "shapely", "tifffile"):
        if find_spec(name) is None:
            raise HistoError(f"whole slides need {name}: pip install 'histolearn[slides]'")


def parse_classes(given: Sequence[str]) -> dict[str, str]:
    """`NAME=CLASS` of each; `NAME=` leaves its areas out."""
    found = {}
    for text in given:
        name, equals, label = text.partition("=")
        if not name or not equals:
            raise HistoError(
                f"{text!r} does not say NAME=CLASS", "{classes} takes Tumor=tumour, say"
            )
        found[name] = label
    return found


def patients_of(slides: Mapping[str, Path], pattern: str | None) -> dict[str, str]:
    """The patient of each slide, by its name; empty without a pattern."""
    if pattern is None:
        return dict.fromkeys(slides, "")
    try:
        rule = Rule(pattern=re.compile(pattern))
    except re.error as error:
        raise HistoError(
            f"{pattern!r} is no regular expression: {error}",
            "{patient_from} takes one for the patient in a slide's name",
        ) from None
    return dict(zip(slides, rule.values(list(slides), "patient_from"), strict=True))


def shared_settings(config: CutConfig) -> dict[str, Any]:
    """The settings that all slides of a folder share, for cut.json."""
    return {
        "mpp": config.mpp,
        "size": config.size,
        "stride": config.stride or config.size,
        "cover": config.cover,
        "background": config.background,
        "unlabelled": config.unlabelled,
        "classes": list(config.classes),
        "tissue": "none" if config.no_tissue else "outlines" if config.tissue else "found",
        "per_slide": config.per_slide,
        "seed": config.seed,
        **({"files": False} if config.no_files else {}),
    }


@dataclass(frozen=True)
class Cutter:
    """Cuts the slides of a folder, one after the other."""

    folder: CutFolder
    plan: CutPlan
    normal_slides: bool
    resolutions: SlideMpp
    screen: Screen

    def cut(self, name: str, path: Path, annotation: Path | None) -> str:
        """Cut a slide unless it is done; the reason where it cannot be cut, else nothing."""
        try:
            self._cut(name, path, annotation)
        except HistoError as error:
            self.screen.say(f"{name}: {error.message}", *error.ways)
            return error.message
        return ""

    def _cut(self, name: str, path: Path, annotation: Path | None) -> None:
        if annotation is None and not self.normal_slides:
            raise HistoError(
                "it has no annotations", "{normal_slides} makes such slides background throughout"
            )
        with self.resolutions.open(name, path) as slide:
            if note := self.resolutions.unused(slide.mpp):
                self.screen.say(f"{name}: {note}")
            sources = [annotation] if annotation else []
            if self.plan.tissue:
                sources.append(tissue_file(self.plan.tissue, path))
            prints = [fingerprint_of(path), *map(sha256, sources), repr(slide.mpp)]
            key = hashlib.sha256(" ".join(prints).encode()).hexdigest()
            if self.folder.is_done(name, key):
                self.screen.say(f"{name}: done already")
                return
            with self.folder.making(name, key) as work:
                done = cut_slide(slide, name, annotation, self.plan, self.folder, work)
        counts = Counter(str(one) for one in done.tiles.names)
        self.screen.say(f"{name}: {classes_line(counts)}")
        self._say_annotations(name, done.found)

    def _say_annotations(self, name: str, found: Annotations) -> None:
        """What was done to the annotations of a slide, and which of them label nothing."""
        if found.mended:
            itself = "itself" if found.mended == 1 else "themselves"
            self.screen.say(f"{name}: {counted(found.mended, 'outline')} crossed {itself}: mended")
        if found.outside:
            self.screen.say(
                f"note: {name}: {counted(found.outside, 'outline')} of a class outside the slide: is "
                "the file of this slide, and in its px?"
            )
        if found.flat:
            self.screen.say(
                f"note: {name}: {counted(found.flat, 'annotation')} of a class without an area (a point "
                "or a line), left out"
            )
        if found.shared:
            one, other = found.shared
            self.screen.say(
                f"note: {name}: areas of {one!r} and {other!r} overlap: a patch is of the class that "
                f"covers more of it, and of {one!r} where both cover as much",
                "{classes} names those to read",
            )


def classes_line(counts: Mapping[str, int]) -> str:
    """How many patches of each class."""
    found = [
        f"{n:,} {name!r}" if name else f"{n:,} without a label"
        for name, n in sorted(counts.items())
    ]
    return ", ".join(found) or "no patch"


def check_names(files: Iterable[Path | None], classes: Mapping[str, str]) -> None:
    """HistoError where a mapped name is in no file, with the names that are."""
    wanted, there = set(classes), set[str]()
    for path in filter(None, files):
        if wanted <= there:  # as after the first file, mostly
            return
        with suppress(HistoError):  # said of its slide
            there |= names_in(path)
    if missing := sorted(wanted - there):
        names = ", ".join(repr(name) for name in sorted(there - {""})[:20]) or "none with a name"
        raise HistoError(f"no annotation is called {missing[0]!r}: there are {names}")


def say_result(folder: CutFolder, joined: Joined, screen: Screen) -> None:
    """What was cut, and how to train on it: by patients or slides where there are several."""
    if not joined.counts:
        raise HistoError(f"no patch has a label: see the lines above, and {folder.path / FAILED}")
    groups = ""
    if joined.slides > 1:
        groups = f" --groups {folder.path / GROUPS}{':patient' if joined.patients > 1 else ''}"
    screen.say(
        f"data: {folder.path}: {classes_line(joined.counts)} (next: histo train {folder.path}"
        f"{groups})"
    )
