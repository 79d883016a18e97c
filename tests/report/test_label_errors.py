"""Suspected label errors: what confident learning finds in a predictions table."""

from __future__ import annotations

import numpy as np
import pytest

from histo.report.label_errors import find_label_errors

CLEANLAB = [9, 12, 20, 22, 23, 28, 39, 41, 43, 48, 54, 58]
"""The rows that cleanlab 2.9.0's find_label_issues names in `noisy_table(60, 2, seed=7)`."""


def noisy_table(n: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, a fifth of them drawn anew, and probabilities that know the true ones a little."""
    rng = np.random.default_rng(seed)
    true = rng.integers(classes, size=n)
    powers = np.exp(rng.normal(size=(n, classes)) + 2 * np.eye(classes)[true])
    labels = np.where(rng.random(n) < 0.2, rng.integers(classes, size=n), true)
    return labels, powers / powers.sum(1, keepdims=True)


def plain_joint(labels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The estimate of arXiv:1911.00068, equations 1 to 3, one patch after the other, not rounded."""
    classes = table.shape[1]
    mean = [
        np.mean([p[c] for y, p in zip(labels, table, strict=True) if y == c])
        for c in range(classes)
    ]
    counts = np.zeros((classes, classes))
    for label, values in zip(labels, table, strict=True):
        reached = [c for c in range(classes) if values[c] >= mean[c]]
        if reached:
            counts[label, max(reached, key=lambda c: values[c])] += 1
    return np.array([row / row.sum() * (labels == c).sum() for c, row in enumerate(counts)])


@pytest.mark.parametrize("classes", [2, 3, 9])
def test_the_joint_is_that_of_a_plain_computation(classes):
    """Whole numbers that differ from it by rounding, each row adding up to the patches labelled so."""
    labels, table = noisy_table(900, classes, seed=classes)
    found = find_label_errors(labels, table)
    assert np.abs(found.joint - plain_joint(labels, table)).max() < 1
    assert found.joint.sum(1).tolist() == np.bincount(labels).tolist()
    assert found.thresholds == pytest.approx([table[labels == c, c].mean() for c in range(classes)])


@pytest.mark.parametrize("classes", [2, 5])
def test_as_many_are_suspected_as_the_joint_says_those_with_the_largest_margin(classes):
    """For each pair of classes, one patch after the other; never a patch called as it is labelled."""
    labels, table = noisy_table(700, classes, seed=1)
    found = find_label_errors(labels, table)
    expected = set()
    for given in range(classes):
        for other in set(range(classes)) - {given}:
            mine = [n for n in range(len(labels)) if labels[n] == given]
            mine.sort(key=lambda n: table[n, given] - table[n, other])
            expected |= set(mine[: found.joint[given, other]])
    assert set(found.rows.tolist()) == {n for n in expected if table[n].argmax() != labels[n]}
    assert found.suggested.tolist() == table[found.rows].argmax(1).tolist()
    assert (np.diff(found.margins) <= 0).all()


def test_cleanlab_finds_the_same_rows():
    labels, table = noisy_table(60, 2, seed=7)
    assert sorted(find_label_errors(labels, table).rows.tolist()) == CLEANLAB


def test_flipped_labels_of_a_good_model_are_found_and_no_others():
    true = np.arange(200) % 2
    table = np.where(np.eye(2)[true] > 0, 0.95, 0.05)
    labels = true.copy()
    labels[[3, 50, 121]] = 1 - labels[[3, 50, 121]]
    found = find_label_errors(labels, table)
    assert sorted(found.rows.tolist()) == [3, 50, 121]
    assert found.suggested.tolist() == true[found.rows].tolist()
    assert len(find_label_errors(true, table).rows) == 0


def test_a_class_without_patches_and_one_with_a_single_patch_are_no_trouble():
    """The only patch of a class is not suspected: nothing says how the class looks."""
    table = np.array([[0.9, 0.05, 0.03, 0.02]] * 10 + [[0.6, 0.3, 0.05, 0.05]] * 3)
    labels = np.array([0] * 10 + [1] + [2] * 2)
    found = find_label_errors(labels, table)
    assert 10 not in found.rows
    assert found.joint[3].tolist() == [0, 0, 0, 0]
