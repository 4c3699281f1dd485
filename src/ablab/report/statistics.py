"""Means over replicates and paired differences, with two-sided t-intervals.

One replicate gives a mean and no interval: nothing is known of its spread, and nothing is made up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t as student

CONFIDENCE = 0.95
MOST_SEEDS = 1000  # beyond this, how many seeds a difference would take is not worth a number


@dataclass(frozen=True)
class Estimate:
    """A mean of n values; half is the half-width of its t-interval, None for n = 1; deviation is the sample's."""

    mean: float
    half: float | None
    deviation: float | None
    n: int

    @property
    def low(self) -> float | None:
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.half is None else self.mean + self.half

    @property
    def includes_zero(self) -> bool | None:
        """Whether the interval does, bounds included; None where there is no interval."""
        return None if self.half is None else abs(self.mean) <= self.half


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of independent values and its t-interval (n - 1 degrees of freedom).

    Raises ValueError for no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no values")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Estimate(mean, _quantile(n) * deviation / math.sqrt(n), deviation, n)


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """`ours` less `theirs` over the seeds that both have, each seed's difference taken first; None without any.

    Pairing takes out what a seed does to both alike: data order, augmentation, and the start of the parts that they
    share, since each part is initialised from (seed, part): equal parts start equal.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    return estimate([ours[seed] - theirs[seed] for seed in seeds]) if seeds else None


def seeds_needed(difference: Estimate) -> int | None:
    """How many seeds would tell a difference from zero, if it stayed as large and as spread as it looks now.

    The smallest n > difference.n whose interval would leave zero out; None with one seed, for a mean of exactly
    zero, and beyond MOST_SEEDS. A guide for planning, not a promise: the effect itself is estimated.
    """
    if difference.deviation is None or difference.mean == 0:
        return None
    for n in range(difference.n + 1, MOST_SEEDS + 1):
        if _quantile(n) * difference.deviation / math.sqrt(n) < abs(difference.mean):
            return n
    return None


def _quantile(n: int) -> float:
    """Half the width of a t-interval over n values, in standard errors."""
    return float(student.ppf((1 + CONFIDENCE) / 2, n - 1))
