"""What an explained table gets wrong, and where its columns cannot be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ablab.report.published.column import Read, Row
from ablab.report.published.conventions import Network
from ablab.report.published.explain import explain
from ablab.report.published.readings import CUT, Cell, value_of

TABLE = ("dtype", "unit")  # what is compared over a whole column
FAMILY = ("count", "form", "counted", "never_run")  # what is compared within a family: others have other tools
KINDS = ("swapped", "size", "factor", "scaled", *TABLE, *FAMILY, "cut", "unexplained")  # gravest first
OF_A_FAMILY, OF_A_ROW = ("factor", *FAMILY), ("size", "scaled", "unexplained")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or inconsistent in a table.

    kind: "swapped" (value: the columns), "size" (counted at another input size; value: which), "factor" (value: what
    the figures are multiplied by), "scaled" (counted at the largest stride and multiplied up, which differs here),
    "dtype" and "unit" (other than most of the column), "count", "form", "counted" and "never_run" (counted otherwise
    than most of the family; value: how), "cut" (digits cut off, not rounded), "unexplained" (nothing reproduces it).
    """

    kind: str
    column: str
    rows: tuple[str, ...]
    value: Any = None


def find(rows: Iterable[Row], networks: Mapping[str, Network]) -> tuple[dict[tuple[str, str], Read], list[Finding]]:
    """How every figure came about, by (id of the row where it belongs, column), and what follows; gravest first."""
    known = {row.id: row for row in rows}
    cells, swaps = explain(known.values(), networks)
    found = [Finding("swapped", "", swap.rows, swap.columns) for swap in swaps]
    together: dict[tuple[str, str, str, Any], list[str]] = {}
    for (id, column), read in cells.items():
        row = known[id]
        alike = [one for (other, c), one in cells.items() if c == column]
        kin = [one for (other, c), one in cells.items() if c == column and known[other].family == row.family]
        told = [*_told(row, column, read, networks), *_odd(read, TABLE, alike), *_odd(read, FAMILY, kin)]
        for kind, value in told:
            by = row.family if kind in OF_A_FAMILY else id if kind in OF_A_ROW else ""
            together.setdefault((kind, column, by, value), []).append(id)
    place = list(known).index
    for (kind, column, _, value), ids in sorted(together.items(), key=lambda one: KINDS.index(one[0][0])):
        found.append(Finding(kind, column, tuple(sorted(ids, key=place)), value))
    return cells, found


def _told(row: Row, column: str, read: Read, networks: Mapping[str, Network]) -> Iterator[tuple[str, Any]]:
    if read.how == "unexplained":
        yield "unexplained", None
        return
    if read.imgsz != row.imgsz:
        yield "size", read.imgsz
    if read.taken["factor"] != 1.0:
        yield "factor", read.taken["factor"]
    if read.taken.get("scaled") and not reproduces(read, unscaled(read, networks[row.network])):
        yield "scaled", None
    if read.how == "cut":
        yield "cut", None


def _odd(read: Read, axes: Iterable[str], others: Sequence[Read]) -> Iterator[tuple[str, Any]]:
    """What a figure takes otherwise than most of the others; of two that are as frequent, the first is the rule."""
    if read.how == "unexplained":
        return
    for axis in axes:
        if axis in read.taken:
            usual, _ = Counter(one.taken[axis] for one in others if one.how != "unexplained").most_common(1)[0]
            if read.taken[axis] != usual:
                yield axis, read.taken[axis]


def unscaled(read: Read, net: Network) -> float:
    """FLOPs in G as the reading counts them, but at the input size itself, in place of the largest stride."""
    return value_of("flops", {**read.taken, "scaled": False}, net, read.imgsz)


def reproduces(read: Read, value: float) -> bool:
    """Whether a value is what was printed, rounded or cut off."""
    return bool(Cell(read.printed).match(np.array(value)) <= CUT)
