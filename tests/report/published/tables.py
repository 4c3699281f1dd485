"""Tables of consistent figures over the published networks, and mistakes planted in them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from counted import NETWORKS, counted

from ablab.report.published.column import Row
from ablab.report.published.conventions import BYTES, UNITS, Network, flops, numbers
from ablab.report.published.readings import Cell
from ablab.report.published.rows import load_rows

ROWS = load_rows()
SIZES = (320, 416, 512, 640)
DIGITS = {"flops": 2, "params": 2, "size": 1}  # after the point, as tables print them


def cell(column: str, value: float) -> Cell:
    digits = 1 if column == "flops" and value >= 10 else DIGITS[column]
    return Cell(Decimal(f"{value:.{digits}f}"))


class Consistent:
    """A table, by default over all published networks: each family counts in one way, and all sizes are of one kind."""

    def __init__(
        self, seed: int, files: Sequence[dict[str, Any]] = ROWS, networks: Mapping[str, Network] = NETWORKS
    ) -> None:
        self.draw, self.networks = random.Random(seed), networks
        families = sorted({row["family"] for row in files})
        self.count = {family: self.draw.choice(["K1", "K2", "K3"]) for family in families}
        self.form = {family: self.draw.choice(["trained", "folded"]) for family in families}
        self.counted = {family: self.draw.choice(["learnable", "folded", "stored"]) for family in families}
        self.dtype, self.unit = self.draw.choice(["fp16", "fp32"]), self.draw.choice(["MB", "MiB"])
        self.rows = [self.row(row) for row in files]

    def row(self, row: dict[str, Any]) -> Row:
        found = Row(row["id"], row["name"], row["recipe"], row["family"], row["source"], row["imgsz"], {})
        size = self.size(found, self.dtype, self.unit)
        params = numbers(self.networks[found.network], self.counted[found.family], False) / 1e6
        values = {"flops": self.flops(found, found.imgsz), "params": params, "size": size}
        return replace(found, cells={column: cell(column, value) for column, value in values.items()})

    def flops(self, row: Row, size: int) -> float:
        return flops(self.count[row.family], self.networks[row.network].at(self.form[row.family], size))

    def size(self, row: Row, dtype: str, unit: str) -> float:
        return numbers(self.networks[row.network], "stored", False) * BYTES[dtype] / UNITS[unit]

    def printed(self, column: str, values: dict[str, float]) -> list[Row]:
        """The table with other figures in some rows of a column."""
        return [
            replace(row, cells={**row.cells, column: cell(column, values[row.id])}) if row.id in values else row
            for row in self.rows
        ]


def differ(table: Consistent, rows: Sequence[Row]) -> set[str]:
    """The rows that print something else than they should."""
    return {before.id for before, after in zip(table.rows, rows, strict=True) if before.cells != after.cells}


def invented(seed: int) -> Consistent:
    """A table over networks that nobody built, of five families: one is as large as 0.6 M to 30 M parameters."""
    draw = random.Random(seed)
    networks: dict[str, Network] = {}
    files = []
    for family in range(5):
        for number in range(draw.randint(2, 4)):
            size, params = draw.choice(SIZES), int(10 ** draw.uniform(5.8, 7.5))
            at_stride = int(params * 10 ** draw.uniform(2.0, 3.0)) // (size // 32) ** 2  # convolution MACs
            bn, bias = (int(at_stride * 10 ** draw.uniform(*power)) for power in ((-2.6, -1.6), (-4, -3)))
            folded = params - int(params * 10 ** draw.uniform(-3, -2.2))
            area, name = (size // 32) ** 2, f"{family}.{number}"
            networks[name] = counted(size, params, folded, at_stride * area, bias * area, bn * area)
            for imgsz in draw.sample(SIZES, draw.choice([1, 1, 2])):
                row = {"id": f"{len(files):03d}", "name": name, "recipe": name, "family": str(family), "imgsz": imgsz}
                files.append(row | {"source": draw.choice(["first", "second"])})
    return Consistent(seed, files, networks)
