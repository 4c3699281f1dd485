"""Explains a table of printed costs by the fewest assumptions: who counted what, in which unit, and what went wrong.

It knows no network and no torch: it takes printed cells and raw counts. Readings of cells are chosen exactly, column by
column; around that, rows exchange their cells for as long as it saves more than the assumption of a swap costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

from ablab.report.published.column import Column, Order, Read, Row
from ablab.report.published.conventions import Network
from ablab.report.published.readings import COLUMNS, SWAPPED


@dataclass(frozen=True)
class Swap:
    """Two rows that have each other's figures, in these columns."""

    rows: tuple[str, str]
    columns: tuple[str, ...]


def explain(rows: Iterable[Row], networks: Mapping[str, Network]) -> tuple[dict[tuple[str, str], Read], list[Swap]]:
    """How every figure came about, by (id of the row where it belongs, column), and whose figures were swapped.

    Rows whose network was not measured are passed over.
    """
    known = [row for row in rows if row.network in networks]
    orders = {name: tuple(range(len(known))) for name in COLUMNS}
    swaps: list[Swap] = []
    while True:
        columns = {name: Column(name, known, networks, order) for name, order in orders.items()}
        read = {name: column.readings(orders[name]) for name, column in columns.items()}
        found = _best_swap(columns, orders, {row for _, strained in read.values() for row in strained})
        if found is None:
            return {(known[n].id, name): one for name, (cells, _) in read.items() for n, one in cells.items()}, swaps
        first, second, names = found
        changed = tuple(n for n in names if columns[n].differ(orders[n][first], orders[n][second]))
        swaps.append(Swap((known[first].id, known[second].id), changed))
        orders |= {name: _swapped(orders[name], first, second) for name in names}


def _best_swap(
    columns: Mapping[str, Column], orders: Mapping[str, Order], strained: set[int]
) -> tuple[int, int, tuple[str, ...]] | None:
    """The exchange of two rows' figures, in all columns or in one, that saves most; None where none saves anything."""
    rows = len(orders[COLUMNS[0]])
    now = {name: column.cost(orders[name]) for name, column in columns.items()}
    best, found = 1e-6, None
    for first, second in combinations(range(rows), 2):
        if not {first, second} & strained:  # neither costs anything as it stands
            continue
        saved = {n: now[n] - column.cost(_swapped(orders[n], first, second)) for n, column in columns.items()}
        price = SWAPPED + math.log2(rows - 1)
        choices: list[tuple[float, tuple[str, ...]]] = [(sum(saved.values()) - price, COLUMNS)]
        choices += [(saved[name] - price - math.log2(len(COLUMNS)), (name,)) for name in COLUMNS]
        gain, names = max(choices)
        if gain > best:
            best, found = gain, (first, second, names)
    return found


def _swapped(order: Order, first: int, second: int) -> Order:
    changed = list(order)
    changed[first], changed[second] = changed[second], changed[first]
    return tuple(changed)
