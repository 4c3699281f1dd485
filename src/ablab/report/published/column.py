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
Node = tuple[int, ...]  # the rows that stand together: a family, a family in one table, a row
Order = tuple[int, ...]  # for every row, the row in which its cell was printed


@dataclass(frozen=True)
class Row:
    """A printed row. network: which one was measured. cells: column -> Cell, of those that were printed."""

    id: str
    name: str
    network: str
    family: str
    table: str
    imgsz: int
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Read:
    """How the figure that belongs in a cell came about.

    taken: axis -> value. value: what that gives, unrounded, in the figure's unit, at `imgsz` px. how: "rounded", "cut"
    or "unexplained", and then taken is what the row's group takes. printed: the figure, which stands in the row
    `printed_in`.
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
        cells = {n: rows[source].cells.get(name) for n, source in enumerate(order)}
        printed = {n: (cell, self.plain[n][rows[n].imgsz]) for n, cell in cells.items() if cell}
        families = self._split(Level.TABLE, tuple(range(len(rows))))
        together = families + [group for family in families for group in self._split(Level.FAMILY, family)]
        self.axes = axes(
            name,
            candidates.factors([printed[n] for n in members if n in printed] for members in together),
            candidates.files(list(printed.values())) if name == "size" else (),
        )
        self.figures = set(printed)
        self.costs = {(level, one): [a.cost(level, one) for a in self.axes] for level in Level for one in (False, True)}
        self.known: dict[tuple[Level, Node, Order], Array] = {}

    def cost(self, order: Order) -> float:
        """Bits of the cheapest readings, with the cells in this order."""
        return float(np.min(self._bits(Level.TABLE, tuple(range(len(self.rows))), order)))

    def differ(self, first: int, second: int) -> bool:
        """Whether two rows print different figures."""
        return self.rows[first].cells.get(self.name) != self.rows[second].cells.get(self.name)

    def _split(self, level: Level, node: Node) -> list[Node]:
        """The nodes below one: families of a table, a family's groups, a group's rows."""
        parts: dict[Any, list[int]] = {}
        for n in node:
            by = {Level.TABLE: self.rows[n].family, Level.FAMILY: self.rows[n].table}.get(level, n)
            parts.setdefault(by, []).append(n)
        return [tuple(part) for part in parts.values()]

    def _bits(self, level: Level, node: Node, order: Order) -> Array:
        """Bits of all that stands below a node, for every reading that it may take."""
        if level is Level.ROW:
            return self._leaf(node[0], order[node[0]])
        below = Level(level.value + 1)
        bits = [self._raised(below, part, order) for part in self._split(level, node)]
        if level is Level.TABLE:
            bits.append(_spread(self.costs[level, False]))
        return np.asarray(sum(bits))

    def _raised(self, level: Level, node: Node, order: Order) -> Array:
        """The same for every reading of the node above: each axis is kept, or another value taken at its cost."""
        key = level, node, tuple(order[n] for n in node)
        if key not in self.known:
            bits = self._bits(level, node, order)
            for number, cost in enumerate(self.costs[level, self._alone(node)]):
                best = (bits + _along(cost, number, bits.ndim)).min(axis=number, keepdims=True)
                bits = np.minimum(bits, best) if self.axes[number].inherited(level) else best
            self.known[key] = bits
        return self.known[key]

    def _alone(self, node: Node) -> bool:
        return len(self.figures.intersection(node)) < 2

    def _leaf(self, row: int, source: int) -> Array:
        """Bits of the cell printed in `source` standing in `row`, under every reading; 0 where nothing was printed."""
        cell = self.rows[source].cells.get(self.name)
        if cell is None:
            return np.zeros([len(axis.values) for axis in self.axes])
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

    def readings(self, order: Order) -> tuple[dict[int, Read], set[int]]:
        """The cheapest readings by row, and the rows that cost something of their own."""
        found: dict[int, Read] = {}
        strained: set[int] = set()

        def descend(level: Level, node: Node, above: Index, paid: float) -> None:
            bits, costs = self._bits(level, node, order), [np.array(c) for c in self.costs[level, self._alone(node)]]
            for axis, cost, kept in zip(self.axes, costs, above, strict=True):
                if axis.inherited(level):
                    cost[kept] = 0.0
            departs = _spread(costs)
            taken = _cheapest(departs + bits)
            paid += departs[taken] if level is not Level.FAMILY else 0.0
            if level is not Level.ROW:
                for part in self._split(level, node):
                    descend(Level(level.value + 1), part, taken, paid if len(node) == 1 else 0.0)
            elif self.name in self.rows[order[node[0]]].cells:
                found[node[0]] = self._read(node[0], order[node[0]], taken)
                if paid + bits[taken]:
                    strained.add(node[0])

        everything = tuple(range(len(self.rows)))
        table = _cheapest(self._bits(Level.TABLE, everything, order))
        for family in self._split(Level.TABLE, everything):
            descend(Level.FAMILY, family, table, 0.0)
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


def _along(cost: Array, axis: int, dimensions: int) -> Array:
    return cost.reshape([-1 if number == axis else 1 for number in range(dimensions)])


def _spread(costs: Sequence[Array]) -> Array:
    """The sum of one cost an axis, for every reading."""
    return np.asarray(sum(_along(cost, axis, len(costs)) for axis, cost in enumerate(costs)))


def _cheapest(bits: Array) -> Index:
    return tuple(int(number) for number in np.unravel_index(np.argmin(bits), bits.shape))
