"""Metrics by slide, patient or hospital."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from histo.report.groups import by_group
from histo.run.calls import call
from tests.conftest import rows_of
from tests.report.tables import many_classes, page_of, report_of, two_classes, write_table


def test_a_group_is_judged_at_the_threshold_and_each_class_by_its_own():
    """Three normal patches, of which one is called; one of tumour, at the threshold itself."""
    scores = np.array([0.1, 0.2, 0.9, 0.6])
    table, labels = np.stack([1 - scores, scores], 1), np.array([0, 0, 0, 1])
    (row,) = by_group(labels, table, ["s"] * 4, call(table, 0.6))
    assert (row.patches, row.positives, row.errors) == (4, 1, 1)
    assert (row.sensitivity, row.specificity) == (1, pytest.approx(2 / 3))
    assert row.roc_auc == pytest.approx(2 / 3)


@pytest.mark.slow
def test_groups_get_a_row_each_the_worst_first_and_widen_the_interval(tmp_path):
    labels, table = two_classes(400)
    bad = np.arange(400) // 20 == 7
    table[bad] = table[bad, ::-1]  # slide 7 is read the wrong way round
    write_table(tmp_path, labels, table)
    plain = report_of(tmp_path)["intervals"]["roc_auc"]
    assert not (tmp_path / "report" / "by_group.csv").exists()
    slides = "id,slide\n" + "".join(f"{n},s{n // 20}\n" for n in range(400))
    (tmp_path / "groups.csv").write_text(slides)
    metrics = report_of(tmp_path, "--groups", tmp_path / "groups.csv")
    low, high = metrics["intervals"]["roc_auc"]
    assert (metrics["unit"], metrics["units"]) == ("slide", 20)
    assert high - low > plain[1] - plain[0]
    rows = rows_of(tmp_path / "report" / "by_group.csv")
    assert len(rows) == 20
    assert rows[0]["slide"] == "s7"
    here = np.arange(400) // 20 == 7
    assert float(rows[0]["roc_auc"]) == pytest.approx(
        sk.roc_auc_score(labels[here], table[here, 1]), rel=1e-5
    )
    assert "Worst slides: s7" in page_of(tmp_path / "report")


def test_groups_of_many_classes_have_errors_and_no_rates_of_two(tmp_path):
    write_table(tmp_path, *many_classes())
    (tmp_path / "groups.csv").write_text(
        "id,slide\n" + "".join(f"{n},s{n % 2}\n" for n in range(150))
    )
    report_of(tmp_path, "--groups", tmp_path / "groups.csv")
    rows = rows_of(tmp_path / "report" / "by_group.csv")
    assert list(rows[0]) == ["slide", "patches", "errors", "error_rate"]
    assert sum(int(row["patches"]) for row in rows) == 150


@pytest.mark.slow
def test_a_report_without_groups_removes_the_table_of_an_earlier_one(tmp_path):
    write_table(tmp_path, *two_classes())
    (tmp_path / "groups.csv").write_text(
        "id,slide\n" + "".join(f"{n},s{n % 9}\n" for n in range(200))
    )
    report_of(tmp_path, "--groups", tmp_path / "groups.csv")
    assert (tmp_path / "report" / "by_group.csv").is_file()
    report_of(tmp_path)
    assert not (tmp_path / "report" / "by_group.csv").exists()
