"""Short decimals within an interval, and the intervals that several figures share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal

Interval = tuple[float, float]


def digits_of(number: Decimal) -> int:
    """Significant digits as written: 1.10 has three, 0.25 two, 17.0 three; zeros before the first one do not count."""
    return max(len(number.as_tuple().digits), 1)


def short(low: float, high: float, most: int = 3) -> list[float]:
    """The decimals with the fewest significant digits (`most` at most) in an interval of positive numbers.

    >>> short(1.08, 1.13), short(0.175, 0.213), short(1.1201, 1.1209)
    ([1.1], [0.2], [])
    """
    for digits in range(1, most + 1):
        step = Decimal(1).scaleb(math.floor(math.log10(low)) - digits + 1)
        first, last = math.ceil(low / float(step) - 1e-9), math.floor(high / float(step) + 1e-9)
        if first <= last:
            return [float(step * number) for number in range(first, min(last, first + 2) + 1)]
    return []


def shared(intervals: Iterable[Interval], least: int) -> set[Interval]:
    """The intervals in which at least `least` of the given ones overlap, as many as can at each place."""
    known = list(intervals)
    found = set()
    for low, _ in known:
        here = [one for one in known if one[0] <= low <= one[1]]
        if len(here) >= least:
            found.add((low, min(high for _, high in here)))
    return found
