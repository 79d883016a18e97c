"""µm per px of the patches: where it is known from, where it is kept, what is refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import histo
from histo.errors import HistoError
from tests.conftest import TINY, assert_one_line_error, run_histo, write_image

ONE_EPOCH = (*TINY, "--weights", "none", "--epochs", 1)


def train(data, run, *more):
    return run_histo("train", data, *ONE_EPOCH, "--out", run, *more)


def kept(run):
    """The entry of config.json, and the model's value."""
    config, card = (json.loads((run / name).read_text()) for name in ("config.json", "model.json"))
    return config["mpp"], card["mpp"]


@pytest.fixture
def patches(tmp_path):
    """A function that writes 24 patches with these sides in px, and their labels."""

    def write(*sides):
        folder = tmp_path / "data"
        (folder / "train").mkdir(parents=True)
        rng = np.random.default_rng(0)
        names = [f"p{n:02d}" for n in range(24)]
        for n, name in enumerate(names):
            side = sides[n % len(sides)]
            pixels = rng.integers(0, 255, (side, side, 3), np.uint8)
            write_image(folder / "train" / f"{name}.png", pixels)
        lines = [f"{name},{'ab'[n // 12]}" for n, name in enumerate(names)]
        (folder / "train_labels.csv").write_text("\n".join(["id,label", *lines, ""]))
        return folder

    return write


@pytest.mark.slow
def test_a_given_pixel_size_is_kept_in_run_and_bundle(patches, tmp_path):
    """The run's config says that it was given; the model's card and the bundle have it too."""
    assert train(patches(48), tmp_path / "run", "--mpp", 0.5).exit_code == 0
    assert kept(tmp_path / "run") == ({"value": 0.5, "source": "given"}, 0.5)
    assert run_histo("export", tmp_path / "run").exit_code == 0
    assert histo.load(tmp_path / "run" / "export").card.mpp == 0.5


@pytest.mark.slow
def test_each_fold_keeps_it(patches, tmp_path):
    """Of folds, the card of all and that of each have the µm per px that the models see."""
    done = train(patches(48), tmp_path / "run", "--mpp", 0.5, "--folds", 2, "--size", 96)
    assert done.exit_code == 0, done.output
    assert kept(tmp_path / "run") == ({"value": 0.5, "source": "given"}, 0.25)
    assert kept(tmp_path / "run" / "fold-2")[1] == 0.25


@pytest.mark.slow
def test_an_unknown_pixel_size_stays_unknown(patches, tmp_path):
    """Nothing is guessed; export takes it, also as a whole number in Python."""
    assert train(patches(48), tmp_path / "run").exit_code == 0
    assert kept(tmp_path / "run") == ({"value": None, "source": "found"}, None)
    assert histo.load(histo.export(tmp_path / "run", mpp=1)).card.mpp == 1.0


@pytest.mark.slow
def test_a_crop_leaves_the_pixel_size_and_resizing_changes_it(patches, tmp_path):
    """40 px at 0.5 µm per px, resized to 80 px, have 0.25, and the command says so."""
    words = ("--mpp", 0.5, "--crop", 40)
    done = train(patches(48), tmp_path / "run", *words, "--size", 80)
    assert "40 px resized to 80 px: 0.25 µm per px" in done.output
    assert kept(tmp_path / "run")[1] == 0.25
    assert train(tmp_path / "data", tmp_path / "cropped", *words).exit_code == 0
    assert kept(tmp_path / "cropped")[1] == 0.5


@pytest.mark.parametrize("mpp", [0.02, 100, 0, math.nan, math.inf])
def test_an_absurd_pixel_size_is_refused(mpp, patches, tmp_path):
    """On the command line, status 2; in Python, HistoError: before anything is read."""
    data = patches(48)
    assert train(data, tmp_path / "run", "--mpp", mpp).exit_code == 2
    with pytest.raises(HistoError, match=r"mpp is .*: it must be from 0\.05 to 50"):
        histo.train(data, mpp=mpp, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resizing_to_an_absurd_pixel_size_is_refused(patches, tmp_path):
    """A model whose bundle could not be opened is not trained."""
    done = train(patches(48), tmp_path / "run", "--mpp", 0.1, "--size", 128)
    assert_one_line_error(done, "48 px", "0.1 µm per px", "128 px", "0.0375", "--size")


def test_patches_of_several_sizes_have_no_pixel_size_once_resized(patches, tmp_path):
    """They train where no µm per px is claimed for them."""
    data = patches(48, 64)
    done = train(data, tmp_path / "run", "--mpp", 0.5, "--size", 32)
    assert_one_line_error(done, "64x64 px", "48 px", "leave --mpp out", "--crop")
    assert train(data, tmp_path / "run", "--size", 32).exit_code == 0


def test_a_given_pixel_size_that_the_cut_contradicts_is_said(patches, tmp_path):
    """What is given holds; what cut.json says is named beside it."""
    data = patches(48)
    (data / "cut.json").write_text('{"mpp": 0.972}')
    done = train(data, tmp_path / "run", "--mpp", 0.5)
    assert f"note: 0.5 µm per px as given, where {data / 'cut.json'} says 0.972" in done.output
    assert kept(tmp_path / "run")[1] == 0.5


@pytest.mark.parametrize("text", ['{"mpp": 1e300}', '{"mpp": NaN}', "[]", "{}", "{"])
def test_a_damaged_record_of_a_cut_is_refused_or_overridden(text, patches, tmp_path):
    """One line names the file; with the µm per px given it is not needed."""
    data = patches(48)
    (data / "cut.json").write_text(text)
    assert_one_line_error(train(data, tmp_path / "run"), str(data / "cut.json"))
    assert train(data, tmp_path / "run", "--mpp", 0.5).exit_code == 0


@pytest.mark.parametrize("text", ['{"source": "a scanner"}', "5", "{"])
def test_an_import_json_of_others_says_nothing(text, patches, tmp_path):
    """A file that happens to have that name does not make the patches PatchCamelyon's."""
    data = patches(48)
    (data / "import.json").write_text(text)
    assert train(data, tmp_path / "run").exit_code == 0
    assert kept(tmp_path / "run")[1] is None


@pytest.mark.slow
def test_the_record_beside_the_given_images_counts(patches, tmp_path):
    """Where --images names a folder elsewhere, its own record says what its patches are."""
    data = patches(48)
    (data / "cut.json").write_text('{"mpp": 2}')
    (tmp_path / "labels").mkdir()
    labels = (data / "train_labels.csv").replace(tmp_path / "labels" / "train_labels.csv")
    words = ("--images", data / "train", "--labels", labels)
    done = train(tmp_path / "labels", tmp_path / "run", *words)
    assert f"2 µm per px ({data / 'cut.json'})" in done.output
    assert kept(tmp_path / "run") == ({"value": 2.0, "source": "found"}, 2.0)


@pytest.mark.slow
def test_evaluating_patches_of_another_pixel_size_is_said(patches, tmp_path):
    """A model trained at 0.5 µm per px says what it thinks of patches that were cut at 1."""
    data = patches(48)
    assert train(data, tmp_path / "run", "--mpp", 0.5).exit_code == 0
    assert run_histo("export", tmp_path / "run").exit_code == 0
    for mpp, said in ((0.5, False), (1, True)):
        (data / "cut.json").write_text(json.dumps({"mpp": mpp}))
        words = ("--positive", "b", "--device", "cpu", "--out", tmp_path / f"at-{mpp}")
        done = run_histo("evaluate", tmp_path / "run" / "export", data, *words)
        assert done.exit_code == 0, done.output
        assert ("at 1 µm per px and was trained at 0.5" in done.output) is said
