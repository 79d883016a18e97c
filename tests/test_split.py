"""Which patches validate."""

from __future__ import annotations

import numpy as np
import pytest

from histo.data.split import (
    check_split,
    grouped_split,
    on_both_sides,
    random_split,
    with_first,
)
from histo.errors import HistoError

LABELS = ["0"] * 60 + ["1"] * 40


def test_each_class_keeps_its_share():
    valid = random_split(LABELS, 20, 0)
    assert valid.sum() == 20
    assert valid[:60].sum() == 12


def test_the_seed_decides():
    assert np.array_equal(random_split(LABELS, 20, 3), random_split(LABELS, 20, 3))
    assert not np.array_equal(random_split(LABELS, 20, 3), random_split(LABELS, 20, 4))


def test_a_class_of_one_patch_is_refused_by_name():
    with pytest.raises(HistoError, match="class 'rare' has one patch"):
        random_split([*LABELS, "rare"], 20, 0)


def test_a_split_too_small_for_its_classes_is_refused():
    with pytest.raises(HistoError, match="--valid-pct"):
        random_split(["a", "a", "b", "b", "c", "c"], 20, 0)


@pytest.mark.parametrize("side", ["train", "valid"])
def test_a_class_absent_from_a_side_is_refused(side):
    valid = np.array([label == ("1" if side == "valid" else "0") for label in LABELS])
    with pytest.raises(HistoError, match=f"no patch of class '[01]' in {side}|in train"):
        check_split(LABELS, valid)


def test_no_group_is_on_both_sides_and_the_classes_are_balanced():
    rng = np.random.default_rng(0)
    groups = [f"slide {n}" for n in rng.integers(40, size=2000)]
    labels = [str(int(x)) for x in rng.random(2000) < 0.3]
    valid = grouped_split(labels, groups, 20, 0)
    assert not {g for g, v in zip(groups, valid, strict=True) if v} & {
        g for g, v in zip(groups, valid, strict=True) if not v
    }
    assert valid.mean() == pytest.approx(0.2, abs=0.03)
    assert np.mean([x == "1" for x, v in zip(labels, valid, strict=True) if v]) == pytest.approx(
        0.3, abs=0.03
    )
    assert (grouped_split(labels, groups, 20, 0) == valid).all()
    assert (grouped_split(labels, groups, 20, 1) != valid).any()


def test_too_few_groups_is_one_line():
    with pytest.raises(HistoError, match="3 groups cannot be split 80/20"):
        grouped_split(LABELS, ["a", "b"] * 30 + ["c"] * 40, 20, 0)


def test_equal_patches_go_where_the_first_of_them_is():
    valid = np.array([True, False, False, True, False])
    keys = np.array([b"x", b"y", b"x", b"y", b"z"])
    assert on_both_sides(valid, keys) == [0, 1]
    assert with_first(valid, keys).tolist() == [True, False, True, False, False]
    assert on_both_sides(with_first(valid, keys), keys) == []
