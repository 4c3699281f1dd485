"""Constants that several rows of a table may share: factors, and what files hold besides numbers.

Only what rows have in common is proposed: a factor that two rows of a family allow, a constant of files that three rows
allow, where nothing else reproduces one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ablab.report.published.decimals import Interval, shared, short
from ablab.report.published.readings import BINARY, CUT, Array, Cell

AT_LEAST, AT_MOST = 1.05, 20.0  # a factor; what is off by less was counted or rounded otherwise
LARGEST_FILE = 0.5  # the largest constant of a file, in MB or MiB

Printed = tuple[Cell, Array]  # a cell, and what its network would read under every plain reading


def factors(families: Iterable[Sequence[Printed]]) -> list[float]:
    """Short decimals d, or 1/d, or BINARY, by which all plain values of two or more rows of a family may be off."""
    found: set[float] = set()
    for cells in families:
        fits = [_fits(*one) for one in cells]
        if all(fits) or len(cells) < 2:
            continue
        for reading in range(cells[0][1].size):
            intervals = {}
            for number, (cell, values) in enumerate(cells):
                value = float(values.flat[reading])
                if value > 0 and cell.low > 0:
                    intervals[number] = (cell.low / value, cell.high / value)
            for low, high in _needed(intervals, fits, least=2):
                decimals = {*short(low, high), *(1 / d for d in short(1 / high, 1 / low, most=2))}
                found.update(f for f in decimals if AT_LEAST <= max(f, 1 / f) <= AT_MOST)
                found.update(f for f in BINARY if low <= f <= high)
    return sorted(found)


def files(cells: Sequence[Printed]) -> list[float]:
    """Short decimals that files of three or more rows may hold besides their numbers, in the unit of their size."""
    fits = [_fits(*one) for one in cells]
    found: set[float] = set()
    for reading in range(cells[0][1].size if cells else 0):
        intervals = {}
        for number, (cell, values) in enumerate(cells):
            low, high = cell.low - float(values.flat[reading]), cell.high - float(values.flat[reading])
            if low > 0 and high <= LARGEST_FILE:
                intervals[number] = (low, high)
        for low, high in _needed(intervals, fits, least=3):
            found.update(short(low, high, most=1))
    return sorted(found)


def _fits(cell: Cell, values: Array) -> bool:
    return bool(np.min(cell.match(values)) <= CUT)


def _needed(intervals: Mapping[int, Interval], fits: Sequence[bool], least: int) -> list[Interval]:
    """Where intervals overlap, of `least` rows of which one fits nothing as it is."""
    found = []
    for low, high in shared(intervals.values(), least):
        here = [number for number, one in intervals.items() if one[0] <= low and high <= one[1]]
        if not all(fits[number] for number in here):
            found.append((low, high))
    return found
