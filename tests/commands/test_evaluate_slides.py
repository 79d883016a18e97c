"""histo evaluate of whole slides: by drawn lesions, or by labels of slides."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.conftest import assert_one_line_error, rows_of, run_histo
from tests.slides.made import write_slide

BUNDLE = Path(__file__).parents[1] / "golden" / "bundle-2"
MPP = 0.5
HOW = ("--mpp", MPP)
LESION = (192, 192, 960, 720)
"""Left, top, right, low in px: 384 x 264 µm."""


def picture(seed: int) -> np.ndarray:
    """Tissue that differs from place to place."""
    noise = np.random.default_rng(seed).integers(40, 210, (40, 40, 3), dtype=np.uint8)
    return cv2.resize(noise, (1200, 1200), interpolation=cv2.INTER_LINEAR)


def feature(name: str, left: float, top: float, right: float, low: float) -> dict:
    ring = [[left, top], [right, top], [right, low], [left, low], [left, top]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Four slides; lesions are drawn on two of them, in three forms of GeoJSON."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "slides").mkdir()
    (folder / "drawn").mkdir()
    for number in range(4):
        write_slide(folder / "slides" / f"s{number}.tif", picture(number), MPP)
    lesion, other = feature("Tumor", *LESION), feature("Necrosis", 0, 0, 100, 100)
    collection = {"type": "FeatureCollection", "features": [lesion, other]}
    (folder / "drawn" / "s0.geojson").write_text(json.dumps(collection))
    (folder / "drawn" / "s1.geojson.gz").write_bytes(gzip.compress(json.dumps([lesion]).encode()))
    (folder / "drawn" / "s2.geojson").write_text(json.dumps([other]))
    (folder / "labels.csv").write_text(
        "slide,label\ns0.tif,tumour\ns1,tumour\ns2,normal\ns3,normal\n"
    )
    (folder / "patients.csv").write_text("id,patient\ns0,a\ns1,b\ns2,b\ns3,c\n")
    return folder


@pytest.fixture(scope="module")
def judged(slides, tmp_path_factory):
    out = tmp_path_factory.mktemp("judged") / "out"
    words = ["--annotations", slides / "drawn", "--labels", slides / "labels.csv", *HOW]
    groups = ["--groups", slides / "patients.csv"]
    done = run_histo("evaluate", BUNDLE, slides / "slides", *words, *groups, "--out", out)
    assert done.exit_code == 0, done.output
    return out


def test_the_figures_are_those_of_a_plain_computation(judged):
    figures = json.loads((judged / "slides.json").read_text())
    rows = {row["slide"]: row for row in rows_of(judged / "by_slide.csv")}
    scores = [float(rows[f"s{n}"]["score"]) for n in range(4)]
    assert figures["by_slide"]["roc_auc"]["value"] == roc_auc_score([1, 1, 0, 0], scores)
    assert figures["intervals_over"] == "patient"
    every = [], []
    left, top, right, low = LESION
    for n in range(4):
        tiles = rows_of(judged / "maps" / f"s{n}" / "tiles.csv")
        middles = [(int(t["x"]) + 24, int(t["y"]) + 24) for t in tiles]
        inside = [n < 2 and left <= x <= right and top <= y <= low for x, y in middles]
        p = np.array([float(t["p_tumour"]) for t in tiles])
        every[0].extend(inside)
        every[1].extend(p)
        row = rows[f"s{n}"]
        assert int(row["tiles_inside"]) == sum(inside)
        if n < 2:
            assert float(row["tile_auc"]) == pytest.approx(roc_auc_score(inside, p), abs=1e-4)
            sensitivity = (p[np.array(inside)] >= 0.4).mean()
            assert float(row["tile_sensitivity"]) == pytest.approx(sensitivity, abs=1e-4)
        found = [float(r["confidence"]) for r in rows_of(judged / "maps" / f"s{n}" / "lesions.csv")]
        assert int(row["lesions"]) == (n < 2)
        if n >= 2:
            assert int(row["false_positives"]) == sum(c >= 0.4 for c in found)
    assert figures["tiles_roc_auc"] == pytest.approx(roc_auc_score(*every))
    assert figures["lesions"] == 2
    assert list(figures["by_group"]) == ["a", "b", "c"]
    both = figures["by_group"]["b"]
    assert (both["slides"], both["positive"]) == (2, 1)
    assert both["roc_auc"] == roc_auc_score([1, 0], scores[1:3])
    assert figures["by_group"]["c"]["roc_auc"] is None
    assert 0 <= figures["by_group"]["b"]["froc_score"] <= 1
    assert figures["by_group"]["c"]["froc_score"] is None  # it has no lesion
    assert set(figures["froc"]) == {"0.25", "0.5", "1", "2", "4", "8", "score"}
    page = (judged / "report.html").read_text(encoding="utf-8")
    assert 'href="maps/s0/slide.html"' in page


@pytest.mark.slow
def test_labels_of_slides_are_enough(slides, tmp_path):
    words = ["--labels", slides / "labels.csv", *HOW, "--out", tmp_path / "out"]
    done = run_histo("evaluate", BUNDLE, slides / "slides", *words)
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "out" / "slides.json").read_text())
    assert figures["froc"] == {}
    assert 0 <= figures["by_slide"]["roc_auc"]["value"] <= 1


def test_what_is_missing_is_named(slides, tmp_path):
    """Annotations and labels; a slide with neither; a name that no annotation has."""
    words = ["evaluate", BUNDLE, slides / "slides", *HOW, "--out", tmp_path / "out"]
    assert_one_line_error(run_histo(*words), "whole slides", "--annotations", "--labels")
    result = run_histo(*words, "--annotations", slides / "drawn")
    assert_one_line_error(result, "has no annotations of s3", "--labels")
    (tmp_path / "labels.csv").write_text("slide,label\ns0,tumour\ns1,cat\n")
    result = run_histo(*words, "--labels", tmp_path / "labels.csv")
    assert_one_line_error(result, "line 3: label 'cat' is not a class")
    (tmp_path / "labels.csv").write_text("slide,label\ns0,tumour\n")
    result = run_histo(*words, "--labels", tmp_path / "labels.csv")
    assert_one_line_error(result, "names no label for the slide s1")


@pytest.mark.slow
def test_groups_are_read_by_the_slides_column_before_anything_is_mapped(slides, tmp_path):
    """A table of slide, patient and centre; --id-column names the column of the slides."""
    table = tmp_path / "slides.csv"
    rows = "".join(f"s{n},{'AABB'[n]},p{n},{'tumour' if n < 2 else 'normal'}\n" for n in range(4))
    table.write_text("slide,centre,patient,label\n" + rows)
    words = ["evaluate", BUNDLE, slides / "slides", "--labels", table, *HOW]
    done = run_histo(*words, "--groups", f"{table}:centre", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "out" / "slides.json").read_text())
    assert list(figures["by_group"]) == ["A", "B"]
    table.write_text("specimen,patient,label\ns0,a,tumour\ns1,b,normal\ns2,c,normal\n")
    words = [*words, "--groups", table, "--out", tmp_path / "other"]
    assert_one_line_error(run_histo(*words), "no column 'slide'", "--id-column")
    words += ["--id-column", "specimen"]
    assert_one_line_error(run_histo(*words), "names no label for the slide s3")
    with table.open("a") as file:
        file.write("s3,c,normal\n")
    (tmp_path / "few.csv").write_text("specimen,patient\ns0,a\n")
    words[words.index("--groups") + 1] = tmp_path / "few.csv"
    assert_one_line_error(run_histo(*words), "names no group for the slide s1")
    words[words.index("--groups") + 1] = tmp_path / "none.csv"
    assert_one_line_error(run_histo(*words), "none.csv of groups", "--groups takes CSV")
    assert not (tmp_path / "other").exists()


def test_annotations_of_other_names_are_told(slides, tmp_path):
    one = tmp_path / "slides"
    one.mkdir()
    (one / "s2.tif").write_bytes((slides / "slides" / "s2.tif").read_bytes())
    words = ["--annotations", slides / "drawn", *HOW, "--out", tmp_path / "out"]
    result = run_histo("evaluate", BUNDLE, one, *words)
    assert_one_line_error(result, "is of the class 'tumour': there are Necrosis")


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[" * 100_000,
        '{"features": 3}',
        '[{"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "properties": {}}]',
        '[{"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1e300, 0], [0, 1e300], [0, 0]]]}}]',
        '[{"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [NaN, 0], [0, 5], [0, 0]]]}}]',
    ],
)
def test_damaged_annotations_are_refused_in_a_line(text, slides, tmp_path):
    one = tmp_path / "slides"
    one.mkdir()
    (one / "s0.tif").write_bytes((slides / "slides" / "s0.tif").read_bytes())
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "s0.geojson").write_text(text)
    words = ["--annotations", tmp_path / "drawn", *HOW, "--out", tmp_path / "out"]
    assert_one_line_error(run_histo("evaluate", BUNDLE, one, *words), "is not GeoJSON")


@pytest.mark.slow
def test_a_ring_that_crosses_itself_is_mended(slides, tmp_path):
    """And an outline of many points is read."""
    one = tmp_path / "slides"
    one.mkdir()
    (one / "s0.tif").write_bytes((slides / "slides" / "s0.tif").read_bytes())
    (tmp_path / "drawn").mkdir()
    around = np.linspace(0, 2 * np.pi, 200_000)
    circle = np.stack([600 + 400 * np.cos(around), 600 + 400 * np.sin(around)], 1)
    circle[-1] = circle[0]
    bow = [[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]]
    found = [feature("Tumor", 0, 0, 1, 1), feature("Tumor", 0, 0, 1, 1)]
    found[0]["geometry"]["coordinates"] = [circle.round(3).tolist()]
    found[1]["geometry"]["coordinates"] = [bow]
    (tmp_path / "drawn" / "s0.geojson").write_text(json.dumps(found))
    words = ["--annotations", tmp_path / "drawn", *HOW, "--out", tmp_path / "out"]
    done = run_histo("evaluate", BUNDLE, one, *words)
    assert done.exit_code == 0, done.output
    (row,) = rows_of(tmp_path / "out" / "by_slide.csv")
    assert int(row["tiles_inside"]) == pytest.approx(np.pi * 400**2 / 48**2, rel=0.05)


@pytest.mark.slow
def test_xml_of_asap_gives_the_figures_of_geojson(slides, judged, tmp_path):
    """With Camelyon16's names of groups."""
    (tmp_path / "drawn").mkdir()
    left, top, right, low = LESION
    corners = ((left, top), (right, top), (right, low), (left, low))
    points = "".join(
        f'<Coordinate Order="{n}" X="{x}" Y="{y}"/>' for n, (x, y) in enumerate(corners)
    )
    for name, group in (("s0", "Tumor"), ("s1", "_1"), ("s2", "_2")):
        (tmp_path / "drawn" / f"{name}.xml").write_text(
            '<?xml version="1.0"?><ASAP_Annotations><Annotations><Annotation Name="a" '
            f'Type="Polygon" PartOfGroup="{group}"><Coordinates>{points}</Coordinates>'
            "</Annotation></Annotations></ASAP_Annotations>"
        )
    words = ["--annotations", tmp_path / "drawn", "--labels", slides / "labels.csv", *HOW]
    groups = ["--groups", slides / "patients.csv", "--out", tmp_path / "out"]
    done = run_histo("evaluate", BUNDLE, slides / "slides", *words, *groups)
    assert done.exit_code == 0, done.output
    for name in ("slides.json", "by_slide.csv"):
        assert (tmp_path / "out" / name).read_text() == (judged / name).read_text()


