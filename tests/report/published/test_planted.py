"""Mistakes planted in tables of consistent figures are found exactly, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from counted import NETWORKS
from tables import Consistent, cell, differ, invented

from ablab.report.published.column import Row
from ablab.report.published.conventions import BYTES, UNITS, Network, numbers
from ablab.report.published.findings import Finding, find

TABLES = range(8)  # of each kind
Planted = tuple[list[Row], list[Finding]]


def found(
    rows: list[Row], networks: Mapping[str, Network] = NETWORKS
) -> list[tuple[str, str, tuple[str, ...], object]]:
    return plainly(find(rows, networks)[1])


def plainly(findings: list[Finding]) -> list[tuple[str, str, tuple[str, ...], object]]:
    rounded = [round(one.value, 9) if isinstance(one.value, float) else one.value for one in findings]
    return sorted((one.kind, one.column, one.rows, value) for one, value in zip(findings, rounded, strict=True))


def exchanged(rows: list[Row], by: dict[str, str]) -> list[Row]:
    cells = {row.id: row.cells for row in rows}
    return [replace(row, cells=cells[by.get(row.id, row.id)]) for row in rows]


def swapped(table: Consistent) -> Planted:
    first, second = sorted(table.draw.sample(table.rows, 2), key=lambda row: row.id)
    columns = tuple(name for name in ("flops", "params", "size") if first.cells[name] != second.cells[name])
    rows = exchanged(table.rows, {first.id: second.id, second.id: first.id})
    return rows, [Finding("swapped", "", (first.id, second.id), columns)]


def one_column_swapped(table: Consistent) -> Planted:
    first, second = sorted(table.draw.sample(table.rows, 2), key=lambda row: row.id)
    cells = {first.id: second.cells["flops"], second.id: first.cells["flops"]}
    rows = [replace(row, cells={**row.cells, "flops": cells.get(row.id, row.cells["flops"])}) for row in table.rows]
    return rows, [Finding("swapped", "", (first.id, second.id), ("flops",))]


def of_another_size(table: Consistent) -> Planted:
    row = table.draw.choice(table.rows)
    size = table.draw.choice(sorted({other.imgsz for other in table.rows} - {row.imgsz}))
    return table.printed("flops", {row.id: table.flops(row, size)}), [Finding("size", "flops", (row.id,), size)]


def off_by_a_factor(table: Consistent) -> Planted:
    """Over a family of three rows or more: two figures of two digits hold less than a factor does."""
    by = table.draw.choice([1.1, 1.2, 1.25, 1 / 0.9, 0.9, 2.0, 0.5])
    family = table.draw.choice(["NanoDet", "YOLOv5", "YOLOv5-Lite"])
    rows = [row for row in table.rows if row.family == family]
    if family == "YOLOv5-Lite":  # of which there are enough rows in either table
        printed_in = table.draw.choice(rows).table
        rows = [row for row in rows if row.table == printed_in]
    values = {row.id: by * table.flops(row, row.imgsz) for row in rows}
    return table.printed("flops", values), [Finding("factor", "flops", tuple(values), by)]


def in_another_unit(table: Consistent) -> Planted:
    unit = {"MB": "MiB", "MiB": "MB"}[table.unit]
    rows = table.printed("size", {row.id: table.size(row, table.dtype, unit) for row in some(table)})
    return rows, [Finding("unit", "size", tuple(sorted(differ(table, rows))), unit)]


def in_another_dtype(table: Consistent) -> Planted:
    dtype = {"fp16": "fp32", "fp32": "fp16"}[table.dtype]
    rows = table.printed("size", {row.id: table.size(row, dtype, table.unit) for row in some(table)})
    return rows, [Finding("dtype", "size", tuple(sorted(differ(table, rows))), dtype)]


def innocent(table: Consistent, rows: list[Row]) -> bool:
    """Whether a family's sizes read as those of files that hold less than everything, which is no mistake."""
    changed = differ(table, rows)
    families = {row.family for row in rows if row.id in changed}
    family = [row for row in rows if row.family in families]
    counts = ([numbers(table.networks[row.network], held, False) for row in family] for held in ("folded", "learnable"))
    bytes_each = BYTES[table.dtype] / UNITS[table.unit]
    return any(
        all(row.cells["size"] == cell("size", n * bytes_each) for row, n in zip(family, count, strict=True))
        for count in counts
    )


