"""Which patches validate."""

from __future__ import annotations

import numpy as np
import pytest

from histo.data.split import (
    check_split,
    fold_of,
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


@pytest.mark.parametrize("seed", range(5))
def test_of_a_class_of_two_patches_one_trains_and_one_validates(seed):
    """Though two of 202 are too few for a fifth of them to be one."""
    valid = random_split(["0"] * 200 + ["1"] * 2, 20, seed)
    assert valid[200:].sum() == 1
    assert random_split(["a", "a", "b", "b", "c", "c"], 20, seed).sum() == 3


def test_groups_validate_so_that_every_class_does_where_that_can_be():
    """A class of two groups, of which a split balanced by numbers alone would take none."""
    groups = [f"s{n // 10}" for n in range(400)]
    labels = ["1" if n in (5, 205) else "0" for n in range(400)]
    for seed in range(5):
        valid = grouped_split(labels, groups, 20, seed)
        assert valid[5] != valid[205]


@pytest.mark.parametrize(("zeros", "side"), [(60, "train"), (0, "valid")])
def test_a_class_absent_from_a_side_is_refused(zeros, side):
    """Of class 0 all 60 patches validate, or none does; of class 1 nine do."""
    valid = np.zeros(100, bool)
    valid[:zeros] = valid[-9:] = True
    with pytest.raises(HistoError, match=f"no patch of class '0' in {side}"):
        check_split(LABELS, valid)


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("grouped", "seed="),
        ("unknown", "seed="),
        ("column", "the column"),
        ("folders", "that folder"),
        ("folds", "folds="),
    ],
)
def test_the_way_out_of_an_absent_class_fits_what_made_the_split(kind, way):
    valid = np.zeros(100, bool)
    valid[-9:] = True
    with pytest.raises(HistoError) as found:
        check_split(LABELS, valid, kind)
    assert way in str(found.value)


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


@pytest.mark.parametrize("valid_pct", [1, 10, 15, 22, 37, 40, 60, 85, 90])
def test_whole_groups_validate_as_large_a_part_as_was_wanted(valid_pct):
    groups = [f"slide {n // 10}" for n in range(1000)]
    labels = [str(n % 2) for n in range(1000)]
    valid = grouped_split(labels, groups, valid_pct, 0)
    assert 100 * valid.mean() == pytest.approx(valid_pct, abs=1)


def test_of_all_splits_by_group_the_best_balanced_one_is_taken():
    """A slide of 100 patches of one class, and ten small ones: the small ones validate."""
    groups = ["large"] * 100 + [f"small {n % 10}" for n in range(100)]
    labels = ["0"] * 100 + ["0", "1"] * 50
    for seed in range(5):
        valid = grouped_split(labels, groups, 20, seed)
        assert not valid[:100].any()
        assert {labels[n] for n in np.flatnonzero(valid)} == {"0", "1"}


def test_of_few_groups_at_least_one_validates_and_one_group_alone_is_one_line():
    assert grouped_split(["0", "1"] * 5, list("aabbccddee"), 20, 0).sum() == 2
    assert grouped_split(["0", "1"] * 4, list("aabbccdd"), 20, 0).sum() == 2
    assert grouped_split(["0", "1"] * 2, list("aabb"), 20, 0).sum() == 2
    assert grouped_split(["0", "1"] * 4, list("aabbccdd"), 60, 0).sum() in (4, 6)
    with pytest.raises(HistoError, match="all patches are of one group"):
        grouped_split(LABELS, ["a"] * 100, 20, 0)


def test_each_class_is_alike_in_all_folds_and_the_seed_decides():
    folds = fold_of(LABELS, None, 4, 0)
    assert [np.bincount(folds[:60]).tolist(), np.bincount(folds[60:]).tolist()] == [
        [15] * 4,
        [10] * 4,
    ]
    assert np.array_equal(fold_of(LABELS, None, 4, 0), folds)
    assert not np.array_equal(fold_of(LABELS, None, 4, 1), folds)


def test_no_group_is_in_two_folds():
    groups = [f"slide {n % 8}" for n in range(100)]
    folds = fold_of(LABELS, groups, 4, 0)
    assert len(set(zip(groups, folds.tolist(), strict=True))) == 8
    assert set(folds.tolist()) == {0, 1, 2, 3}


def test_as_many_folds_as_patches_of_a_class_or_groups_can_be_made_and_no_more():
    labels, groups = ["0"] * 3 + ["1"] * 3, list("abcabc")
    assert sorted(fold_of(labels, groups, 3, 0).tolist()) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(HistoError, match="class '0' has 3 patches: too few for 4 folds"):
        fold_of(labels, None, 4, 0)
    with pytest.raises(HistoError, match="2 groups are too few for 3 folds"):
        fold_of(labels, list("ababab"), 3, 0)


def test_equal_patches_go_where_the_first_of_them_is():
    valid = np.array([True, False, False, True, False])
    keys = np.array([b"y", b"x", b"y", b"x", b"a"])
    assert on_both_sides(valid, keys) == [0, 1]
    assert with_first(valid, keys).tolist() == [True, False, True, False, False]
    assert on_both_sides(with_first(valid, keys), keys) == []
