"""95 % intervals hold the true value 95 times of 100, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from histo.report.intervals import interval, intervals, resample
from histo.report.weighted import Counts, all_metrics


def simulate(rng: np.random.Generator, n: int, shift: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores whose true AUC is norm.cdf(shift / sqrt(2))."""
    labels = rng.integers(2, size=n)
    scores = 1 / (1 + np.exp(-(rng.normal(size=n) + shift * labels - shift / 2)))
    return labels, np.stack([1 - scores, scores], 1)


TABLES = 1500
"""Simulated tables. Whatever the seed, an interval that holds the truth 95 times of 100 fails the
tests below once in three million times, one that does so 94.5 times once in forty thousand. With
200 tables it would be once in thirty, and the seed would decide."""


def count_held(
    held: dict[str, int], found: dict[str, tuple[float, float]], truth: dict[str, float]
) -> None:
    """Count the intervals that hold the truth."""
    for name, value in truth.items():
        held[name] += found[name][0] <= value <= found[name][1]


@pytest.mark.slow
def test_intervals_hold_the_truth_in_92_to_98_of_100_simulated_tables():
    """Every metric but the calibration error; its truth is known, or that of a million patches."""
    rng = np.random.default_rng(0)
    shift = 1.5
    truth = all_metrics(*simulate(rng, 1_000_000, shift))(np.ones(1_000_000)) | {
        "roc_auc": norm.cdf(shift / 2**0.5),
        "accuracy": norm.cdf(shift / 2),
        "sensitivity": norm.cdf(shift / 2),
        "specificity": norm.cdf(shift / 2),
    }
    held = dict.fromkeys(truth, 0)
    for seed in range(TABLES):
        labels, table = simulate(rng, 250, shift)
        count_held(held, intervals(all_metrics(labels, table), 250, None, 100, seed), truth)
    assert len(held) == 9
    assert all(0.92 <= count / TABLES <= 0.98 for count in held.values()), held


@pytest.mark.slow
def test_where_slides_differ_the_grouped_interval_holds_and_the_plain_one_does_not():
    """A slide has one label, as PatchCamelyon's normal slides, and a stain that shifts its scores."""
    rng = np.random.default_rng(0)
    slides, per, shift = 60, 6, 2.0
    n = slides * per
    groups = np.repeat(np.arange(slides), per).astype(str)
    labels = np.repeat(np.arange(slides) % 2, per)
    truth = {
        "roc_auc": norm.cdf(shift / 2),  # two slides and two patches, of variance 1 each
        "accuracy": norm.cdf(shift / 2 / 2**0.5),
    }
    plain, grouped = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for seed in range(TABLES):
        stain = np.repeat(rng.normal(size=slides), per)
        scores = norm.cdf(rng.normal(size=n) + stain + shift * (labels - 0.5))
        figures = all_metrics(labels, np.stack([1 - scores, scores], 1))
        if seed < TABLES / 5:  # so far off that fewer tell
            count_held(plain, intervals(figures, n, None, 100, seed), truth)
        count_held(grouped, intervals(figures, n, groups, 100, seed), truth)
    assert all(0.92 <= count / TABLES <= 0.98 for count in grouped.values()), grouped
    assert all(count / (TABLES / 5) < 0.9 for count in plain.values()), plain


def test_a_perfect_figure_is_not_certain():
    table = np.repeat([[0.9, 0.1], [0.1, 0.9]], 20, axis=0)
    low, high = intervals(all_metrics(np.repeat([0, 1], 20), table), 40)["roc_auc"]
    assert high == 1
    assert low == pytest.approx(0.025 ** (1 / 40))


def test_whole_groups_are_drawn_as_many_as_there_are_each_as_often_as_another():
    """Five slides of three patches: each once in the mean, with all of its patches."""
    seen = []

    def look(weights: np.ndarray) -> dict[str, np.ndarray]:
        seen.extend(weights.reshape(-1, 15))
        return {"first": weights[..., 0] / 15}

    intervals(look, 15, [f"s{n % 5}" for n in range(15)], rounds=400)
    drawn = np.array(seen[:400])
    assert (drawn.sum(1) == 15).all()
    assert (drawn[:, :5] == drawn[:, 5:10]).all()
    assert drawn.mean(0) == pytest.approx(np.ones(15), abs=0.2)


def test_the_seed_decides_which_patches_are_drawn():
    figures = all_metrics(*simulate(np.random.default_rng(3), 50))
    one, again, other = (intervals(figures, 50, rounds=20, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert all(one[name] != other[name] for name in one)


def delong_interval(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """DeLong, DeLong and Clarke-Pearson (1988, Biometrics 44:837), by its definition."""
    pos, neg = scores[labels == 1], scores[labels == 0]
    wins = (pos[:, None] > neg) + 0.5 * (pos[:, None] == neg)
    error = np.sqrt(wins.mean(1).var(ddof=1) / len(pos) + wins.mean(0).var(ddof=1) / len(neg))
    return wins.mean() - 1.96 * error, wins.mean() + 1.96 * error


def test_the_interval_of_auc_is_near_delongs():
    labels, table = simulate(np.random.default_rng(6), 600)
    ours = intervals(all_metrics(labels, table), 600)["roc_auc"]
    assert ours == pytest.approx(delong_interval(labels, table[:, 1]), abs=0.006)


def test_parts_are_resampled_by_the_same_draws():
    """Several parts at once have the intervals that each has alone."""
    one, two = (all_metrics(*simulate(np.random.default_rng(seed), 50)) for seed in (4, 5))
    both = resample({"one": one, "two": two}, 50, rounds=50)
    assert both == {"one": intervals(one, 50, rounds=50), "two": intervals(two, 50, rounds=50)}


def test_a_metric_that_is_not_defined_has_no_interval():
    """An AUC of one class; anything of one patch."""
    _, table = simulate(np.random.default_rng(0), 20)
    found = intervals(all_metrics(np.zeros(20, np.int64), table), 20, rounds=50)
    assert found["roc_auc"] is found["sensitivity"] is None
    assert found["specificity"] is not None
    alone = intervals(all_metrics(np.array([0]), table[:1]), 1, rounds=50)
    assert set(alone.values()) == {None}


def test_the_interval_of_a_difference_lies_evenly_around_it():
    """On its own scale: a difference may be negative, and has no logit."""
    low, high = interval(0.02, np.array([0.01, 0.02, 0.03, 0.05]), 100, difference=True)
    assert (low + high) / 2 == pytest.approx(0.02)
    assert low < 0 < high


@pytest.mark.slow
def test_the_interval_of_a_difference_holds_it_as_often():
    """Two readers of the same patches, one right in 85 of 100 and one in 80, often on the same."""
    rng, held = np.random.default_rng(0), {"accuracy": 0}
    labels = rng.integers(2, size=300)
    for seed in range(TABLES):
        hard = rng.random(300)
        one, two = hard < 0.85, np.where(rng.random(300) < 0.5, hard, rng.random(300)) < 0.80
        a, b = (Counts(labels, np.where(right, labels, 1 - labels), 2) for right in (one, two))
        found = intervals(
            lambda w, a=a, b=b: {"accuracy": a(w)["accuracy"] - b(w)["accuracy"]},
            300,
            None,
            100,
            seed,
            difference=True,
        )
        count_held(held, found, {"accuracy": 0.05})
    assert 0.92 <= held["accuracy"] / TABLES <= 0.98, held