def some(table: Consistent) -> list[Row]:
    """A row, or its whole family."""
    row = table.draw.choice(table.rows)
    return [row] if table.draw.random() < 0.5 else [other for other in table.rows if other.family == row.family]


KINDS = [swapped, one_column_swapped, of_another_size, off_by_a_factor, in_another_unit, in_another_dtype]


@pytest.mark.parametrize("plant", KINDS, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("seed", TABLES)
def test_a_planted_mistake_is_found_and_nothing_else(seed: int, plant: Callable[[Consistent], Planted]) -> None:
    table = Consistent(1000 * KINDS.index(plant) + seed)
    rows, expected = plant(table)
    while not differ(table, rows) or innocent(table, rows):  # two figures that print alike; files that hold less
        rows, expected = plant(table)
    assert found(rows) == plainly(expected)


@pytest.mark.parametrize("seed", TABLES)
def test_nothing_is_found_in_consistent_tables(seed: int) -> None:
    assert found(Consistent(seed).rows) == []


@pytest.mark.parametrize("plant", [kind for kind in KINDS if kind is not off_by_a_factor], ids=lambda p: p.__name__)
@pytest.mark.parametrize("seed", range(2))
def test_it_takes_no_knowledge_of_our_networks(seed: int, plant: Callable[[Consistent], Planted]) -> None:
    table = invented(seed)
    assert found(table.rows, table.networks) == []
    rows, expected = plant(table)
    while not differ(table, rows):
        rows, expected = plant(table)
    assert found(rows, table.networks) == plainly(expected)


@pytest.mark.parametrize("seed", range(4))
def test_three_mistakes_at_once(seed: int) -> None:
    table = Consistent(seed)
    first, second, third, fourth = table.draw.sample(table.rows, 4)
    first, second = sorted([first, second], key=lambda row: row.id)
    size = next(size for size in (640, 320) if size != third.imgsz)
    unit = {"MB": "MiB", "MiB": "MB"}[table.unit]
    other = cell("size", table.size(fourth, table.dtype, unit))
    rows = table.printed("flops", {third.id: table.flops(third, size)})
    rows = [replace(row, cells={**row.cells, "size": other}) if row.id == fourth.id else row for row in rows]
    columns = tuple(name for name in ("flops", "params", "size") if first.cells[name] != second.cells[name])
    expected = [Finding("swapped", "", (first.id, second.id), columns), Finding("size", "flops", (third.id,), size)]
    expected += [Finding("unit", "size", (fourth.id,), unit)] if other != fourth.cells["size"] else []
    assert found(exchanged(rows, {first.id: second.id, second.id: first.id})) == plainly(expected)


@pytest.mark.parametrize("seed", range(4))
def test_three_rows_moved_round(seed: int) -> None:
    table = Consistent(seed)
    a, b, c = (row.id for row in table.draw.sample(table.rows, 3))
    kinds = [(kind, set(rows) <= {a, b, c}) for kind, _, rows, _ in found(exchanged(table.rows, {a: b, b: c, c: a}))]
    assert kinds == [("swapped", True)] * 2


def test_a_figure_from_nowhere_is_called_so() -> None:
    table = Consistent(0)
    row = table.rows[9]
    rows = table.printed("params", {row.id: 3.87})
    assert found(rows) == [("unexplained", "params", (row.id,), None)]


def test_digits_cut_off_are_no_grave_matter() -> None:
    table = Consistent(1)
    for row in table.rows:
        cut = int(table.flops(row, row.imgsz) * 100) / 100
        rows = table.printed("flops", {row.id: cut})
        if row.family == "YOLOv5-Lite" and differ(table, rows):  # others agree on how they are counted
            assert found(rows) == [("cut", "flops", (row.id,), None)]
            return
    raise AssertionError("no figure whose digits are cut prints otherwise: take another seed")
