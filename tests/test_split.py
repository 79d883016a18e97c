"""Which patches validate."""

from __future__ import annotations

import numpy as np
import pytest

from histo.data.split import check_split, random_split
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
