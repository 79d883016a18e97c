"""The predictions table."""

from __future__ import annotations

import pytest

from histo.errors import HistoError
from histo.run.predictions import read_predictions


def test_an_id_twice_is_refused(tmp_path):
    """Else a patch counts twice in every figure."""
    table = tmp_path / "p.csv"
    table.write_text("id,label,p_0,p_1\na,0,1,0\nb,1,0,1\na,0,1,0\n")
    with pytest.raises(HistoError, match=r"p.csv, row 3: the id a is in row 1 already"):
        read_predictions(table)
