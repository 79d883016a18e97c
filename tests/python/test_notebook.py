"""The notebook in examples/, run from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "pcam.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    """On fewer patches, for one epoch; what it shows is there. It is kept without outputs."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    parameters = code[0]
    assert parameters.metadata.tags == ["parameters"]
    for name, value in (("PATCHES = ", 48), ('"epochs": ', 1)):
        parameters.source, count = re.subn(rf"({name})\d+", rf"\g<1>{value}", parameters.source)
        assert count == 1
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=tmp_path)
    shown = [out.get("data", {}) for cell in code for out in cell.outputs]
    pictures = sum("image/png" in data for data in shown)
    assert pictures == 4  # a batch, the loss, results, top losses
    pages = [data["text/html"] for data in shown if "text/html" in data]
    assert len(pages) == 3  # the run, the report, the table
    assert "data:image/png;base64" in pages[1]
    texts = "".join(out.get("text", "") for cell in code for out in cell.outputs)
    assert "ready to train on: True" in texts
    assert "AUC on 100 new patches: " in texts
