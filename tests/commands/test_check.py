"""`histo check`: what is planted in a set is found, and nothing else."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from histo.config import TrainConfig
from histo.data.check.colour import judge_colours
from histo.data.check.duplicates import equal_sets, hash_thumbs, likeness, near_sets, thumbnail
from histo.data.check.inspect import inspect_files
from histo.data.check.quality import STATISTICS, faults, measure
from histo.data.decode import cv2
from histo.data.label_table import not_excluded, read_label_table
from histo.data.labels import read_labels
from histo.data.patch_files import PatchFiles, list_patches
from histo.data.synth import synthetic_patches
from histo.pixels.d4 import view
from histo.screen import Screen
from tests.conftest import SHARED, TINY, assert_one_line_error, rows_of, run_histo, write_image

PCAM = SHARED / "pcam-mini"
needs_pcam = pytest.mark.skipif(not PCAM.is_dir(), reason="the 4,000 real patches are not here")
RNG = np.random.default_rng(7)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def resized(pixels: np.ndarray, side: int) -> np.ndarray:
    small = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def clipped(pixels: np.ndarray) -> np.ndarray:
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda p: p,
    "jpeg": lambda p: jpeg(p, 75),
    "brighter": lambda p: clipped(p * 1.06),
    "darker": lambda p: clipped(p * 0.9),
    "resized": lambda p: resized(p, 48),
    "noisy": lambda p: clipped(p + RNG.normal(0, 4, p.shape)),
}


def measured(patches: list[np.ndarray]) -> np.ndarray:
    rows = np.zeros(len(patches), STATISTICS)
    for row, pixels in enumerate(patches):
        rows[row] = measure(np.ascontiguousarray(pixels))
    return rows


def train_ids(config: TrainConfig) -> list[str]:
    """The ids that a training with these settings uses."""
    return [row.id for row in read_label_table(config, Screen(quiet=True)).rows]


def sets(path: Path) -> set[frozenset[str]]:
    """The sets of a duplicates table, by the patches' ids."""
    found = defaultdict(set)
    for row in rows_of(path):
        found[row["set"]].add(row["id"])
    return {frozenset(ids) for ids in found.values()}


class Planted:
    """A set with every fault in it, and what `histo check` made of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows, self.out = folder, [], folder / "check"
        self.exclusions = folder / "exclusions.csv"
        (folder / "train").mkdir()
        self.patches = [pixels for pixels, _ in synthetic_patches(60, 5, 64)]
        for n, pixels in enumerate(self.patches):
            self.add(f"good{n}", pixels, label=n % 2, group=n // 5)
        self.near = {self.add_near(k) for k in range(8)}
        self.add("same20", self.patches[20], group=4)
        self.add("other21", self.patches[21], label=0, group=4)
        self.add("valid22", self.patches[22], label=0, split="valid", group=20)
        self.add("black0", np.full((64, 64, 3), 3, np.uint8))
        self.add("blank0", np.full((64, 64, 3), 240, np.uint8))
        self.add("blank1", clipped(235 + RNG.normal(0, 1, (64, 64, 3))))
        others = [pixels for pixels, _ in synthetic_patches(2, 6, 64)]
        self.add("blur0", cv2.GaussianBlur(others[0], (0, 0), 2))
        specks = np.full((64, 64, 3), 235, np.uint8)
        specks[20:24, 20:28] = 60
        self.add("poor0", specks)
        self.add("leak0", others[1], split="valid", group=3)
        self.add("broken0", self.patches[0])
        (folder / "train" / "broken0.png").write_text("no image")
        self.rows.append(("ghost0", 0, "train", "s20"))
        self.write()

    def add(
        self, name: str, pixels: np.ndarray, label: int = 0, split: str = "train", group: int = 20
    ) -> None:
        """A patch, and its row."""
        write_image(self.folder / "train" / f"{name}.png", np.ascontiguousarray(pixels))
        self.rows.append((name, label, split, f"s{group}"))

    def add_near(self, k: int) -> frozenset[str]:
        """Near-duplicates of patch k: every change, in view k of the eight."""
        names = {f"good{k}"}
        for change, make in CHANGES.items():
            if k == 0 and change == "as it is":
                continue  # that is an exact one
            name = f"near{k}-{change.replace(' ', '')}"
            self.add(name, view(make(self.patches[k])[None], k)[0], k % 2, group=k // 5)
            names.add(name)
        return frozenset(names)

    def write(self) -> None:
        """The tables."""
        for name, columns in (("train_labels.csv", (0, 1, 2)), ("slides.csv", (0, 3))):
            head = ("id", "label", "split", "slide")
            with (self.folder / name).open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow([head[c] for c in columns])
                rows.writerows([[row[c] for c in columns] for row in self.rows])


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The planted set, checked by the command as users call it."""
    made = Planted(tmp_path_factory.mktemp("planted"))
    words = ("--out", made.out, "--split-column", "split", "--groups", made.folder / "slides.csv")
    made.result = run_histo("check", made.folder, *words, "--write-exclusions", made.exclusions)
    return made


