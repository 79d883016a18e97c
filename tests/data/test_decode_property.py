"""Random pictures by every writer at hand: no path reads a wrong pixel.

tests/decoders.py has the writers, and prints a table by kind: `just decoders`.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histo.data.decode import decode_patch, read_patch
from tests import decoders

PATH = Path("patch.tif")


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@pytest.mark.parametrize("writer", sorted(set(decoders.WRITERS), key=lambda w: w.__name__))
@given(draw=st.randoms(use_true_random=False))
def test_a_picture_is_read_right_or_refused_by_name(writer, draw):
    """Every layout, depth, codec, byte order and orientation that a writer has."""
    case = writer(draw)
    said = decoders.verdict(decode_patch, case, PATH)
    assert said.startswith("right" if case.right is not None else "refused"), case.kind


def test_whole_files_are_not_refused(tmp_path):
    """Some twenty of each writer, from a file: what the rules read is not refused."""
    for n in range(300):
        case = decoders.WRITERS[n % len(decoders.WRITERS)](random.Random(n))
        path = tmp_path / "patch.img"
        path.write_bytes(case.data)
        said = decoders.verdict(lambda _, p: read_patch(p), case, path)
        assert said == "right" if case.right is not None else said.startswith("refused"), case.kind


def test_the_oracle_can_fail():
    """A picture that is one off is called wrong."""
    case = decoders.by_opencv(random.Random(0))
    assert case.right is not None
    off = np.bitwise_xor(case.right, 1)
    assert decoders.verdict(lambda data, path: off, case, PATH).startswith("wrong")
