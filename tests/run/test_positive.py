"""Which of two classes is positive, by their names."""

from __future__ import annotations

import pytest

from histo.errors import HistoError
from histo.run.positive import choose_positive, find_positive, recorded_positive

PAIRS = [
    *[("0", "1"), ("no", "yes"), ("False", "True"), ("negative", "positive"), ("-1", "1")],
    *[("normal", "tumor"), ("Normal", "Tumour"), ("benign", "malignant"), ("benign", "IDC")],
    *[("healthy", "cancer"), ("control", "case"), ("background", "nuclei"), ("none", "any")],
    *[("non-tumor", "tumor"), ("nontumour", "tumour"), ("no_tumor", "tumor"), ("non-IDC", "IDC")],
    *[("IDC-", "IDC+"), ("IDC(-)", "IDC(+)"), ("HER2 negative", "HER2 positive")],
    *[("benign tumor", "malignant tumor"), ("tumor-free", "tumor"), ("normal", "abnormal")],
    *[("stroma", "tumor"), ("nevus", "melanoma"), ("adenoma", "carcinoma")],
]
"""The negative class, then the positive one."""
UNCLEAR = [
    *[("A", "B"), ("1", "2"), ("LUAD", "LUSC"), ("normal", "benign"), ("stroma", "adipose")],
    *[("lung adenocarcinoma", "lung squamous cell carcinoma"), ("small cell", "non-small cell")],
]


@pytest.mark.parametrize(("negative", "positive"), PAIRS)
def test_an_obvious_pair_is_understood_in_either_order_and_any_case(negative, positive):
    for change in (str, str.upper, str.lower):
        pair = change(negative), change(positive)
        assert find_positive(*pair) == find_positive(*pair[::-1]) == pair[1]


@pytest.mark.parametrize("pair", UNCLEAR)
def test_where_nothing_is_obvious_nothing_is_found(pair):
    """The second class is taken, and what depends on it asks."""
    assert find_positive(*pair) is find_positive(*pair[::-1]) is None
    taken = choose_positive(pair)
    assert (taken.name, taken.known) == (pair[1], False)
    with pytest.raises(HistoError, match=r"not known.*give positive="):
        taken.needed_for("a submission")


def test_what_is_given_goes_before_what_is_found():
    assert str(choose_positive(["normal", "tumor"])) == "'tumor' (found: normal, tumor)"
    assert str(choose_positive(["normal", "tumor"], "normal")) == "'normal' (given)"
    with pytest.raises(HistoError, match="'cancer' is no class: there are 'normal' and 'tumor'"):
        choose_positive(["normal", "tumor"], "cancer")
    with pytest.raises(HistoError, match="one of two"):
        choose_positive(["a", "b", "c"], "a")


def test_a_run_that_does_not_say_has_the_second_class_as_before():
    found = recorded_positive(["IDC", "benign"], {})
    assert (found.name, found.source, found.known) == ("benign", "before", True)
    assert "give {positive} if it is 'IDC'" in found.ways
    entry = {"value": "IDC", "source": "given"}
    assert str(recorded_positive(["IDC", "benign"], {"positive": entry})) == "'IDC' (given)"