def test_every_near_duplicate_is_found_in_each_of_the_eight_views_and_no_other(planted):
    assert sets(planted.out / "near_duplicates.csv") == planted.near


def test_every_equal_patch_is_found_and_what_disagrees_or_leaks(planted):
    every = [{"good20", "same20"}, {"good21", "other21"}, {"good22", "valid22"}]
    assert sets(planted.out / "duplicates.csv") == set(map(frozenset, every))
    assert sets(planted.out / "duplicates_disagree.csv") == {frozenset(every[1])}
    assert sets(planted.out / "duplicates_split.csv") == {frozenset(every[2])}


def test_a_group_on_both_sides_is_found(planted):
    rows = {
        row["slide"]: (row["train"], row["valid"])
        for row in rows_of(planted.out / "groups_split.csv")
    }
    assert rows["s3"] == ("5", "1")
    assert set(rows) == {"s3", "s20"}


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("black", {"black0"}),
        ("blank", {"blank0", "blank1"}),
        ("blurred", {"blur0"}),
        ("tissue_poor", {"poor0"}),
        ("unreadable", {"broken0"}),
        ("missing", {"ghost0"}),
    ],
)
def test_each_planted_fault_is_found_and_no_other(planted, name, ids):
    assert {row["id"] for row in rows_of(planted.out / f"{name}.csv")} == ids


def test_errors_end_with_status_1_after_the_report_is_written(planted):
    assert planted.result.exit_code == 1
    assert "training would fail" in planted.result.stderr
    for said in (
        "error: 1 set of equal patches on both sides of the split\n  good22.png, valid22.png",
        "error: 2 groups of 13 (slide) on both sides of the split\n  s20\n  s3",
        "note: 8 sets of near-duplicates",
        "note: 2 blank patches",
        "1 of 13 groups (slide) with one class only",
        f"report: {planted.out / 'report.html'}",
    ):
        assert said in planted.result.stdout


def test_the_classes_of_each_group_are_in_a_table_largest_first(planted):
    rows = rows_of(planted.out / "by_group.csv")
    counts = [int(row["patches"]) for row in rows]
    assert counts == sorted(counts, reverse=True)
    assert {"slide": "s5", "patches": "5", "0": "2", "1": "3"} in rows


def test_the_page_holds_all_that_it_shows(planted):
    """One file: sheets of pictures inside, nothing from elsewhere but links to the CSVs beside it."""
    text = (planted.out / "report.html").read_text()
    pictures = re.findall(r'src="data:image/jpeg;base64,', text)
    assert len(pictures) >= 8 * 4 + 3 * 2 + 4
    assert set(re.findall(r'(?:src|href)="(?!data:)([^"]+)"', text)) == {
        path.name for path in planted.out.glob("*.csv")
    }


