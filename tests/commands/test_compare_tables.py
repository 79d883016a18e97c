"""`histo compare` of tables of `histo predict`, and of models that were trained on what is compared."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.conftest import assert_one_line_error, run_histo


def write_predictions(path: Path, head: str, rows: list[tuple[str, str, float]]) -> Path:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", head, "p_0", "p_1"])
        table.writerows([name, label, f"{1 - p:.3f}", f"{p:.3f}"] for name, label, p in rows)
    return path


def a_table(path: Path, head: str, shift: float = 0.0, labels: bool = True) -> Path:
    """40 patches, p rising with the label."""
    rows = []
    for n in range(40):
        p = min(0.99, 0.2 + 0.4 * (n % 2) + n % 7 / 20 + shift)
        rows.append((f"p{n}", str(n % 2) if labels else str(int(p >= 0.5)), p))
    return write_predictions(path, head, rows)


def test_a_table_of_predict_is_compared_beside_a_label_csv(tmp_path):
    """The same figures as with the labels in the table; suffixes of names do not matter."""
    first = a_table(tmp_path / "a.csv", "label")
    second = a_table(tmp_path / "b.csv", "predicted", 0.1, labels=False)
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\n" + "".join(f"p{n}.png,{n % 2}\n" for n in range(40)))
    out = tmp_path / "one.json"
    result = run_histo("compare", first, second, "--labels", labels, "--out", out)
    assert result.exit_code == 0, result.output
    assert "whether the model of B was trained on these patches is not known" in result.stdout
    other = a_table(tmp_path / "c.csv", "label", 0.1)
    assert run_histo("compare", first, other, "--out", tmp_path / "two.json").exit_code == 0
    assert out.read_text() == (tmp_path / "two.json").read_text()


def test_without_the_labels_their_option_is_named(tmp_path):
    first = a_table(tmp_path / "a.csv", "label")
    second = a_table(tmp_path / "b.csv", "predicted")
    assert_one_line_error(
        run_histo("compare", first, second), "b.csv has predictions but no labels", "--labels"
    )


@pytest.mark.slow
def test_a_run_that_was_trained_on_what_is_compared_is_named(tiny_run, dataset, tmp_path):
    """Its bundle is judged on the whole set, most of which it was trained on; not so the run itself."""
    assert run_histo("export", tiny_run, "--out", tmp_path / "bundle").exit_code == 0
    evaluated = tmp_path / "evaluated"
    assert run_histo("evaluate", tmp_path / "bundle", dataset, "--out", evaluated).exit_code == 0
    result = run_histo("compare", tiny_run, evaluated)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "note: B: " in said
    assert "are among those the model was trained or chosen on: its figures are too good" in said
    assert "note: A" not in said
