"""One column of a table, and the cheapest reading of every cell in it.

Rows form groups (a family in one table) and groups families. What is one hand's habit, such as a unit, the whole table
shares unless a family departs from it; which tool counted is each family's own; a group takes what its family takes
and a row what its group takes, unless they pay. For given cells the cheapest choice is exact: axes are independent, so
costs pass up the tree by one minimum an axis (min-sum, as in belief propagation on a tree).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from ablab.report.published import candidates
from ablab.report.published.conventions import Network
from ablab.report.published.readings import CUT, NEVER, OTHER_SIZE, Array, Cell, Level, axes, plain, values

Index = tuple[int, ...]  # a reading: which value on each axis
Order = tuple[int, ...]  # for every row, the row in which its cell was printed


@dataclass(frozen=True)
class Row:
    """A printed row. network: which one was measured. cells: column -> Cell, of those that were printed."""

    id: str
    network: str
    family: str
    table: str
    imgsz: int
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Read:
    """How the figure that belongs in a cell came about.

    taken: axis -> value. value: what that gives, unrounded, in the figure's unit, at `imgsz` px. how: "rounded", "cut"
    or "unexplained"; then taken is what the row's group takes. printed: the figure, which stands in the row `printed_in`.
    """

    taken: Mapping[str, Any]
    value: float
    imgsz: int
    how: str
    printed: Decimal
    printed_in: str


class Column:
    """A column of a table whose cells stand in some order, and the cheapest readings of this and of other orders.

    What several rows may be off by is looked for in the order that it is made with.
    """

    def __init__(self, name: str, rows: Sequence[Row], networks: Mapping[str, Network], order: Order) -> None:
        self.name, self.rows = name, rows
        sizes = {row.imgsz for row in rows} if name == "flops" else set()
        self.plain = [{s: plain(name, networks[row.network], s) for s in {row.imgsz, *sizes}} for row in rows]
        self.families: dict[str, dict[str, list[int]]] = {}
        for number, row in enumerate(rows):
            self.families.setdefault(row.family, {}).setdefault(row.table, []).append(number)
        cells = {n: rows[source].cells.get(name) for n, source in enumerate(order)}
        printed = {n: (cell, self.plain[n][rows[n].imgsz]) for n, cell in cells.items() if cell}
        together = [rows for groups in self.families.values() for rows in (*groups.values(), _members(groups))]
        self.axes = axes(
            name,
            candidates.factors([printed[n] for n in members if n in printed] for members in together),
            candidates.files(list(printed.values())) if name == "size" else (),
        )
        self.costs = {(level, one): [a.cost(level, one) for a in self.axes] for level in Level for one in (False, True)}
        self.leaves: dict[tuple[int, int], Array | None] = {}
        self.known: dict[tuple[str, Order], Array] = {}

    def cost(self, order: Order) -> float:
        """Bits of the cheapest readings, with the cells in this order."""
        return float(np.min(self._table(order)))

    def differ(self, first: int, second: int) -> bool:
        """Whether two rows print different figures."""
        return self.rows[first].cells.get(self.name) != self.rows[second].cells.get(self.name)

    def _table(self, order: Order) -> Array:
        costs = self.costs[Level.TABLE, False]
        families = (self._raised(self._family(family, order), Level.FAMILY, groups) for family, groups in self._groups())
        return _spread(costs) + sum(families)

    def _groups(self) -> list[tuple[str, list[int]]]:
        return [(family, _members(groups)) for family, groups in self.families.items()]

    def _family(self, family: str, order: Order) -> Array:
        groups = self.families[family]
        key = family, tuple(order[n] for n in _members(groups))
        if key not in self.known:
            raised = [self._raised(self._group(rows, order), Level.GROUP, rows) for rows in groups.values()]
            self.known[key] = np.asarray(sum(raised))
        return self.known[key]

    def _group(self, rows: Sequence[int], order: Order) -> Array:
        leaves = [(n, self._leaf(n, order[n])) for n in rows]
        shape = [len(axis.values) for axis in self.axes]
        return sum((self._raised(leaf, Level.ROW, [n]) for n, leaf in leaves if leaf is not None), np.zeros(shape))

    def _leaf(self, row: int, source: int) -> Array | None:
        """Bits of the cell printed in `source` standing in `row`, under every reading; None: nothing was printed."""
        if (row, source) not in self.leaves:
            cell = self.rows[source].cells.get(self.name)
            self.leaves[row, source] = None if cell is None else self._bits(row, cell)
        return self.leaves[row, source]

    def _bits(self, row: int, cell: Cell) -> Array:
        bits = [self._match(row, size, cell) + self._of_size(row, size) for size in self.plain[row]]
        return np.minimum(np.min(bits, axis=0), cell.unexplained)

    def _of_size(self, row: int, size: int) -> float:
        others = len(self.plain[row]) - 1
        return 0.0 if size == self.rows[row].imgsz else OTHER_SIZE + math.log2(others)

    def _match(self, row: int, size: int, cell: Cell) -> Array:
        bits = cell.match(values(self.plain[row][size], self.axes))
        if cell.dtype and self.axes[0].name == "dtype":
            said = np.array([0.0 if value == cell.dtype else NEVER for value in self.axes[0].values])
            bits = bits + _along(said, 0, bits.ndim)
        return bits

    def _raised(self, below: Array, level: Level, rows: Sequence[int]) -> Array:
        """Bits for every reading of the node above: each axis is kept, or another value taken at its cost."""
        for number, cost in enumerate(self.costs[level, len(rows) == 1]):
            best = (below + _along(cost, number, below.ndim)).min(axis=number, keepdims=True)
            below = np.minimum(below, best) if self.axes[number].inherited(level) else best
        return below

    def _descended(self, below: Array, above: Index, level: Level, rows: Sequence[int]) -> tuple[Index, float]:
        """The reading that a node takes under one that takes `above`, and what departing from that costs."""
        costs = [np.array(cost) for cost in self.costs[level, len(rows) == 1]]
        for axis, cost, kept in zip(self.axes, costs, above, strict=True):
            if axis.inherited(level):
                cost[kept] = 0.0
        spread = _spread(costs)
        index = _cheapest(spread + below)
        return index, float(spread[index])

    def readings(self, order: Order) -> tuple[dict[int, Read], set[int]]:
        """The cheapest readings by row, and the rows that cost something of their own."""
        table = _cheapest(self._table(order))
        found, strained = {}, set()
        for family, members in self._groups():
            of_family, _ = self._descended(self._family(family, order), table, Level.FAMILY, members)
            for rows in self.families[family].values():
                of_group, for_group = self._descended(self._group(rows, order), of_family, Level.GROUP, rows)
                for row in rows:
                    leaf = self._leaf(row, order[row])
                    if leaf is None:
                        continue
                    of_row, for_row = self._descended(leaf, of_group, Level.ROW, [row])
                    found[row] = self._read(row, order[row], of_row)
                    if leaf[of_row] + for_row + (for_group if len(rows) == 1 else 0.0):
                        strained.add(row)
        return found, strained

    def _read(self, row: int, source: int, chosen: Index) -> Read:
        cell, own = self.rows[source].cells[self.name], self.rows[row].imgsz
        bits = {size: float(self._match(row, size, cell)[chosen]) for size in self.plain[row]}
        size = min(bits, key=lambda size: bits[size] + self._of_size(row, size))
        how = "unexplained" if bits[size] > CUT else "cut" if bits[size] else "rounded"
        size = own if how == "unexplained" else size
        taken = {axis.name: axis.values[i] for axis, i in zip(self.axes, chosen, strict=True)}
        value = float(values(self.plain[row][size], self.axes)[chosen])
        return Read(taken, value, size, how, cell.printed, self.rows[source].id)


def _members(groups: Mapping[str, list[int]]) -> list[int]:
    return [number for rows in groups.values() for number in rows]


def _along(cost: Array, axis: int, dimensions: int) -> Array:
    return cost.reshape([-1 if number == axis else 1 for number in range(dimensions)])


def _spread(costs: Sequence[Array]) -> Array:
    """The sum of one cost an axis, for every reading."""
    return np.asarray(sum(_along(cost, axis, len(costs)) for axis, cost in enumerate(costs)))


def _cheapest(bits: Array) -> Index:
    return tuple(int(number) for number in np.unravel_index(np.argmin(bits), bits.shape))
