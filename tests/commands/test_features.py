"""histo features: the features of a body for other programs."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from histo.data.decode import read_patch
from histo.files.digests import sha256
from histo.model.body import make_body
from histo.pixels.normalise import Normalise
from tests.conftest import assert_one_line_error, rows_of, run_histo


@pytest.fixture(scope="module")
def tiles(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten patches of two slides, and a table of where they were cut, as histo cut writes it."""
    folder = tmp_path_factory.mktemp("tiles")
    patches = sorted((dataset / "train").iterdir())[:10]
    with (folder / "tiles.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "slide", "x", "y", "width", "height"])
        for number, patch in enumerate(patches):
            shutil.copy(patch, folder / patch.name)
            table.writerow([patch.stem, f"S{number % 2}", 96 * number, 192, 96, 96])
    return folder / "tiles.csv"


def expected(weights: Path, patches: list[Path]) -> np.ndarray:
    """The features of squeezenet1_1 by torch alone."""
    body = make_body("squeezenet1_1")
    body.load_state_dict(load_file(weights))
    pixels = torch.from_numpy(np.stack([read_patch(path) for path in patches]))
    batch = Normalise([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(pixels).permute(0, 3, 1, 2)
    with torch.no_grad():
        return body.eval()(batch).numpy()


def test_clam_finds_features_and_coordinates(tiles, weights, tmp_path):
    """`features` and `coords` by name, as CLAM and TRIDENT read them."""
    out = tmp_path / "f.h5"
    words = ["features", "squeezenet1_1", tiles, "--weights", weights, "--out", out]
    result = run_histo(*words)
    assert result.exit_code == 0, result.output
    rows = rows_of(tiles)
    patches = [next(tiles.parent.glob(f"{row['id']}.*")) for row in rows]
    with h5py.File(out) as file:
        assert np.abs(file["features"][:] - expected(weights, patches)).max() < 1e-4
        assert file["coords"][:].tolist() == [[96 * n, 192] for n in range(10)]
        assert file["coords"].attrs["patch_size_level0"] == 96
        assert file["coords"].attrs["patch_size"] == 48
        assert [name.decode() for name in file["ids"][:]] == [row["id"] for row in rows]
        assert file.attrs["body"] == "squeezenet1_1"
    assert_one_line_error(run_histo(*words), "exists and is not what histo writes there", "--force")
    assert run_histo(*words, "--force").exit_code == 0


def test_stamp_finds_coordinates_in_micrometres(tiles, weights, tmp_path):
    """Level-0 px times 0.25 µm, as 96 px of the slide are 48 px of 0.5 µm."""
    out = tmp_path / "f.h5"
    words = ["features", "squeezenet1_1", tiles, "--weights", weights, "--layout", "stamp"]
    assert_one_line_error(run_histo(*words, "--out", out), "STAMP has coordinates in µm", "--mpp")
    assert run_histo(*words, "--mpp", 0.5, "--out", out).exit_code == 0
    with h5py.File(out) as file:
        assert file["feats"].shape == (10, 512)
        assert file["coords"][3].tolist() == [0.25 * 96 * 3, 0.25 * 192]
        assert (file.attrs["unit"], file.attrs["feat_type"]) == ("um", "tile")
        assert (file.attrs["tile_size_um"], file.attrs["tile_size_px"]) == (24.0, 48)


def test_a_folder_gets_a_file_for_each_slide(tiles, weights, tmp_path):
    words = ["features", "squeezenet1_1", "--weights", weights, "--out", tmp_path / "slides"]
    assert run_histo(*words, tiles).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "slides").iterdir()) == ["S0.h5", "S1.h5"]
    with h5py.File(tmp_path / "slides" / "S1.h5") as file:
        assert file["coords"][:, 0].tolist() == [96, 288, 480, 672, 864]
    assert_one_line_error(run_histo(*words, tiles.parent), "to get a file for each slide")


def test_slides_of_one_name_do_not_write_over_each_other(tiles, weights, tmp_path):
    """And several slides in one file are said to be so."""
    words = ["features", "squeezenet1_1", "--weights", weights, "--images", tiles.parent]
    lines = tiles.read_text().replace(",S0,", ",a/S0,").replace(",S1,", ",b/S0,")
    (tmp_path / "tiles.csv").write_text(lines)
    done = run_histo(*words, tmp_path / "tiles.csv", "--out", tmp_path / "slides")
    assert_one_line_error(done, "two slides are called S0")
    done = run_histo(*words, tiles, "--out", tmp_path / "f.h5")
    assert "coords in" in done.stdout
    assert "are of 2 slides" in done.stdout


def test_a_bundle_gives_the_features_of_its_body_as_parquet(tiny_run, dataset, tmp_path):
    """They and the head give the bundle's logits; the patch that cannot be read is left out."""
    parquet = pytest.importorskip("pyarrow.parquet")
    shutil.copytree(dataset / "test", tmp_path / "test")
    (tmp_path / "test" / "bad.png").write_bytes(b"no image")
    out = tmp_path / "f.parquet"
    result = run_histo(
        "features", tiny_run / "export", tmp_path / "test", "--out", out, "--skip-bad"
    )
    assert result.exit_code == 3, result.output
    assert [row["id"] for row in rows_of(tmp_path / "f.skipped.csv")] == ["bad"]
    table = parquet.read_table(out)
    assert table.num_rows == 24
    assert table["features"].type.list_size == 512
    assert table.schema.metadata[b"body"] == b"squeezenet1_1"


def test_a_bad_patch_that_comes_first_is_left_out_too(dataset, weights, tmp_path):
    shutil.copytree(dataset / "test", tmp_path / "test")
    (tmp_path / "test" / "0.png").write_bytes(b"no image")
    words = ["--weights", weights, "--out", tmp_path / "f.h5", "--skip-bad", "--mpp", 0.5]
    result = run_histo("features", "squeezenet1_1", tmp_path / "test", *words, "--size", 64)
    assert result.exit_code == 3, result.output
    assert [row["id"] for row in rows_of(tmp_path / "f.skipped.csv")] == ["0"]


def test_patches_of_several_sides_are_refused_where_their_resolution_is_given(
    dataset, weights, tmp_path
):
    """Resized, they have another µm per px each; a crop first gives all the same."""
    shutil.copytree(dataset / "test", tmp_path / "test")
    small = sorted((tmp_path / "test").iterdir())[-1]
    cv2.imwrite(str(small), cv2.imread(str(small))[:32, :32])
    words = ["features", "squeezenet1_1", tmp_path / "test", "--weights", weights, "--mpp", 0.5]
    words += ["--size", 40, "--layout", "stamp", "--out", tmp_path / "f.h5"]
    result = run_histo(*words)
    assert_one_line_error(result, f"{small} is 32x32 px", "the same µm per px", "--crop cuts")
    assert not (tmp_path / "f.h5").exists()
    assert run_histo(*words, "--crop", 32).exit_code == 0
    with h5py.File(tmp_path / "f.h5") as file:
        assert file.attrs["tile_size_um"] == 16
    assert run_histo(*words, "--skip-bad", "--force").exit_code == 3
    assert [row["id"] for row in rows_of(tmp_path / "f.skipped.csv")] == [small.stem]


def test_features_say_which_weights_made_them(dataset, tiny_run, weights, tmp_path):
    """By name and by digest: a bundle in its usual place, and a file."""
    found = []
    for body, more in (
        (tiny_run / "export", ()),
        ("squeezenet1_1", ("--weights", weights)),
    ):
        words = ["features", body, dataset / "test", "--out", tmp_path / "f.h5", "--force", *more]
        assert run_histo(*words).exit_code == 0
        with h5py.File(tmp_path / "f.h5") as file:
            found.append((file.attrs["weights"], file.attrs["weights_sha256"]))
    of_bundle = sha256(tiny_run / "export" / "model.safetensors")
    assert found == [(f"{tiny_run.name}/export", of_bundle), (weights.name, sha256(weights))]


def test_files_of_others_in_a_folder_are_replaced_only_when_asked(tiles, weights, tmp_path):
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "S1.h5").write_text("the user's own")
    words = ["features", "squeezenet1_1", tiles, "--weights", weights, "--out", tmp_path / "slides"]
    assert_one_line_error(run_histo(*words), "S1.h5 exists and is not what histo writes", "--force")
    assert not (tmp_path / "slides" / "S0.h5").exists()
    assert run_histo(*words, "--force").exit_code == 0
    (tmp_path / "slides" / "S1.h5").unlink()  # as if it had been cut
    assert run_histo(*words).exit_code == 0
    assert (tmp_path / "slides" / "S1.h5").exists()


