"""The Python lines of the README, run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

import histo

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.slow
def test_the_lines_of_the_readme_run(tmp_path, monkeypatch):
    """On a small data set in the folder `data`; with the figures that they promise."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = (block for block in blocks if "import histo" in block)
    histo.draw_patches(tmp_path / "data", patches=48, test=6, side=32)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), names)
    table = names["table"]
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == ["id", "predicted", "p_0", "p_1"]
    assert len(table) == 6
    assert (tmp_path / "runs" / "resnet18-1" / "report" / "report.html").is_file()
    assert (tmp_path / "runs" / "resnet18-1" / "export" / "model.json").is_file()