def write_masks(folder, values: dict[str, int]) -> None:
    """The lesion as a mask of a quarter of the slide's size, and one of something else beside it."""
    folder.mkdir()
    left, top, right, low = (side // 4 for side in LESION)
    for name, value in values.items():
        mask = np.zeros((300, 300), np.uint8)
        mask[top:low, left:right] = value
        cv2.imwrite(str(folder / f"{name}.png"), mask)


@pytest.mark.slow
def test_masks_give_the_figures_of_geojson(slides, judged, tmp_path):
    """One value is the positive class; of several --class says which."""
    words = ["--labels", slides / "labels.csv", "--groups", slides / "patients.csv", *HOW]
    write_masks(tmp_path / "plain", {"s0": 255, "s1_mask": 255})
    write_masks(tmp_path / "named", {"s0": 3, "s1": 3, "s2": 2})
    for folder, more in (("plain", []), ("named", ["--class", "3=tumour", "--class", "2=other"])):
        out = tmp_path / f"{folder}-out"
        given = ["--annotations", tmp_path / folder, *words, *more, "--out", out]
        done = run_histo("evaluate", BUNDLE, slides / "slides", *given)
        assert done.exit_code == 0, done.output
        for name in ("slides.json", "by_slide.csv"):
            assert (out / name).read_text() == (judged / name).read_text()


@pytest.mark.slow
def test_a_mask_of_several_values_does_not_pass_for_one_without_lesions(slides, tmp_path):
    """Where nothing says which of them is the positive class."""
    write_masks(tmp_path / "drawn", {"s0": 1, "s1": 3})
    mask = cv2.imread(str(tmp_path / "drawn" / "s1.png"), cv2.IMREAD_UNCHANGED)
    mask[:9, :9] = 2
    cv2.imwrite(str(tmp_path / "drawn" / "s1.png"), mask)
    words = ["--annotations", tmp_path / "drawn", "--labels", slides / "labels.csv", *HOW]
    done = run_histo("evaluate", BUNDLE, slides / "slides", *words, "--out", tmp_path / "out")
    assert_one_line_error(done, "s1.png", "values 2, 3", "--class 2=tumour")


@pytest.mark.slow
def test_masks_of_one_value_each_must_have_the_same(slides, tmp_path):
    """Where one has only 1 and another only 3, nothing says that both are the positive class."""
    write_masks(tmp_path / "drawn", {"s0": 1, "s1": 3})
    words = ["--annotations", tmp_path / "drawn", "--labels", slides / "labels.csv", *HOW]
    words += ["--out", tmp_path / "out"]
    done = run_histo("evaluate", BUNDLE, slides / "slides", *words)
    assert_one_line_error(done, "s0.png has only the value 1, s1.png only 3", "--class 1=tumour")
    named = ["--class", "1=tumour", "--class", "3=tumour"]
    assert run_histo("evaluate", BUNDLE, slides / "slides", *words, *named).exit_code == 0


@pytest.mark.slow
def test_the_score_of_slides_is_chosen_on_other_slides(slides, tmp_path):
    """Its pooling and threshold are kept in a file that cannot judge the slides it was chosen on."""
    for name, numbers in (("training", (0, 2)), ("rest", (1, 3))):
        (tmp_path / name).mkdir()
        for n in numbers:
            data = (slides / "slides" / f"s{n}.tif").read_bytes()
            (tmp_path / name / f"s{n}.tif").write_bytes(data)
    words = ["--labels", slides / "labels.csv", *HOW]
    chosen, out = tmp_path / "chosen", tmp_path / "out"
    choose = ["evaluate", BUNDLE, tmp_path / "training", *words, "--choose-score", "--out", chosen]
    done = run_histo(*choose)
    assert done.exit_code == 0, done.output
    rule = json.loads((chosen / "score.json").read_text())
    pool = {"max": 1, "top10": 10, "top100": 100}
    tiles = {
        n: np.sort([float(r["p_tumour"]) for r in rows_of(chosen / "maps" / n / "tiles.csv")])
        for n in ("s0", "s2")
    }
    for way, count in pool.items():
        scores = {n: p[-count:].mean() for n, p in tiles.items()}
        assert rule["aucs"][way] == (1.0 if scores["s0"] > scores["s2"] else 0.0)
    assert rule["aucs"][rule["pooling"]] == max(rule["aucs"].values())
    both = sorted(float(row["score"]) for row in rows_of(chosen / "by_slide.csv"))
    assert rule["threshold"] == pytest.approx(np.mean(both), abs=1e-6)

    given = ["--score", chosen / "score.json"]
    done = run_histo("evaluate", BUNDLE, tmp_path / "rest", *words, *given, "--out", out)
    assert done.exit_code == 0, done.output
    figures = json.loads((out / "slides.json").read_text())
    assert figures["score"]["slides"] == ["s0", "s2"]
    rows = rows_of(out / "by_slide.csv")
    called = [row["called"] == "1" for row in rows]
    assert called == [float(row["score"]) >= rule["threshold"] for row in rows]
    assert figures["by_slide"]["sensitivity"]["value"] == float(called[0])
    assert figures["by_slide"]["specificity"]["value"] == 1 - float(called[1])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Both were chosen on 2 slides, none of which is judged here" in page
    again = run_histo("evaluate", BUNDLE, tmp_path / "training", *words, *given, "--out", chosen)
    assert_one_line_error(again, "s0 is one of the slides on which")


@pytest.mark.slow
def test_annotations_of_any_name_are_lesions_where_class_says_so(slides, tmp_path):
    """And a name that no annotation has is told: otherwise no slide would have a lesion."""
    one = tmp_path / "slides"
    one.mkdir()
    (one / "s0.tif").write_bytes((slides / "slides" / "s0.tif").read_bytes())
    (tmp_path / "drawn").mkdir()
    lesion = feature("Invasive region", *LESION)
    (tmp_path / "drawn" / "s0.geojson").write_text(json.dumps([lesion]))
    words = ["evaluate", BUNDLE, one, "--annotations", tmp_path / "drawn", *HOW]
    done = run_histo(*words, "--class", "Invasive region=tumour", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    (row,) = rows_of(tmp_path / "out" / "by_slide.csv")
    assert row["lesions"] == "1"
    other = run_histo(*words, "--class", "Invasive=tumour", "--out", tmp_path / "other")
    assert_one_line_error(other, "'Invasive'", "'Invasive region'")
    wrong = run_histo(*words, "--class", "Invasive region=stroma", "--out", tmp_path / "wrong")
    assert_one_line_error(wrong, "of the class 'tumour': there are Invasive region")


@pytest.mark.slow
def test_figures_without_some_slides_say_so(slides, tmp_path):
    """A slide that cannot be mapped is told on the screen, in the report and by the exit status."""
    one = tmp_path / "slides"
    one.mkdir()
    for name in ("s0.tif", "s3.tif"):
        (one / name).write_bytes((slides / "slides" / name).read_bytes())
    (one / "broken.svs").write_bytes(b"II*\0 no slide")
    (tmp_path / "labels.csv").write_text("slide,label\ns0,normal\ns3,normal\nbroken,tumour\n")
    words = ["--annotations", slides / "drawn", "--labels", tmp_path / "labels.csv", *HOW]
    out = tmp_path / "out"
    (tmp_path / "drawn").mkdir()
    done = run_histo("evaluate", BUNDLE, one, *words, "--out", out)
    assert_one_line_error(done, "has no annotations of broken")
    (tmp_path / "labels.csv").write_text("slide,label\ns0,normal\ns3,normal\nbroken,normal\n")
    done = run_histo("evaluate", BUNDLE, one, *words, "--out", out)
    assert done.exit_code == 3, done.output
    assert "done, but without 1 slide" in done.output
    assert (
        "s0: its label says negative; lesions drawn on it, without isolated tumour cells: 1"
        in done.output
    )
    assert json.loads((out / "slides.json").read_text())["left_out"] == ["broken"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Without 1 slide that could not be mapped: broken" in page