def test_the_index_names_every_finding_and_file(planted):
    index = json.loads((planted.out / "findings.json").read_text())
    assert index["findings"]["near_duplicates"] == {"count": 8, "fatal": False}
    assert {path.name for path in planted.out.iterdir()} == {*index["files"], "findings.json"}


def test_the_exclusions_keep_one_of_each_set_and_none_that_disagree(planted):
    reasons = {row["id"]: row["reason"] for row in rows_of(planted.exclusions)}
    expected = {"same20": "same pixels as good20", "valid22": "same pixels as good22"}
    expected |= {"good21": "same pixels as other21, labels disagree"}
    expected |= {"other21": "same pixels as good21, labels disagree"}
    expected |= {"black0": "black", "blank0": "blank", "blank1": "blank"}
    expected |= {"broken0": "cannot be read", "ghost0": "no such patch"}
    for k, names in enumerate(sorted(planted.near, key=min)):
        first = f"good{k}"
        assert first in names
        expected |= dict.fromkeys(names - {first}, f"near-duplicate of {first}")
    assert reasons == expected


def test_train_leaves_the_excluded_out(planted, weights, tmp_path):
    """The round trip: what cannot be trained on trains once the exclusions are left out."""
    words = ("train", planted.folder, "--arch", "squeezenet1_1", "--weights", weights, "--no-store")
    assert_one_line_error(run_histo(*words), "ghost0")
    config = TrainConfig(planted.folder, no_store=True, exclude=planted.exclusions)
    kept = train_ids(config)
    left_out = {row["id"] for row in rows_of(planted.exclusions)}
    assert sorted(kept) == sorted({row[0] for row in planted.rows} - left_out)
    words += ("--exclude", planted.exclusions, "--epochs", 1, "--out", tmp_path / "run")
    result = run_histo(*words, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert f"{len(left_out)} patches left out, as exclusions.csv says" in result.stdout


def test_the_table_of_any_finding_can_be_excluded(planted):
    config = TrainConfig(planted.folder, exclude=planted.out / "blurred.csv")
    rows = [row for row in read_labels(config.labels_csv) if row.id in ("blur0", "good0")]
    kept = not_excluded(rows, config.exclude, "id", Screen(quiet=True))
    assert [rows[place].id for place in kept] == ["good0"]


def test_ids_twice_with_two_labels_are_left_out_before_they_are_an_error(dataset, tmp_path):
    lines = (dataset / "train_labels.csv").read_text().splitlines()
    first, label = lines[1].split(",")
    (tmp_path / "l.csv").write_text("\n".join([*lines, f"{first},{1 - int(label)}"]))
    words = ("--labels", tmp_path / "l.csv", "--out", tmp_path / "c")
    file = tmp_path / "e.csv"
    assert run_histo("check", dataset, *words, "--write-exclusions", file).exit_code == 1
    assert file.read_text() == f'id,reason\n{first},"twice in the table, with different labels"\n'
    config = TrainConfig(dataset, labels=tmp_path / "l.csv", no_store=True, exclude=file)
    assert len(train_ids(config)) == 159


def test_good_data_has_no_findings_and_empty_exclusions_that_train_accepts(dataset, tmp_path):
    file = tmp_path / "none.csv"
    words = ("--out", tmp_path / "check", "--write-exclusions", file)
    result = run_histo("check", dataset, *words)
    assert result.exit_code == 0, result.output
    assert "note:" not in result.stdout
    assert file.read_text() == "id,reason\n"
    assert {p.name for p in (tmp_path / "check").iterdir()} == {"findings.json", "report.html"}
    assert len(train_ids(TrainConfig(dataset, exclude=file))) == 160


def test_the_id_column_keeps_its_name_in_every_table(tmp_path):
    for name, value in (("a", 250), ("b", 200), ("c", 250)):
        (tmp_path / "train").mkdir(exist_ok=True)
        write_image(tmp_path / "train" / f"{name}.png", np.full((16, 16, 3), value, np.uint8))
    (tmp_path / "train_labels.csv").write_text("name,class\na.png,x\nb.png,y\nc.png,x\n")
    words = ("--id-column", "name", "--label-column", "class", "--out", tmp_path / "out")
    result = run_histo("check", tmp_path, *words, "--write-exclusions", tmp_path / "e.csv")
    assert "1 class of one patch" in result.stdout
    assert (tmp_path / "e.csv").read_text().splitlines()[0] == "name,reason"
    rows = rows_of(tmp_path / "out" / "duplicates.csv")
    assert [(row["name"], row["class"]) for row in rows] == [("a.png", "x"), ("c.png", "x")]


def test_a_file_may_be_called_anything(tmp_path):
    planted_set(tmp_path, [pixels for pixels, _ in synthetic_patches(4, 3, 48)])
    for name in (b"two\nlines.png", b"<b>.png"):
        path = os.fsencode(tmp_path / "train") + b"/" + name
        Path(os.fsdecode(path)).write_bytes((tmp_path / "train" / "p0.png").read_bytes())
    result = run_histo("check", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    names = {row["file"] for row in rows_of(tmp_path / "out" / "duplicates.csv")}
    assert names == {"p0.png", "two\\nlines.png", "<b>.png"}
    assert "<b>.png" not in (tmp_path / "out" / "report.html").read_text()


def test_an_earlier_checks_files_are_replaced_and_no_others(dataset, tmp_path):
    out = tmp_path / "check"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert_one_line_error(
        run_histo("check", dataset, "--out", out), "holds files that are not of a check"
    )
    (out / "old.csv").write_text("old")
    (out / "findings.json").write_text('{"files": ["old.csv", "../train_labels.csv"]}')
    (tmp_path / "train_labels.csv").write_text("keep")
    assert run_histo("check", dataset, "--out", out).exit_code == 0
    assert {p.name for p in out.iterdir()} == {"findings.json", "report.html", "mine.txt"}
    assert (tmp_path / "train_labels.csv").read_text() == "keep"


def test_exclusions_for_no_folder_are_refused_before_the_work(dataset, tmp_path):
    words = ("--out", tmp_path / "c", "--write-exclusions", tmp_path / "none" / "e.csv")
    assert_one_line_error(run_histo("check", dataset, *words), "no folder")


def test_patches_that_the_groups_do_not_name_are_an_error(dataset, tmp_path):
    (tmp_path / "g.csv").write_text("id,slide\nsomething,s1\n")
    words = ("--out", tmp_path / "c", "--groups", tmp_path / "g.csv")
    result = run_histo("check", dataset, *words)
    assert result.exit_code == 1
    assert "error: 160 patches of which no slide is named" in result.stdout


# ---------------------------------------------------------------- channels


@pytest.fixture(scope="module")
def stained():
    """Forty synthetic H&E patches."""
    return [pixels for pixels, _ in synthetic_patches(40, 9, 64)]


def planted_set(folder: Path, patches: list[np.ndarray]) -> Path:
    """A folder in Kaggle's layout."""
    (folder / "train").mkdir(parents=True)
    for n, pixels in enumerate(patches):
        write_image(folder / "train" / f"p{n}.png", pixels)
    lines = "".join(f"p{n},{n % 2}\n" for n in range(len(patches)))
    (folder / "train_labels.csv").write_text(f"id,label\n{lines}")
    return folder


def test_a_set_with_red_and_blue_swapped_is_found(stained, tmp_path):
    swapped = planted_set(tmp_path / "bgr", [pixels[..., ::-1] for pixels in stained])
    result = run_histo("check", swapped, "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "note: red and blue may be swapped" in result.stdout
    assert "red and blue may be swapped" in (tmp_path / "out" / "report.html").read_text()
    assert judge_colours(measured(stained)).notes == []


def test_12_bits_in_16_bit_files_are_found(stained, tmp_path):
    crushed = [pixels.astype(np.uint16) * 16 for pixels in stained]
    result = run_histo("check", planted_set(tmp_path / "d", crushed), "--out", tmp_path / "out")
    assert "no value over 16 of 255, as where 12-bit samples lie in 16-bit files" in result.stdout


def test_low_bytes_of_16_bit_samples_are_found(stained):
    twelve = [pixels / 255 * 4095 + RNG.integers(0, 16, pixels.shape) for pixels in stained]
    low = [(np.round(pixels).astype(int) & 255).astype(np.uint8) for pixels in twelve]
    assert "noise" in " ".join(judge_colours(measured(low)).notes)


def test_other_pictures_than_stained_tissue_raise_no_alarm():
    """Brown and blue, green leaves, grey, dark blue: in whichever order, nothing is swapped."""
    places = np.linspace(0, 1, 64)[:, None, None]
    for light, dark in (
        ((235, 225, 215), (90, 50, 20)),
        ((120, 180, 70), (20, 60, 10)),
        ((240, 240, 240), (10, 10, 10)),
        ((40, 60, 200), (2, 2, 40)),
    ):
        ramp = np.array(light) * places + np.array(dark) * (1 - places)
        pictures = [clipped(np.repeat(ramp, 64, 1) + RNG.normal(0, 4, (64, 64, 3)))] * 20
        for order in (1, -1):
            turned = [picture[..., ::order] for picture in pictures]
            assert judge_colours(measured(turned)).notes == []


@pytest.mark.slow
@needs_pcam
def test_real_patches_raise_no_alarm_that_a_person_does_not_share():
    """4,000 of PatchCamelyon: no duplicates, and the few empty or blurred ones that were looked at."""
    seen = inspect_files(list_patches(PCAM / "train"), Screen(quiet=True))
    shown = seen.statistics["contrast"] >= 3
    assert equal_sets(seen.sha1) == []
    assert near_sets(seen.thumbs, seen.sha1, shown) == []
    counts = {name: int(those.sum()) for name, those in faults(seen.statistics).items()}
    assert counts == {"black": 1, "blank": 13, "blurred": 4, "tissue_poor": 22}
    colours = judge_colours(seen.statistics)
    assert colours.notes == []
    assert colours.distance < 0.01


@needs_pcam
def test_hundred_real_patches_tell_that_red_and_blue_are_swapped():
    paths = list_patches(PCAM / "train")
    picked = PatchFiles(paths.folder, paths.names[::13])
    patches = [cv2.imread(str(path))[..., ::-1] for path in picked]
    for start in (0, 100, 200):
        part = patches[start : start + 100]
        assert judge_colours(measured(part)).notes == []
        assert "may be swapped" in judge_colours(measured([p[..., ::-1] for p in part])).notes[0]


# ---------------------------------------------------------------- parts


def test_the_hash_is_the_same_for_all_eight_views(stained):
    thumbs = np.stack([thumbnail(pixels) for pixels in stained])
    hashes = hash_thumbs(thumbs)
    for k in range(8):
        assert np.abs(hash_thumbs(np.ascontiguousarray(view(thumbs, k))) - hashes).max() < 1e-5
    apart = np.linalg.norm(hashes[:, None] - hashes[None], axis=2)
    assert apart[~np.eye(len(apart), dtype=bool)].min() > 0.02


def test_likeness_is_one_for_a_view_and_low_for_another_picture(stained):
    thumbs = np.stack([thumbnail(pixels) for pixels in stained])
    for k in range(8):
        turned = np.ascontiguousarray(view(thumbs, k))
        assert likeness(thumbs, turned).min() > 0.999
    assert likeness(thumbs, np.roll(thumbs, 1, 0)).max() < 0.7


def test_a_set_of_many_near_duplicates_is_one_set(stained):
    """More of them than each is compared with."""
    copies = [clipped(stained[0] + RNG.normal(0, 4, stained[0].shape)) for _ in range(40)]
    thumbs = np.stack([thumbnail(pixels) for pixels in [*stained, *copies]])
    names = np.array([str(n) for n in range(len(thumbs))], "S40")
    (found,) = near_sets(thumbs, names, np.ones(len(thumbs), bool))
    assert found.tolist() == [0, *range(40, 80)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (2, 3)])
def test_patches_of_any_size_are_measured(shape):
    row = measured([RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)])
    assert np.isfinite(row["sharpness"][0])
    assert thumbnail(np.zeros((*shape, 3), np.uint8)).shape == (24, 24)


def test_mean_and_covariance_come_out_exactly():
    patches = [RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(10)]
    colours = judge_colours(measured(patches))
    pixels = np.stack(patches).reshape(-1, 3) / 255
    assert colours.mean == pytest.approx(pixels.mean(0), abs=1e-5)
    assert colours.sd == pytest.approx(pixels.std(0), abs=1e-5)
    assert colours.correlation == pytest.approx(np.corrcoef(pixels.T), abs=1e-4)


# ---------------------------------------------------------------- what is ready trains


def random_set(
    folder: Path, labels: list[str], sizes: dict[int, tuple[int, int]] | None = None
) -> Path:
    """Random patches of 48 px, some of other sizes, and their labels."""
    (folder / "train").mkdir(parents=True)
    for n in range(len(labels)):
        shape = (sizes or {}).get(n, (48, 48))
        write_image(folder / "train" / f"p{n:03d}.png", RNG.integers(0, 255, (*shape, 3), np.uint8))
    rows = "".join(f"p{n:03d},{label}\n" for n, label in enumerate(labels))
    (folder / "train_labels.csv").write_text(f"id,label\n{rows}")
    return folder


def test_a_class_of_two_patches_is_ready_and_trains(weights, tmp_path):
    data = random_set(tmp_path / "d", ["0"] * 40 + ["1"] * 2)
    assert run_histo("check", data, "--out", tmp_path / "c").exit_code == 0
    words = (*TINY, "--weights", weights, "--epochs", 1, "--out", tmp_path / "run")
    assert run_histo("train", data, *words).exit_code == 0
    split = {row["id"]: row["split"] for row in rows_of(tmp_path / "run" / "split.csv")}
    assert {split["p040"], split["p041"]} == {"train", "valid"}


def test_a_class_of_two_equal_patches_is_not_ready_and_does_not_train(tmp_path):
    data = random_set(tmp_path / "d", ["0"] * 40 + ["1"] * 2)
    first, second = (data / "train" / f"p{n:03d}.png" for n in (40, 41))
    second.write_bytes(first.read_bytes())
    result = run_histo("check", data, "--out", tmp_path / "c")
    assert result.exit_code == 1
    assert "no split is possible: no patch of class '1' in valid" in result.stdout
    assert_one_line_error(run_histo("train", data, "--no-store"), "no patch of class '1' in valid")


def test_one_group_is_not_ready_and_three_are(tmp_path):
    data = random_set(tmp_path / "d", ["0", "1"] * 12)
    for count in (1, 3):
        rows = "".join(f"p{n:03d},s{n // 2 % count}\n" for n in range(24))
        (data / f"{count}.csv").write_text(f"id,slide\n{rows}")
    ready = run_histo("check", data, "--groups", data / "3.csv", "--out", tmp_path / "c3")
    assert ready.exit_code == 0, ready.output
    words = ("--groups", data / "1.csv")
    result = run_histo("check", data, *words, "--out", tmp_path / "c1")
    assert "no split is possible: all patches are of one group ('s0')" in result.stdout
    assert_one_line_error(run_histo("train", data, *words), "all patches are of one group ('s0')")


def test_what_is_nearly_called_so_is_named(tmp_path):
    data = random_set(tmp_path / "d", ["0", "1"] * 10)
    table = data / "train_labels.csv"
    table.write_text(table.read_text().replace("p003", "p3"))
    result = run_histo("check", data, "--out", tmp_path / "c")
    assert "1 label without a patch\n  p3 (there is p003.png)" in result.stdout


def test_labels_that_fit_no_file_say_nothing_of_the_files_sizes(tmp_path):
    """Ids that Excel wrote as numbers: every label is without a patch, and no patch is odd."""
    data = random_set(tmp_path / "d", ["0", "1"] * 10)
    rows = "".join(f"{n}.0,{n % 2}\n" for n in range(20))
    (data / "train_labels.csv").write_text(f"id,label\n{rows}")
    result = run_histo("check", data, "--out", tmp_path / "c")
    assert "error: 20 labels without a patch" in result.stdout
    assert "not of" not in result.stdout


def test_exclusions_in_the_place_of_the_report_are_refused_before_the_work(dataset, tmp_path):
    words = ("--out", tmp_path / "c", "--write-exclusions", tmp_path / "c")
    assert_one_line_error(run_histo("check", dataset, *words), "is given for two outputs")
    assert not (tmp_path / "c").exists()


def test_one_slide_written_in_two_ways_is_noted(tmp_path):
    """`S1` and `s1`, `2` and `2.0`: each would be a group of its own, on both sides of the split."""
    data = random_set(tmp_path / "d", ["0", "1"] * 12)
    slides = ["S1", "S1", "s1", "s1", "2", "2", "2.0", "2.0", "x", "x", "y", "y"]
    rows = "".join(f"p{n:03d},{slides[n % 12]}\n" for n in range(24))
    (data / "g.csv").write_text(f"id,slide\n{rows}")
    words = ("--groups", data / "g.csv")
    result = run_histo("check", data, *words, "--out", tmp_path / "c")
    assert result.exit_code == 0, result.output
    assert "note: 2 sets of names of groups (slide) that look alike" in result.stdout
    assert (tmp_path / "c" / "similar_groups.csv").is_file()


def test_pixels_that_a_rule_of_reading_changed_are_noted_with_their_files(dataset, tmp_path):
    """Alpha and samples of 16 bits; the set trains all the same."""
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    first, second = sorted((data / "train").iterdir())[:2]
    pixels = cv2.imread(str(first))
    deep = data / "train" / f"{second.stem}.png"
    cv2.imwrite(str(deep), cv2.imread(str(second)).astype(np.uint16) * 257)
    second.unlink()
    alpha = data / "train" / f"{first.stem}.png"
    cv2.imwrite(str(alpha), np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)]))
    first.unlink()
    result = run_histo("check", data, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "1 file read by a rule: alpha is dropped" in " ".join(result.stdout.split())
    tables = {"alpha.csv": alpha.name, "deep.csv": deep.name}
    for table, name in tables.items():
        assert [row["file"] for row in rows_of(tmp_path / "out" / table)] == [name]


@pytest.mark.slow
def test_patches_cut_at_an_edge_are_said_to_be_of_one_class_and_the_way_out_works(
    weights, tmp_path
):
    """50x8 px beside 50x50 px, all of class 0: they are left out by the option that is named."""
    for n, (pixels, label) in enumerate(synthetic_patches(48, seed=5, side=50)):
        folder = tmp_path / "tree" / f"s{n // 2 % 8}" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"{n}.png", pixels[:8] if n % 8 == 0 else pixels)
    tree = tmp_path / "tree"
    result = run_histo("check", tree, "--out", tmp_path / "out")
    assert result.exit_code == 1
    said = " ".join(result.stdout.split())
    assert "6 patches not of 50x50 px, 6 of them of class '0', which a model would learn" in said
    assert "--skip-bad" in result.stderr
    words = ("--skip-bad", "--weights", weights, "--epochs", 1, "--out", tmp_path / "run", *TINY)
    assert run_histo("train", tree, *words).exit_code == 3
    rows = rows_of(tmp_path / "run" / "split.csv")
    assert len(rows) == 42
