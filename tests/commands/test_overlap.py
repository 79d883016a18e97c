"""`histo evaluate` on patches, near-copies and slides of the training: nothing is called new that is not."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from histo.data.decode import cv2
from histo.data.synth import synthetic_patches
from tests.conftest import TINY, run_histo, write_image


def write_set(folder: Path, patches: list[np.ndarray], slides: list[str], kind: str) -> Path:
    """A data set with groups.csv, its patches saved as `kind` says."""
    (folder / "train").mkdir(parents=True)
    with (
        (folder / "train_labels.csv").open("w", newline="") as labels,
        (folder / "groups.csv").open("w", newline="") as groups,
    ):
        csv.writer(labels).writerow(["id", "label"])
        csv.writer(groups).writerow(["id", "slide"])
        for n, pixels in enumerate(patches):
            write_image(folder / "train" / f"p{n}.{kind}", pixels)
            csv.writer(labels).writerow([f"p{n}", n % 2])
            csv.writer(groups).writerow([f"p{n}", slides[n]])
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, weights) -> tuple[Path, list[np.ndarray]]:
    """The bundle of a model trained on 40 patches of ten slides, and the patches."""
    folder = tmp_path_factory.mktemp("overlap")
    patches = [pixels for pixels, _ in synthetic_patches(40, seed=3)]
    data = write_set(folder / "data", patches, [f"s{n // 2 % 10}" for n in range(40)], "png")
    run = folder / "run"
    words = ("--weights", weights, "--groups", data / "groups.csv", "--out", run, *TINY)
    result = run_histo("train", data, "--epochs", 1, "--freeze-epochs", 0, *words)
    assert result.exit_code == 0, result.output
    assert run_histo("export", run).exit_code == 0
    return run / "export", patches


def first_lines(bundle: Path, data: Path, *words: object) -> str:
    result = run_histo("evaluate", bundle, data, "--out", data.with_name("run"), *words)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


@pytest.mark.slow
def test_copies_turned_and_saved_as_jpeg_are_not_called_new(trained, tmp_path):
    bundle, patches = trained
    copies = [np.rot90(p) if n % 2 else p[:, ::-1] for n, p in enumerate(patches)]
    copies = [np.ascontiguousarray(p) for p in copies]
    said = first_lines(bundle, write_set(tmp_path / "data", copies, [""] * 40, "jpg"))
    assert "40 of 40 patches nearly equal one of those" in said
    assert "too optimistic to be trusted" in said
    assert "new to the model" not in said


@pytest.mark.slow
def test_slides_of_the_training_are_named_and_new_ones_are_not(trained, tmp_path):
    bundle, _ = trained
    others = [pixels for pixels, _ in synthetic_patches(20, seed=4)]
    data = write_set(tmp_path / "one" / "data", others, ["s1", "t"] * 10, "png")
    said = first_lines(bundle, data, "--groups", data / "groups.csv")
    assert "1 slide of the training is here too, as s1" in said
    data = write_set(tmp_path / "two" / "data", others, ["u", "t"] * 10, "png")
    said = first_lines(bundle, data, "--groups", data / "groups.csv")
    assert "The patches are new to the model" in said
    assert "no slide has the name of one of the training" in said
    assert "Not compared" not in said


@pytest.mark.slow
def test_what_was_not_compared_is_said(trained, tmp_path):
    """Without groups, slides; without hashes in the bundle, near-duplicates too."""
    bundle, _ = trained
    others = [pixels for pixels, _ in synthetic_patches(20, seed=4)]
    data = write_set(tmp_path / "data", others, [""] * 20, "png")
    assert "none nearly equals one of those. Not compared: slides or patients." in first_lines(
        bundle, data
    )


@pytest.mark.slow
def test_other_patches_are_never_near_ones_of_the_training(trained):
    """800 synthetic patches of other seeds, and 40 copies with noise: only the copies are near."""
    from histo.data.similar import similar_to, similarity_hashes

    _, patches = trained
    known = similarity_hashes(np.stack(patches))
    others = np.stack([pixels for pixels, _ in synthetic_patches(400, seed=9)])
    assert not similar_to(similarity_hashes(others), known).any()
    noise = np.random.default_rng(0).normal(0, 5, (40, 96, 96, 3))
    noisy = np.clip(np.stack(patches) + noise, 0, 255).astype(np.uint8)
    small = [cv2.resize(p, (48, 48), interpolation=cv2.INTER_AREA) for p in patches]
    back = np.stack([cv2.resize(p, (96, 96)) for p in small])
    assert similar_to(similarity_hashes(noisy), known).all()
    assert similar_to(similarity_hashes(back), known).all()
