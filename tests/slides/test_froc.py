"""FROC, held against a plain computation by Camelyon16's published rules on a grid of pixels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from shapely.geometry import Point, box

from histo.slides.froc import RATES, froc, grown_lesions, judge
from histo.slides.lesions import Lesion

MPP = 1.0


def published(masks, candidates):
    """The challenge's evaluation: distance transform, labels, hits; a mask and candidates a slide."""
    false, hits, lesions = [], [], 0
    for mask, found in zip(masks, candidates, strict=True):
        near = ndimage.distance_transform_edt(~mask) < 75 / (MPP * 2)
        labels, count = ndimage.label(ndimage.binary_fill_holes(near), np.ones((3, 3)))
        single = {n for n in range(1, count + 1) if axis(labels == n) < 275 / MPP}
        best = dict.fromkeys(range(1, count + 1), 0.0)
        for one in found:
            hit = labels[one.y, one.x]
            if hit == 0:
                false.append(one.confidence)
            elif hit not in single:
                best[hit] = max(best[hit], one.confidence)
        hits += [value for n, value in best.items() if n not in single]
        lesions += count - len(single)
    levels = sorted({*false, *hits})[1:]
    rates = [sum(f >= t for f in false) / len(masks) for t in levels] + [0]
    found = [sum(h >= t for h in hits) / lesions for t in levels] + [0]
    return np.interp(RATES, rates[::-1], found[::-1])


def axis(area):
    """The major axis as scikit-image's regionprops has it."""
    y, x = np.nonzero(area)
    covariance = np.cov(np.stack([x, y]), bias=True) + np.eye(2) / 12
    return 4 * np.sqrt(np.linalg.eigvalsh(covariance).max())


def drawn(polygons, side=1500):
    """Polygons as a mask."""
    y, x = np.mgrid[:side, :side]
    mask = np.zeros((side, side), bool)
    for polygon in polygons:
        left, top, right, low = polygon.bounds
        if polygon.area == pytest.approx((right - left) * (low - top)):
            mask |= (x >= left) & (x < right) & (y >= top) & (y < low)
        else:
            radius = (right - left) / 2
            mask |= (x - left - radius) ** 2 + (y - top - radius) ** 2 <= radius**2
    return mask


@pytest.fixture(scope="module")
def slides():
    """Four slides: large lesions, two that grow together, isolated cells, none."""
    polygons = [
        [box(100, 100, 500, 400), Point(1000, 1000).buffer(200)],
        [box(200, 200, 500, 500), box(550, 200, 900, 500), box(1200, 1200, 1240, 1240)],
        [Point(300, 300).buffer(60), box(700, 700, 1300, 1000)],
        [],
    ]
    rng = np.random.default_rng(0)
    candidates = [
        [
            Lesion(round(float(confidence), 2), int(x), int(y))
            for confidence, (x, y) in zip(
                rng.random(14), rng.integers(0, 1500, (14, 2)), strict=True
            )
        ]
        for _ in polygons
    ]
    candidates[1].append(Lesion(0.9, 1220, 1220))  # on isolated cells: neither right nor wrong
    candidates[0].append(Lesion(1.0, 1000, 1000))
    return polygons, candidates


def test_sensitivity_is_that_of_the_published_rules(slides):
    polygons, candidates = slides
    ours = froc(
        [judge(c, grown_lesions(p, MPP)) for p, c in zip(polygons, candidates, strict=True)]
    )
    theirs = published([drawn(p) for p in polygons], candidates)
    assert 0 < theirs[0] < theirs[-1]
    assert ours.at == pytest.approx(theirs)
    assert ours.score == pytest.approx(theirs.mean())


def test_lesions_near_each_other_are_one_and_single_cells_do_not_count(slides):
    grown = grown_lesions(slides[0][1], MPP)
    assert [counts for _, counts in grown] == [True, False]
    finer = grown_lesions([box(0, 0, 1000, 1000)], 0.25)  # 250 µm
    assert finer[0][1]
    assert not grown_lesions([box(0, 0, 600, 600)], 0.25)[0][1]  # 150 µm


def test_a_slide_drawn_twice_counts_twice(slides):
    """As the bootstrap over slides does."""
    judged = [judge(c, grown_lesions(p, MPP)) for p, c in zip(*slides, strict=True)]
    twice = froc([judged[0], judged[0], judged[2]])
    assert froc(judged, [2, 0, 1, 0]).at == pytest.approx(twice.at)


def test_without_lesions_there_is_no_sensitivity():
    assert froc([judge([Lesion(0.5, 1, 1)], [])]) is None
