"""Against scipy's own tests and a textbook's numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ablab.report.statistics import estimate, paired_difference, seeds_needed


def test_interval_by_hand() -> None:
    found = estimate([1.0, 2.0, 3.0])  # deviation 1, t(0.975, 2) = 4.30265
    assert found.mean == 2.0
    assert found.half == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)


@pytest.mark.parametrize("n", [2, 3, 5, 17])
def test_interval_is_scipys(n: int) -> None:
    values = np.random.default_rng(n).normal(0.4, 0.05, n)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = estimate(list(values))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_paired_difference_is_scipys_paired_test() -> None:
    rng = np.random.default_rng(0)
    seeds = rng.normal(0.5, 0.1, 6)
    ours, theirs = seeds + rng.normal(0.01, 0.01, 6), seeds
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    found = paired_difference(dict(enumerate(ours)), dict(enumerate(theirs)))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.includes_zero == (stats.ttest_rel(ours, theirs).pvalue >= 0.05)


def test_only_matching_seeds_are_paired() -> None:
    found = paired_difference({0: 1.0, 1: 5.0, 7: 100.0}, {1: 3.0, 0: 0.0, 2: -50.0})
    assert found is not None
    assert (found.mean, found.n) == (1.5, 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_one_seed_has_no_interval() -> None:
    found = estimate([0.5])
    assert (found.mean, found.half, found.low, found.includes_zero) == (0.5, None, None, None)
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_no_spread_is_an_interval_of_no_width() -> None:
    assert estimate([0.5, 0.5]).includes_zero is False
    assert estimate([0.0, 0.0]).includes_zero is True


def test_seeds_needed_is_the_first_n_whose_interval_leaves_zero_out() -> None:
    difference = estimate([0.01, -0.01, 0.03])  # mean 0.01, deviation 0.02
    needed = seeds_needed(difference)
    assert needed is not None
    width = {n: stats.t.ppf(0.975, n - 1) * 0.02 / math.sqrt(n) for n in (needed - 1, needed)}
    assert width[needed] < 0.01 <= width[needed - 1]


def test_seeds_needed_stays_silent_where_it_cannot_know() -> None:
    assert seeds_needed(estimate([0.01])) is None
    assert seeds_needed(estimate([-0.01, 0.01])) is None
    assert seeds_needed(estimate([-0.01, 0.01, 1e-9])) is None
