"""The ways a printed cost can have come about, and what each assumption costs.

A *reading* of a cell takes one value on every axis of its column: which count, which form, which unit. Costs are in
bits, as in a minimum description length (Rissanen 1978): naming a value costs more the rarer it is, a row that departs
from the rows it stands with pays besides, and a cell left unexplained costs what its digits hold. So an assumption is
made where it explains more than it costs, and one that a family of rows shares is paid for once.

What can be a finding costs more than the dearest way of counting does beyond the cheapest: no row is called odd only
because its family then counts in a commoner way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablab.report.published.conventions import BYTES, COUNTS, FORMS, UNITS, Network, flops, numbers, scaled_flops
from ablab.report.published.decimals import digits_of

Array = NDArray[np.float64]

COLUMNS = ("flops", "params", "size")
CUT = 3.5  # digits cut off where they should have been rounded
OTHER_SIZE = 4.0  # counted at another input size, before the choice among the sizes
SWAPPED = 4.0  # two rows have each other's cells, before the choice of the other row
DOUBLED = 4.5  # or halved
FACTOR = 3.5  # several rows are off by another one, before its digits
UNEXPLAINED = 2.0  # nothing reproduces the cell, before its digits
DIGIT = math.log2(10)
NEVER = 1e6
BINARY = tuple(1.024**power for power in (-3, -2, -1, 1, 2, 3))  # counted in Ki, Mi or Gi, printed as k, M or G

PLAIN: dict[str, dict[str, dict[Any, float]]] = {  # column -> axis -> value -> bits for naming it
    "flops": {
        "count": dict(zip(COUNTS, (1.0, 1.0, 2.0, 3.0, 3.0), strict=True)),
        "form": dict.fromkeys(FORMS, 1.0),
        "scaled": {False: 0.5, True: 3.0},  # counted at the largest stride and multiplied up by the area
    },
    "params": {
        "counted": {"learnable": 1.0, "folded": 1.5, "stored": 1.5},
        "never_run": {False: 0.5, True: 1.5},
    },
    "size": {
        "dtype": dict.fromkeys(BYTES, 1.0),
        "unit": dict.fromkeys(UNITS, 1.0),
        "counted": {"stored": 1.0, "folded": 2.5, "learnable": 2.5},  # files hold everything, as a rule
        "never_run": {False: 0.5, True: 1.5},
    },
}
# What is one hand's habit throughout a table, and so a family's only where it departs; the rest is each family's own.
OF_A_TABLE = ("dtype", "unit", "file")
# What a row pays besides for departing from its group, or as all of it: little where a hand slips, more where it takes
# another tool.
ROW_DEPARTS = {"dtype": 2.0, "unit": 2.0, "file": 2.0, "counted": 4.0}
ROW_DEPARTS_OTHERWISE = 3.0
DEPARTS = 2.0  # a family of several rows from the table's dtype or unit, or in one table from what it does in others
NO_FACTOR = 6.0  # a row has not what its family is off by: then who else has it


@dataclass(frozen=True)
class Cell:
    """A printed figure (FLOPs in G, parameters in M, a size in whatever unit) and the dtype printed beside it."""

    printed: Decimal
    dtype: str | None = None

    @property
    def step(self) -> Decimal:
        """One of its last digit."""
        return Decimal(1).scaleb(int(self.printed.as_tuple().exponent))

    @property
    def low(self) -> float:
        return float(self.printed - self.step / 2)

    @property
    def high(self) -> float:
        return float(self.printed + self.step / 2)

    @property
    def unexplained(self) -> float:
        """Bits of printing it as it stands: nothing else is known of it."""
        return UNEXPLAINED + DIGIT * digits_of(self.printed)

    def match(self, value: Array) -> Array:
        """Bits by which values reproduce the figure: 0 rounded, CUT cut off, NEVER not at all (NaN neither)."""
        slack = 1e-9 * abs(value)
        rounded = (value >= self.low - slack) & (value <= self.high + slack)
        cut = (value >= float(self.printed) - slack) & (value < float(self.printed + self.step))
        return np.where(rounded, 0.0, np.where(cut, CUT, NEVER))


class Level(Enum):
    """Who chooses: the whole table, a family, a family in one table (group), a row."""

    TABLE, FAMILY, GROUP, ROW = range(4)


@dataclass(frozen=True)
class Axis:
    """One choice that a reading makes.

    shared: the values that only several rows make credible, and so no row chooses alone; on an axis that is a habit of
    the table's, they are chosen for the whole table or not at all.
    """

    name: str
    values: tuple[Any, ...]
    bits: tuple[float, ...]
    shared: frozenset[Any] = frozenset()

    def inherited(self, level: Level) -> bool:
        """Whether this level takes what the level above takes unless it departs from that."""
        return level in (Level.GROUP, Level.ROW) or (level is Level.FAMILY and self.name in OF_A_TABLE)

    def cost(self, level: Level, one_row: bool) -> Array:
        """Bits of choosing each value at this level. one_row: no second row stands below."""
        if level is Level.TABLE and self.name not in OF_A_TABLE:
            return np.zeros(1)  # left to the families
        more = DEPARTS if level is Level.GROUP or (level is Level.FAMILY and self.name in ("dtype", "unit")) else 0.0
        if level is Level.ROW or (one_row and more):
            more = ROW_DEPARTS.get(self.name, ROW_DEPARTS_OTHERWISE)
        alone = one_row or (level is not Level.TABLE and self.name in OF_A_TABLE)
        barred = [NEVER if alone and value in self.shared else 0.0 for value in self.values]
        if self.name == "factor" and level is not Level.FAMILY:
            barred[0] = NO_FACTOR
        return np.array(self.bits) + more + np.array(barred)


def axes(column: str, factors: Sequence[float] = (), files: Sequence[float] = ()) -> list[Axis]:
    """The axes of a column. factors: what its figures may be off by, beside 2 and a half. files: what a file may hold
    besides numbers, in the unit of its size."""
    found = [Axis(name, tuple(bits), tuple(bits.values())) for name, bits in PLAIN[column].items()]
    if column == "size":
        bits = (0.5, *(4 + DIGIT * digits_of(Decimal(repr(file))) for file in files))
        found.append(Axis("file", (0.0, *files), bits, frozenset(files)))
    more = tuple(factor for factor in factors if factor not in (1.0, 2.0, 0.5))
    bits = (0.5, DOUBLED, DOUBLED, *(factor_bits(factor) for factor in more))
    return [*found, Axis("factor", (1.0, 2.0, 0.5, *more), bits, frozenset(more))]


def factor_bits(factor: float) -> float:
    """Bits of a factor d or 1/d: a short decimal is what a wrong constant in a formula leaves behind, or a prefix."""
    if factor in BINARY:
        return FACTOR + DIGIT
    direct, inverse = (digits_of(Decimal(f"{number:.6g}")) for number in (factor, 1 / factor))
    return FACTOR + DIGIT * min(direct, inverse, 3) + (0.25 if inverse < direct else 0.0)


def plain(column: str, net: Network, size: int) -> Array:
    """What a network's cell would read at `size` px, by the axes of PLAIN; NaN where that was not measured."""
    choices = [tuple(bits) for bits in PLAIN[column].values()]
    found = [_plain(column, net, size, *choice) for choice in product(*choices)]
    return np.array(found, dtype=float).reshape([len(choice) for choice in choices])