def test_the_weights_are_never_written_over(tiles, weights, tmp_path):
    torch.save(load_file(weights), tmp_path / "weights.h5")
    words = ["--weights", tmp_path / "weights.h5", "--out", tmp_path / "weights.h5", "--force"]
    result = run_histo("features", "squeezenet1_1", tiles, *words)
    assert_one_line_error(result, "is an input", "which would be lost")


def test_a_bundle_that_is_not_there_and_weights_beside_a_bundle_are_refused(
    tiny_run, tiles, weights, tmp_path
):
    out = ["--out", tmp_path / "f.h5"]
    result = run_histo("features", tmp_path / "export", tiles, *out)
    assert_one_line_error(result, "no bundle", "the name of an architecture")
    result = run_histo("features", tiny_run / "export", tiles, "--weights", weights, *out)
    assert_one_line_error(result, "has its own weights", "leave --weights out")


def test_features_that_are_no_numbers_are_refused(dataset, weights, tmp_path):
    tensors = load_file(weights)
    tensors["features.0.bias"].fill_(float("nan"))
    save_file(tensors, tmp_path / "damaged.safetensors")
    words = ["--weights", tmp_path / "damaged.safetensors", "--out", tmp_path / "f.h5"]
    result = run_histo("features", "squeezenet1_1", dataset / "test", *words)
    assert_one_line_error(result, "the features are not finite: the body's weights are damaged")
    assert not (tmp_path / "f.h5").exists()


def test_another_suffix_is_refused(dataset, tmp_path):
    result = run_histo("features", "resnet18", dataset / "test", "--out", tmp_path / "f.csv")
    assert_one_line_error(result, "features are written as .h5 or .parquet, or as a folder")
