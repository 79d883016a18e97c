"""`histo train`, for real."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from histo.config import TrainConfig
from histo.files.writing import write_json
from histo.model.body import make_body
from histo.run.folder import RunFolder
from histo.run.predictions import read_predictions
from histo.training.callbacks import Watch
from histo.training.recipe import Plan, fit
from histo.training.resume import read_settings
from tests.conftest import TINY, assert_one_line_error, rows_of, run_histo, write_image
from tests.small import dataset_of, learner_of, report


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def copy_of(dataset: Path, tmp_path: Path) -> Path:
    """A small data set of its own to spoil: 32 patches and their table."""
    data = tmp_path / "data"
    (data / "train").mkdir(parents=True)
    rows = (dataset / "train_labels.csv").read_text().splitlines()[:33]
    (data / "train_labels.csv").write_text("\n".join(rows) + "\n")
    for row in rows[1:]:
        name = f"{row.split(',')[0]}.tif"
        shutil.copy(dataset / "train" / name, data / "train" / name)
    return data


def first_patch(data: Path) -> Path:
    name = (data / "train_labels.csv").read_text().splitlines()[1].split(",")[0]
    return data / "train" / f"{name}.tif"


def test_a_run_folder_holds_all_that_the_design_says(tiny_run):
    assert files(tiny_run) >= {
        "config.json",
        "environment.json",
        "split.csv",
        "history.csv",
        "checkpoint/best.safetensors",
        "predictions.csv",
        "learning_curve.png",
        "samples.png",
        "report/metrics.json",
        "export/model.json",
    }
    assert not [name for name in files(tiny_run) if Path(name).name.startswith(".")]


def test_every_setting_is_recorded_with_its_source(tiny_run, dataset):
    config = json.loads((tiny_run / "config.json").read_text())
    assert config["epochs"] == {"value": 2, "source": "given"}
    assert config["seed"] == {"value": 0, "source": "default"}
    assert config["lr"]["source"] == "found"
    assert config["images"] == {"value": str(dataset / "train"), "source": "found"}


def test_the_split_is_stratified_and_the_table_is_of_its_valid_patches(tiny_run):
    split = rows_of(tiny_run / "split.csv")
    valid = [row for row in split if row["split"] == "valid"]
    assert (len(split), len(valid)) == (160, 32)
    assert sum(row["label"] == "1" for row in valid) == 16
    table = read_predictions(tiny_run / "predictions.csv")
    assert table.ids == [row["id"] for row in valid]
    assert [table.vocab[c] for c in table.labels] == [row["label"] for row in valid]


def test_history_has_a_row_an_epoch_with_the_frozen_one_first(tiny_run):
    rows = RunFolder(tiny_run).read_history()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(0 <= row["roc_auc"] <= 1 and row["patches_per_second"] > 0 for row in rows)


def test_the_best_epoch_is_the_one_kept(tiny_run):
    best = max(row["roc_auc"] for row in RunFolder(tiny_run).read_history())
    metrics = json.loads((tiny_run / "report" / "metrics.json").read_text())
    assert metrics["roc_auc"] == pytest.approx(best, abs=1e-5)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_figures(tiny_run, dataset, weights, tmp_path):
    again = tmp_path / "again"
    run_histo("train", dataset, *TINY, "--weights", weights, "--epochs", 2, "--out", again)
    for name in ("split.csv", "predictions.csv"):
        assert (again / name).read_bytes() == (tiny_run / name).read_bytes()


@pytest.mark.slow
def test_training_learns_and_needs_no_store_to_give_the_same(dataset, weights, tmp_path):
    runs = []
    for n, where in enumerate((["--no-store"], ["--store", tmp_path / "store"])):
        out = tmp_path / f"run{n}"
        words = ["--weights", weights, "--epochs", 1, "--out", out, *where]
        result = run_histo("train", dataset, *(w for w in TINY if w != "--no-store"), *words)
        assert result.exit_code == 0
        history = [(r["train_loss"], r["valid_loss"]) for r in RunFolder(out).read_history()]
        runs.append((history, (out / "predictions.csv").read_bytes()))
    assert runs[0] == runs[1]
    assert list((tmp_path / "store").glob("*.npy"))
    again = read_settings(RunFolder(out), TrainConfig(dataset))
    assert again.store == tmp_path / "store", "resumed, it would decode into another store"


def test_while_frozen_the_body_keeps_still_and_batch_norm_too():
    """Not a tensor of the body moves, running statistics included; then all of it trains."""
    pixels = np.random.default_rng(0).integers(0, 256, (96, 48, 48, 3), dtype=np.uint8)
    learn = learner_of(dataset_of(pixels, np.arange(96) < 32), "resnet18", 32)
    seen = []

    def look(learn, _epoch):
        seen.append({k: v.clone() for k, v in learn.model[0].state_dict().items()})
        report(learn)

    before = {k: v.clone() for k, v in learn.model[0].state_dict().items()}
    head = learn.model[1][1].weight.clone()
    learn.add_cb(Watch(lambda: None, look))
    fit(learn, Plan(1, 1, 1e-3, discriminative=True))
    assert all(torch.equal(before[k], seen[0][k]) for k in before)
    assert not all(torch.equal(before[k], seen[1][k]) for k in before)
    assert not torch.equal(head, learn.model[1][1].weight)
    assert all(p.grad is None or not p.is_inference() for p in learn.model.parameters())


def test_an_id_that_is_the_sha1_of_other_pixels_is_said(dataset, tmp_path):
    data = copy_of(dataset, tmp_path)
    patch = first_patch(data)
    write_image(patch, np.zeros((48, 48, 3), np.uint8))
    words = ["--weights", "none", "--epochs", 1, "--out", tmp_path / "run"]
    result = run_histo("train", data, *TINY, *words)
    assert f"1 id named by a SHA-1 that is not of the pixels, {patch.stem} first" in result.stdout


def test_runs_are_numbered_and_never_overwritten(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for n in (1, 2):
        made = RunFolder.create(None, "squeezenet1_1", lambda run, _: write_json(run.config, {}))
        assert made.path == Path(f"runs/squeezenet1_1-{n}")
    words = ["train", dataset, *TINY, "--weights", "none", "--epochs", 1]
    assert "run: runs/squeezenet1_1-3 (next" in run_histo(*words).stdout
    before = files(tmp_path)
    assert_one_line_error(run_histo(*words, "--out", "runs/squeezenet1_1-3"), "never overwritten")
    assert files(tmp_path) == before


@pytest.mark.slow
def test_many_classes_names_png_and_a_given_split(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "pics").mkdir()
    lines = ["file,tissue,part"]
    for n in range(36):
        name = ("fat", "muscle", "nerve")[n % 3]
        pixels = rng.integers(0, 80, (40, 40, 3), dtype=np.uint8)
        pixels[..., n % 3] += 150
        write_image(tmp_path / "pics" / f"{n}.png", pixels)
        lines.append(f"{n}.png,{name},{'val' if n % 4 == 0 else 'train'}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    out = tmp_path / "run"
    columns = ["--id-column", "file", "--label-column", "tissue", "--split-column", "part"]
    where = ["--labels", tmp_path / "t.csv", "--images", tmp_path / "pics", "--size", 32]
    words = [*TINY, *columns, *where, "--weights", "none", "--epochs", 2, "--out", out]
    assert run_histo("train", tmp_path, *words).exit_code == 0
    table = read_predictions(out / "predictions.csv")
    assert table.vocab == ["fat", "muscle", "nerve"]
    assert table.ids == [f"{n}.png" for n in range(0, 36, 4)]
    result = run_histo("interpret", out)
    assert result.exit_code == 0, result.output
    assert run_histo("export", out).exit_code == 0


@pytest.mark.slow
def test_lr_find_runs_the_finder_and_saves_its_plot(dataset, weights, tmp_path):
    out = tmp_path / "run"
    words = ["--weights", weights, "--crop", 32, "--epochs", 1, "--lr", "find", "--out", out]
    result = run_histo("train", dataset, *TINY, *words)
    assert result.exit_code == 0, result.output
    assert (out / "lr_find.png").stat().st_size > 5000
    found = json.loads((out / "config.json").read_text())["lr"]
    assert found["source"] == "found"
    assert 1e-7 < found["value"] < 10


def test_fewer_patches_than_a_batch_shrink_the_batch_and_say_so(dataset, tmp_path):
    data = copy_of(dataset, tmp_path)
    words = [*TINY[:3], "--device", "cpu", "--weights", "none", "--epochs", 1]
    result = run_histo("train", data, *words, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "batch size 25: there are only 25 training patches" in result.stdout


def spoil_empty(data: Path) -> None:
    first_patch(data).write_bytes(b"")


def spoil_truncated(data: Path) -> None:
    path = first_patch(data)
    path.write_bytes(path.read_bytes()[:200])


def spoil_missing(data: Path) -> None:
    first_patch(data).unlink()


def spoil_folder(data: Path) -> None:
    first_patch(data).unlink()
    first_patch(data).mkdir()


def spoil_size(data: Path) -> None:
    write_image(first_patch(data), np.zeros((50, 50, 3), np.uint8))


def spoil_not_image(data: Path) -> None:
    first_patch(data).write_text("not an image")


def spoil_one_class(data: Path) -> None:
    table = data / "train_labels.csv"
    table.write_text(table.read_text().replace(",1\n", ",0\n"))


def spoil_rare_class(data: Path) -> None:
    table = data / "train_labels.csv"
    table.write_text(table.read_text().replace(",1\n", ",2\n", 1))


def spoil_no_table(data: Path) -> None:
    (data / "train_labels.csv").unlink()


def spoil_no_images(data: Path) -> None:
    shutil.rmtree(data / "train")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_empty, "is empty"),
        (spoil_truncated, "truncated or damaged"),
        (spoil_missing, "line 2: no patch"),
        (spoil_folder, "is a folder"),
        (spoil_size, "resizes all, --crop cuts the centre"),
        (spoil_not_image, "is not a TIF, PNG or JPEG"),
        (spoil_one_class, "one class only"),
        (spoil_rare_class, "class '2' has one patch"),
        (spoil_no_table, "(give --labels"),
        (spoil_no_images, "no images folder"),
    ],
)
def test_bad_data_is_one_line_and_leaves_nothing(dataset, tmp_path, spoil, said):
    data = copy_of(dataset, tmp_path)
    spoil(data)
    before = files(tmp_path)
    out = tmp_path / "run"
    assert_one_line_error(run_histo("train", data, *TINY, "--weights", "none", "--out", out), said)
    assert files(tmp_path) == before
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arch", "resnet5", "--weights", "none"], "the nearest are"),
        (["--weights", "nowhere.pth"], "no weights file nowhere.pth"),
        (["--weights", "none", "--device", "cuda:9"], "no device 'cuda:9'"),
        (["--weights", "none", "--precision", "fp16"], "fp16 needs a CUDA GPU"),
        (["--weights", "none", "--crop", "64"], "too small for a crop of 64"),
        (["--weights", "none", "--lr", "fast"], "learning rate 'fast' is not"),
    ],
)
def test_bad_settings_are_one_line_and_leave_nothing(dataset, tmp_path, words, said):
    out = tmp_path / "run"
    assert_one_line_error(run_histo("train", dataset, *TINY, *words, "--out", out), said)
    assert not out.exists()


def test_a_loss_that_is_not_finite_stops_with_one_line(dataset, tmp_path):
    out = tmp_path / "run"
    words = ["--weights", "none", "--lr", "1e30", "--epochs", 1, "--out", out]
    assert_one_line_error(run_histo("train", dataset, *TINY, *words), "not finite", "--lr")
    assert not out.exists()


def test_a_full_disk_is_one_line(dataset, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    out = tmp_path / "run"
    result = run_histo("train", dataset, *TINY, "--weights", "none", "--epochs", 1, "--out", out)
    assert_one_line_error(result, "No space left on device")
    assert not out.exists()


def test_a_gpu_out_of_memory_names_the_batch_size_to_try(dataset, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("histo.training.recipe.fit", full)
    out = tmp_path / "run"
    result = run_histo("train", dataset, *TINY, "--weights", "none", "--out", out)
    assert_one_line_error(result, "out of memory at batch size 16 (try --batch-size 8)")
    assert not out.exists()


@pytest.mark.slow
def test_an_efficientnet_lite_has_a_linear_head_and_is_trained_whole_at_once(
    dataset, tmp_path, monkeypatch
):
    """No frozen epoch: a head fitted to the features of ImageNet makes its loss jump afterwards.

    And at one rate: in all folds better than discriminative ones (docs/measurements.md).
    """
    rates = []

    def watched(learn, plan, at):
        fit(learn, plan, at)
        rates.extend(group["lr"] for group in learn.opt.hypers)

    monkeypatch.setattr("histo.training.recipe.fit", watched)
    save_file(make_body("tf_efficientnet_lite0").state_dict(), tmp_path / "lite0.safetensors")
    words = ("--arch", "tf_efficientnet_lite0", "--weights", tmp_path / "lite0.safetensors")
    words += ("--epochs", "1", "--no-store", "--device", "cpu", "--precision", "fp32")
    done = run_histo("train", dataset, *words, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "0 + 1 epochs" in done.stdout
    assert len(rates) == 3
    assert len(set(rates)) == 1
    weights = load_file(tmp_path / "run" / "checkpoint" / "best.safetensors")
    head = sorted(tuple(value.shape) for name, value in weights.items() if name.startswith("1."))
    assert head == [(2,), (2, 1280)]
    exported = run_histo("export", tmp_path / "run", "--precision", "fp32")
    assert exported.exit_code == 0, exported.output
    predicted = run_histo(
        "predict", tmp_path / "run" / "export", dataset, "--out", tmp_path / "p.csv"
    )
    assert predicted.exit_code == 0, predicted.output