def _plain(column: str, net: Network, size: int, *choice: Any) -> float:
    if column == "flops":
        count, form, scaled = choice
        try:
            return scaled_flops(count, net, form, size) if scaled else flops(count, net.at(form, size))
        except KeyError:
            return math.nan
    if column == "params":
        return numbers(net, *choice) / 1e6
    dtype, unit, counted, never_run = choice
    return numbers(net, counted, never_run) * BYTES[dtype] / UNITS[unit]


def value_of(column: str, taken: Mapping[str, Any], net: Network, size: int) -> float:
    """What one reading gives for a network at `size` px, unrounded."""
    found = _plain(column, net, size, *(taken[axis] for axis in PLAIN[column]))
    return found * float(taken["factor"]) + float(taken.get("file", 0.0))


def simplest(column: str, net: Network, size: int, taken: Mapping[str, Any]) -> dict[str, Any]:
    """The reading, on every axis of PLAIN with the first value that changes nothing for this network."""
    choice = [taken[axis] for axis in PLAIN[column]]
    value = _plain(column, net, size, *choice)
    for number, options in enumerate(PLAIN[column].values()):
        same = ([*choice[:number], option, *choice[number + 1 :]] for option in options)
        choice = next(one for one in same if math.isclose(_plain(column, net, size, *one), value, rel_tol=1e-9))
    return {**taken, **dict(zip(PLAIN[column], choice, strict=True))}


def values(found: Array, by: Sequence[Axis]) -> Array:
    """Plain values under every reading, by all axes: times the factor, and with what a file holds besides."""
    offsets = {axis.name: np.array(axis.values, dtype=float) for axis in by if axis.name in ("file", "factor")}
    times = found[..., None] * offsets["factor"]
    if "file" not in offsets:
        return times
    return times[..., None, :] + offsets["file"][:, None]
