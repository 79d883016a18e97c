"""Suspected label errors by confident learning, and nothing but numpy.

Northcutt, Jiang, Chuang: Confident Learning, 2021, arXiv:1911.00068; the estimates are those of
cleanlab 2.9 at its defaults (`prune_by_noise_rate`), and a test holds both to the same rows.
cleanlab itself is no dependency: it is small (a wheel of 0.3 MB, and tqdm and termcolor new), but
importing its filter takes scikit-learn and 1.4 s of processor time for what are three formulas
here, and it does not give the class that it suspects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
TIE = 1e-6
"""How far under a class's threshold a probability may be through rounding."""


@dataclass(frozen=True)
class LabelErrors:
    """Suspected label errors, the most suspicious first.

    `rows` are rows of the table, `suggested` the class that each seems to be, `margins` (0 to 1)
    the probability of that class less that of the label. `thresholds` [C] is the mean probability
    of each class over the patches labelled so (NaN where none is); `joint` [C, C] estimates how
    many patches labelled i are j.
    """

    rows: Labels
    suggested: Labels
    margins: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    joint: NDArray[np.int64]


def find_label_errors(labels: Labels, probabilities: NDArray[np.float64]) -> LabelErrors:
    """The rows whose label is probably wrong, from out-of-fold probabilities [N, C].

    Prune by noise rate: of the patches labelled i as many as the joint says are j, those with the
    largest margin of j over i; a patch whose label is its most probable class is never suspected.
    What a patch seems to be is its most probable class.
    """
    thresholds = class_thresholds(labels, probabilities)
    joint = confident_joint(labels, probabilities, thresholds)
    margins = probabilities - probabilities[np.arange(len(labels)), labels][:, None]
    suspected = np.zeros(probabilities.shape, bool)
    for given, other in np.argwhere(joint):
        mine = np.flatnonzero(labels == given)
        if other != given and len(mine) > 1:  # a class keeps a patch
            order = np.argsort(-margins[mine, other], kind="stable")
            suspected[mine[order[: joint[given, other]]], other] = True
    rows = np.flatnonzero((suspected & (margins > 0)).any(1))
    suggested = probabilities[rows].argmax(1)
    found = margins[rows, suggested]
    order = np.argsort(-found, kind="stable")
    return LabelErrors(rows[order], suggested[order], found[order], thresholds, joint)


def class_thresholds(labels: Labels, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean probability of each class over the patches labelled so [C]; NaN where none is."""
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    sums = np.bincount(labels, own, minlength=probabilities.shape[1])
    means = np.full(len(counts), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def confident_joint(
    labels: Labels, probabilities: NDArray[np.float64], thresholds: NDArray[np.float64]
) -> NDArray[np.int64]:
    """How many patches labelled i are j [C, C]: counted where confident, scaled to all patches.

    A patch counts as of the most probable of the classes whose threshold it reaches, or not at all.
    """
    classes = len(thresholds)
    reached = (
        probabilities >= thresholds - TIE
    )  # nothing reaches the NaN of a class without patches
    known, guess = reached.any(1), np.where(reached, probabilities, -1).argmax(1)
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (labels[known], guess[known]), 1)
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), 1))
    counts = np.bincount(labels, minlength=classes)
    return round_rows(joint / joint.sum(1, keepdims=True) * counts[:, None])


def round_rows(table: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers with the same sum in each row [R, C]: the largest remainders are rounded up."""
    whole = np.floor(table + 1e-9).astype(np.int64)
    for row, (values, floors) in enumerate(zip(table, whole, strict=True)):
        missing = round(float(values.sum())) - int(floors.sum())
        whole[row, np.argsort(floors - values, kind="stable")[:missing]] += 1
    return whole
